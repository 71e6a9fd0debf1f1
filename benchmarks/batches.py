"""`python dev.py run -- python -m benchmarks.batches`: edits a second of a batch, in each way of making them.

The same manifest (canvases, each with a hole and several prompts) is made through the nodes of a running ComfyUI, a
prompt after the other with its caches, and by `python -m batch run`: on that server, in one process, and where Ray Data
is installed on a cluster of this machine. In turns. The server is warm before the clock runs; of the commands the rate
after their first pack counts, and the seconds up to the first result are told.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from PIL import Image

from batch.comfy import Comfy
from batch.servers import MODEL
from batch.workflows import HOLE, PICTURE, filled, own_workflow
from devtools.client import Client
from devtools.host import find_host
from devtools.places import ROOT, output
from devtools.server import throwaway
from lazy_core.context_pack import EDITS
from lazy_core.manifest.edits import read_manifest
from lazy_core.manifest.fields import Edit

from .holes import hole
from .server import PROMPTS, Listener

SHARE = 0.1  # of a canvas
Way = Callable[[Path], float]
"""Makes the edits of the manifest into a folder -> edits a second."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batches", description=(__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    )
    parser.add_argument("--canvases", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="px a side; the hole is a tenth of the canvas")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory() as folder,
        throwaway(find_host(Path(sys.executable)), "batches", output("batches") / "server.log") as server,
    ):
        manifest = written(Path(folder), args.canvases, args.size)
        edits = read_manifest(manifest, {"steps": args.steps}).edits
        ways = ways_of(manifest, edits, server.client, args.steps)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds):
            for name, way in ways.items():
                rates[name].append(way(Path(folder) / f"{name} {number}".replace(" ", "_")))
                print(f"round {number + 1}, {name}: {rates[name][-1]:.2f} edits a second", flush=True)
    first, *others = rates
    rows = [{"way": first, "edits_per_second": median(rates[first]), "ratio": 1.0}]
    for name in others:
        ratio = median(mine / theirs for mine, theirs in zip(rates[name], rates[first], strict=True))
        rows.append({"way": name, "edits_per_second": median(rates[name]), "ratio": ratio})
    print(f"{len(edits)} edits of {args.canvases} canvases of {args.size} px, {args.steps} steps, medians:")
    for row in rows:
        print(f"{row['way']:34}{row['edits_per_second']:8.2f} edits a second{row['ratio']:8.2f}x")
    if args.json:
        figures = {"edits": len(edits), "canvases": args.canvases, "size": args.size, "steps": args.steps, "rows": rows}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def written(folder: Path, canvases: int, size: int) -> Path:
    """A manifest with soft random pictures, a hole in the middle of each, all prompts for it."""
    for number in range(canvases):
        noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        picture = F.interpolate(noise, size=(size, size), mode="bicubic").clamp(0, 1)[0]
        saved(picture, folder / f"{number}.png")
    saved(hole("compact", SHARE, size)[None].float(), folder / "mask.png")
    rows = [{"image": f"{number}.png", "mask": "mask.png", "prompt": PROMPTS} for number in range(canvases)]
    path = folder / "edits.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def saved(picture: torch.Tensor, path: Path) -> None:
    """[C, H, W] in 0..1 as 8 bits."""
    values = (picture * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(path)


def ways_of(manifest: Path, edits: list[Edit], client: Client, steps: int) -> dict[str, Way]:
    """By name; the first is what the others are compared with. Warms the server up."""
    comfy, listener, workflow = Comfy(client.address), Listener(client), own_workflow(MODEL)
    files = [file for edit in edits for file in (edit.image, edit.mask) if isinstance(file, Path)]
    names = {file: comfy.upload(file.name, file.read_bytes()) for file in dict.fromkeys(files)}
    seeds = iter(range(1_000_000, 2_000_000))  # never the same again, or the server's cache would answer

    def through_nodes(_: Path) -> float:
        begin = time.perf_counter()
        for edit in edits:
            picture, mask = (names[Path(str(each))] for each in (edit.image, edit.mask))
            prompt = filled(workflow, edit, {PICTURE: picture, HOLE: mask}, own=True)[0]
            prompt["decode"]["inputs"]["seed"] = next(seeds)
            listener.run(prompt)
        return len(edits) / (time.perf_counter() - begin)

    def command(*flags: str, workers: int = 1) -> Way:
        return lambda folder: made(manifest, folder, len(edits), steps, next(seeds), flags, workers * EDITS)

    through_nodes(Path())
    ways: dict[str, Way] = {"nodes, one prompt after the other": through_nodes}
    ways["batch, on that server"] = command("--server", client.address)
    ways["batch, one process"] = command()
    if importlib.util.find_spec("ray") is not None:
        for workers in (1, 2):
            ray = ("--ray", "auto", "--workers", str(workers), "--threads", "1")
            ways[f"batch, Ray, {workers} workers of one thread"] = command(*ray, workers=workers)
    return ways


def made(manifest: Path, folder: Path, count: int, steps: int, seed: int, flags: tuple[str, ...], first: int) -> float:
    """Run the command -> edits a second after the `first` ones: those of its workers' first packs, which are written
    when all of them are made.
    """
    run = [sys.executable, "-m", "batch", "run", str(manifest), "--output", str(folder), "--json"]
    begin, command = time.time(), [*run, "--steps", str(steps), "--seed", str(seed), *flags]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    ends = sorted(file.stat().st_mtime for file in folder.glob("*.png"))
    if len(ends) != count:
        raise RuntimeError(f"{len(ends)} of {count} edits were made: {told}")
    print(f"  {ends[0] - begin:.1f} s to the first result")
    return (count - first) / (ends[-1] - ends[first - 1])


if __name__ == "__main__":
    raise SystemExit(main())
