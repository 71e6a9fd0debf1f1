"""Does anything grow? `python dev.py run -- python -m devtools.soak [--edits 1000] [--plot docs/soak.png]`.

One ComfyUI makes so many edits with canvases, masks, prompts, sizes and seeds drawn at random. Between them the model
is swapped, edits are cancelled, `/free` is called, and faults are put in (a mask of another size, a broken checkpoint,
a missing picture, values that are not offered). Every picture is looked at: its size, and its pixels outside the mask,
which are the canvas's own. After every fault the next edit has to succeed. The server's memory is read after each edit;
the slope over the second half is what grows. What the pack keeps between edits is meant to grow up to its limits, and
`/free` empties it: both come in the first half, whose second part fills it with ever new canvases of the largest size.

What is measured is what the server holds. glibc keeps what was freed, up to 64 MB at the top of each of its heaps, and
raises that limit by itself: once in some hundred edits it takes such a step (in one run +64 MB at the 743rd edit, else
flat). The server is started with fixed limits, so that what is freed is given back.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .client import Prompt, PromptError, failure_of
from .graphs import MODEL, edit_graph, node
from .host import find_host
from .places import ROOT, output
from .server import Server, throwaway

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576", "MALLOC_ARENA_MAX": "2"}
OTHER, BROKEN = "soak-other.safetensors", "soak-broken.safetensors"
SIDES = (48, 64, 96, 150, 200, 256, 320, 512)
WORDS = (
    "red apple",
    "panda",
    "熊猫",
    "a sunflower",
    "empty background",
    "balloon, rocket and a zebra",
    "",
    "rocket " * 40,
)
CANCELLED, FREED, FAULTS, SWAPPED, SAME = 0.03, 0.05, 0.05, 0.08, 0.3  # shares of edits
HISTORY = 25  # edits after which the host's own list of past prompts is emptied: it grows without us


@dataclass
class Report:
    """What happened, and the server's resident memory in bytes after each edit."""

    memory: list[int] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def slope(self) -> float:
        """MB that 100 edits of the second half add, by least squares."""
        import numpy as np

        half = self.memory[len(self.memory) // 2 :]
        return float(np.polyfit(range(len(half)), np.array(half) / 2**20, 1)[0] * 100) if len(half) > 1 else 0.0

    def summary(self) -> str:
        first, last, most = (value / 2**20 for value in (self.memory[0], self.memory[-1], max(self.memory)))
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        return (
            f"{counts} in {self.seconds:.0f} s; {first:.0f} MB after the first edit, {last:.0f} after the last,"
            f" {most:.0f} at most; {self.slope:+.2f} MB for 100 edits in the second half; {len(self.wrong)} wrong."
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--edits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=float, default=1.0, help="MB that 100 edits of the second half may add")
    parser.add_argument("--plot", type=Path, default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    from tqdm import tqdm

    os.environ.update({name: os.environ.get(name, value) for name, value in ALLOCATOR.items()})
    with throwaway(find_host(Path(sys.executable)), "soak", output("soak") / "server.log") as server:
        report = Soak(server, args.seed).run(args.edits, tqdm)
    print(report.summary())
    print("\n".join(report.wrong[:20]))
    if args.json:
        record = {
            "seed": args.seed,
            "slope": report.slope,
            "done": report.done,
            "wrong": report.wrong,
            "memory": report.memory,
        }
        args.json.write_text(json.dumps(record) + "\n")
    if args.plot:
        draw(report, args.plot)
    return 1 if report.wrong or report.slope > args.most else 0


class Soak:
    """Edits on one server, all drawn from one seed."""

    def __init__(self, server: Server, seed: int):
        self.server, self.client, self.rng = server, server.client, random.Random(seed)
        self.model, self.canvas, self.number = MODEL, None, 0
        self.may_free = self.filling = False
        self.report = Report()
        add_models(server.base / "models" / "lazydiffusion")

    def run(self, edits: int, bar: Callable[[Any], Any] = iter) -> Report:
        import psutil

        assert self.server.process is not None
        process, begin = psutil.Process(self.server.process.pid), time.monotonic()
        for self.number in bar(range(edits)):
            self.may_free, self.filling = self.number < edits // 4, edits // 4 <= self.number < edits // 2
            try:
                self.step()
            except (PromptError, AssertionError, OSError) as error:
                self.report.wrong.append(f"edit {self.number}: {error}")
            self.client.check_alive()
            self.report.memory.append(process.memory_info().rss)
        self.report.seconds = time.monotonic() - begin
        return self.report

    def step(self) -> None:
        if self.number % HISTORY == HISTORY - 1:
            self.client.post("/history", {"clear": True})
        if self.rng.random() < FREED and self.may_free:
            self.client.post("/free", {"unload_models": True, "free_memory": True})
            self.report.done["times freed"] += 1
        if self.rng.random() < SWAPPED:
            self.model = OTHER if self.model == MODEL else MODEL
            self.report.done["models swapped"] += 1
        kind = self.rng.random()
        if kind < CANCELLED:
            self.cancel()
        elif kind < CANCELLED + FAULTS:
            self.fault()
        self.edit()

    def edit(self) -> None:
        """One whole edit, and a look at what came out."""
        import numpy as np

        prompt, canvas, mask = self.prompt()
        [entry] = self.client.run(prompt)["save"]["images"]
        result = picture_of(self.client.view(entry))
        assert result.shape == canvas.shape, f"a picture of {result.shape}, expected {canvas.shape}"
        outside = mask == 0
        assert np.array_equal(result[outside], canvas[outside]), "pixels outside the mask changed"
        self.report.done["edits"] += 1
        for folder in ("temp", "output"):
            for file in (self.server.base / folder).rglob("*.png"):
                file.unlink()

    def cancel(self) -> None:
        """An edit that is interrupted while it runs, or before, or just after."""
        number = self.client.submit({**self.prompt()[0]})
        time.sleep(self.rng.random() * 0.5)
        self.client.interrupt()
        self.client.wait(number)
        self.report.done["cancelled"] += 1

    def fault(self) -> None:
        """Something that has to fail with a sentence that names a node's input or file."""
        import numpy as np

        prompt, *_ = self.prompt()
        kind = self.rng.choice(("size", "checkpoint", "picture", "sampler", "cfg"))
        if kind == "size":
            prompt["mask"]["inputs"]["image"] = self.upload("other size.png", np.full((48, 40, 3), 255, np.uint8))
        elif kind == "checkpoint":
            prompt["model"]["inputs"]["model_name"] = BROKEN
        elif kind == "picture":
            prompt["canvas"]["inputs"]["image"] = "no such picture.png"
        elif kind == "sampler":
            prompt["decode"]["inputs"]["sampler_name"] = "no such sampler"
        else:
            prompt["decode"]["inputs"]["cfg"] = "not a number"
        try:
            failure = failure_of(self.client.wait(self.client.submit(prompt)))
        except PromptError as refused:
            failure = refused.details
        assert failure, f"a fault of the kind '{kind}' passed"
        self.report.done["faults"] += 1

    def prompt(self) -> tuple[Prompt, Any, Any]:
        """A graph in API format, with its canvas [H, W, 3] and mask [H, W], both bytes."""
        rng = self.rng
        if self.canvas is None or self.filling or rng.random() > SAME:
            height, width = (SIDES[-1], SIDES[-1]) if self.filling else (rng.choice(SIDES), rng.choice(SIDES))
            self.canvas = self.upload("canvas.png", drawn := random_canvas(rng, height, width)), drawn
        name, canvas = self.canvas
        mask = random_mask(rng, *canvas.shape[:2])
        file = self.upload("mask.png", mask[..., None].repeat(3, 2))
        widgets = {
            "seed": rng.randrange(2**32),
            "steps": rng.choice((0, 1, 2, 4)),
            "cfg": rng.choice((1.0, 3.0)),
            "sampler_name": rng.choice(("euler", "euler_ancestral", "dpmpp_2m", "uni_pc")),
            "denoise": rng.choice((1.0, 1.0, 0.5)),
            "blend": rng.choice(("auto", "none", "feather", "poisson")),
        }
        graph = edit_graph(name, file, prompt=rng.choice(WORDS), model_name=self.model, **widgets)
        graph["save"] = node("PreviewImage", images=["decode", 0])
        return graph, canvas, mask

    def upload(self, name: str, pixels: Any) -> str:
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        return self.client.upload_image(name, stream.getvalue())


def random_canvas(rng: random.Random, height: int, width: int) -> Any:
    """A gradient with boxes and grain [H, W, 3], bytes."""
    import numpy as np

    noise = np.random.default_rng(rng.randrange(2**32))
    ramp = np.linspace(0, 1, height)[:, None, None] * noise.uniform(0, 255, 3) + np.linspace(0, 1, width)[
        :, None
    ] * noise.uniform(0, 120, 3)
    for _ in range(rng.randrange(6)):
        y, x = rng.randrange(height), rng.randrange(width)
        ramp[y : y + rng.randrange(1, height), x : x + rng.randrange(1, width)] = noise.uniform(0, 255, 3)
    return (ramp + noise.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)


def random_mask(rng: random.Random, height: int, width: int) -> Any:
    """One to three holes [H, W], bytes: boxes and ellipses, hard or soft; now and then none, or the whole canvas."""
    import numpy as np

    mask, kind = np.zeros((height, width), np.uint8), rng.random()
    if kind < 0.04:
        return mask + (255 if kind < 0.02 else 0)
    rows, cols = np.mgrid[:height, :width]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        high, wide = max(1, rng.randrange(height) // 2), max(1, rng.randrange(width) // 2)
        top, left = rng.randrange(height - high + 1), rng.randrange(width - wide + 1)
        inside = (rows >= top) & (rows < top + high) & (cols >= left) & (cols < left + wide)
        if rng.random() < 0.5:
            inside &= ((rows - top - high / 2) / high) ** 2 + ((cols - left - wide / 2) / wide) ** 2 <= 0.25
        mask[inside] = 255 if rng.random() < 0.8 else rng.randrange(20, 255)
    # A soft mask's tail below the pack's floor is outside.
    return np.where(mask > 4, mask, 0).astype(np.uint8)


def picture_of(png: bytes) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def add_models(folder: Path) -> None:
    """A second model of ours, and a file that is none, beside the shipped one."""
    import torch

    from lazy_core.checkpoint import load_model, save_checkpoint

    folder.mkdir(parents=True, exist_ok=True)
    model, checkpoint = load_model(ROOT / "models" / MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.001)
    save_checkpoint(folder / OTHER, model, checkpoint.tokenizer)
    (folder / BROKEN).write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{'broken")


def draw(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([value / 2**20 for value in report.memory], linewidth=0.8)
    axes.set(
        xlabel="edits", ylabel="server's memory in MB", title=f"{report.slope:+.2f} MB for 100 edits in the second half"
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
