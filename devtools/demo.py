"""`dev.py demo`: the shipped workflows in a running ComfyUI, their pictures and their figures."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from .client import Client, Prompt
from .environment import tell
from .places import ROOT, output
from .png import read_png, same_outside
from .problem import Problem
from .server import throwaway

WORKFLOWS = ROOT / "tests" / "api"  # the shipped workflows in the API's format
RUNS = 5  # measured edits of each kind, after one of each to warm up

Figures = dict[str, Any]
Outputs = dict[str, dict[str, Any]]


def run(host: Path, as_json: bool) -> int:
    """Run the demo -> exit code. Progress goes to stderr, the table or the JSON to stdout. Raises Problem."""
    folder = output("demo")
    tell("Starting ComfyUI.")
    with throwaway(host, "demo", folder / "server.log") as server:
        figures = make_figures(server.client, folder)
    print(json.dumps(figures, indent=2) if as_json else table(figures))
    if not figures["outside_identical"]:
        raise Problem("The demo ran, but pixels outside a mask changed: compare the pictures in output/demo.")
    return 0


def make_figures(client: Client, folder: Path) -> Figures:
    figures: Figures = {"host_version": client.version()}
    identical_chain = edit_after_edit(client, load_workflow("2_edit_after_edit"), folder)
    figures |= measure(client, load_workflow("1_first_edit"), folder)
    figures["outside_identical"] = identical_chain and figures["outside_identical"]
    names = ("canvas", "mask", "result", "edit_after_edit")
    return figures | {"images": [(folder / f"{name}.png").relative_to(ROOT).as_posix() for name in names]}


def load_workflow(name: str) -> Prompt:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def edit_after_edit(client: Client, prompt: Prompt, folder: Path) -> bool:
    """Blank canvas and every edit side by side into edit_after_edit.png -> whether each edit kept all outside its
    mask.
    """
    edits = list(edits_of(prompt))
    tell(f"Edit after edit: {len(edits)} edits on a blank canvas.")
    strip = edits[0][0]
    for index, edit in enumerate(edits):
        save_edit(prompt, edit, f" {index}")
        strip = stitch(prompt, f"strip {index}", strip, edit[2])
    save(prompt, "strip", strip)
    outputs = client.run(prompt)
    (folder / "edit_after_edit.png").write_bytes(fetch(client, outputs, "strip"))
    return all(kept_outside(client, outputs, f" {index}") for index in range(len(edits)))


def measure(client: Client, prompt: Prompt, folder: Path) -> Figures:
    """One edit with other seeds, in its hole and on all tokens in turn -> medians. The pictures are those of the
    workflow's own seed.
    """
    save_edit(prompt, next(edits_of(prompt)))
    everything = on_all_tokens(prompt)
    client.run(
        on_inverted_canvas(prompt)
    )  # warm-up on another canvas: the measured one must be new to the encoder's cache
    before = figures_of(prompt, client.run(on_inverted_canvas(everything)))
    lazy: list[Figures] = []
    full: list[Figures] = []
    for index in range(RUNS):
        tell(f"Measured edit {index + 1} of {RUNS}: in the hole, then on all tokens.")
        outputs = client.run(with_seed(prompt, index))
        if index == 0:
            pictures = outputs
        lazy.append(figures_of(prompt, outputs))
        full.append(figures_of(prompt, client.run(with_seed(everything, index))))
    for name in ("canvas", "mask", "result"):
        (folder / f"{name}.png").write_bytes(fetch(client, pictures, name))
    return summary(before, lazy, full) | {"outside_identical": kept_outside(client, pictures, "")}


def summary(before: Figures, lazy: list[Figures], full: list[Figures]) -> Figures:
    """The figures of `lazy` edits, each followed by one of `full`, and `before` them all another one."""

    def middle(runs: list[Figures], key: str) -> float:
        return round(median(run[key] for run in runs), 3)

    # The server counts all runs of its encoder: take what each edit in the hole added. (A cached node reports an old
    # count.)
    added = [now["encoder_runs"] - then["encoder_runs"] for then, now in zip([before, *full], lazy)]
    figures = {
        "hole_fraction": lazy[0]["hole_fraction"],
        "hole_tokens": lazy[0]["hole_tokens"],
        "all_tokens": lazy[0]["all_tokens"],
        "edits": len(lazy),
        "steps": lazy[0]["steps"],
        "encode_ms": round(lazy[0]["encode_ms"], 3),
        "encoder_runs": sum(max(0, runs) for runs in added),
        "step_ms": middle(lazy, "step_ms"),
        "full_step_ms": middle(full, "step_ms"),
        "edit_ms": middle(lazy, "total_ms"),
        "full_edit_ms": middle(full, "total_ms"),
    }
    return figures | {"step_ratio": round(figures["full_step_ms"] / figures["step_ms"], 2)}


def table(figures: Figures) -> str:
    f = figures
    rows = [
        ("", "in the hole", "on all tokens", "ratio"),
        ("tokens", f["hole_tokens"], f["all_tokens"], f"{f['all_tokens'] / f['hole_tokens']:.1f}"),
        ("ms per step", f"{f['step_ms']:.1f}", f"{f['full_step_ms']:.1f}", f"{f['step_ratio']:.1f}"),
        (
            f"ms per edit, {f['steps']} steps",
            f"{f['edit_ms']:.0f}",
            f"{f['full_edit_ms']:.0f}",
            f"{f['full_edit_ms'] / f['edit_ms']:.1f}",
        ),
    ]
    lines = [f"{name:26}{hole!s:>13}{full!s:>15}{ratio:>8}" for name, hole, full, ratio in rows]
    lines.append(
        f"The encoder ran {f['encoder_runs']} time(s) for {f['edits']} edits in the hole, {f['encode_ms']:.1f} ms."
    )
    lines.append(
        f"Outside the masks: {'bit-identical' if f['outside_identical'] else 'CHANGED'}. ComfyUI {f['host_version']}."
    )
    return "\n".join([*lines, *f["images"]])


# Workflows: small changes to a graph in the API's format. A link is [node id, output number].

Link = list[Any]


def edits_of(prompt: Prompt) -> Iterator[tuple[Link, Link, Link]]:
    """Canvas, mask and result of each edit, in the file's order."""
    for name, decode in list(prompt.items()):
        if decode["class_type"] == "LazyDecode":
            encode = prompt[decode["inputs"]["context"][0]]["inputs"]
            yield encode["image"], encode["mask"], [name, 0]


def save(prompt: Prompt, name: str, image: Link) -> None:
    prompt[name] = {"class_type": "SaveImage", "inputs": {"images": image, "filename_prefix": name.replace(" ", "-")}}


def save_edit(prompt: Prompt, edit: tuple[Link, Link, Link], suffix: str = "") -> None:
    """Canvas, mask and result of an edit, saved under these names."""
    canvas, mask, result = edit
    save(prompt, f"canvas{suffix}", canvas)
    save(prompt, f"mask{suffix}", mask_image(prompt, f"mask image{suffix}", mask))
    save(prompt, f"result{suffix}", result)


def mask_image(prompt: Prompt, name: str, mask: Link) -> Link:
    prompt[name] = {"class_type": "MaskToImage", "inputs": {"mask": mask}}
    return [name, 0]


def stitch(prompt: Prompt, name: str, left: Link, right: Link) -> Link:
    look = {"direction": "right", "match_image_size": False, "spacing_width": 8, "spacing_color": "white"}
    prompt[name] = {"class_type": "ImageStitch", "inputs": {"image1": left, "image2": right, **look}}
    return [name, 0]


def with_seed(prompt: Prompt, more: int) -> Prompt:
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] == "LazyDecode":
            node["inputs"]["seed"] += more
    return changed


def on_all_tokens(prompt: Prompt) -> Prompt:
    """The same edit with every pixel masked."""
    changed = copy.deepcopy(prompt)
    encode = changed[only(changed, "LazyEncodeContext")]
    changed["inverse"] = {"class_type": "InvertMask", "inputs": {"mask": encode["inputs"]["mask"]}}
    both = {"destination": encode["inputs"]["mask"], "source": ["inverse", 0], "x": 0, "y": 0, "operation": "add"}
    changed["everything"] = {"class_type": "MaskComposite", "inputs": both}
    encode["inputs"]["mask"] = ["everything", 0]
    return changed


def on_inverted_canvas(prompt: Prompt) -> Prompt:
    changed = copy.deepcopy(prompt)
    encode = changed[only(changed, "LazyEncodeContext")]
    changed["inverted"] = {"class_type": "ImageInvert", "inputs": {"image": encode["inputs"]["image"]}}
    encode["inputs"]["image"] = ["inverted", 0]
    return changed


def only(prompt: Prompt, class_type: str) -> str:
    """The id of the one node of this class."""
    return next(name for name, node in prompt.items() if node["class_type"] == class_type)


# Outputs of a run


def figures_of(prompt: Prompt, outputs: Outputs) -> Figures:
    """What Encode Context and Lazy Decode report of a run. Raises Problem if they report nothing."""
    try:
        return (
            outputs[only(prompt, "LazyEncodeContext")]["lazydiffusion"][0]
            | outputs[only(prompt, "LazyDecode")]["lazydiffusion"][0]
        )
    except KeyError as error:
        raise Problem(f"ComfyUI ran the workflow, but its nodes reported no figures ({error} is missing).") from None


def fetch(client: Client, outputs: Outputs, node: str) -> bytes:
    return client.view(outputs[node]["images"][0])


def kept_outside(client: Client, outputs: Outputs, suffix: str) -> bool:
    canvas, mask, result = (read_png(fetch(client, outputs, name + suffix)) for name in ("canvas", "mask", "result"))
    return same_outside(canvas, result, mask)
