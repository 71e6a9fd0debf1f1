"""`python dev.py run -- python -m benchmarks.saved`: the time that Lazy Decode says it saved, against two edits side by
side.

The same nodes run in this process, in turn, on a hole of 10 % and on a mask that covers the whole canvas, with the
shipped model and the steps that suit it. Claimed is the median of what the edits in the hole say, measured the
difference of the medians. Where other programs use the processor, times vary: the spread is printed, too.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from .holes import hole

Figures = dict[str, Any]
SHARE = 0.1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saved", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024], help="sides of the canvas in px")
    parser.add_argument("--rounds", type=int, default=5, help="edits of each kind, after one of each to warm up")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    edit = editing()
    rows = [compare(edit, side, args.rounds) for side in args.sizes]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def compare(edit: Callable[[torch.Tensor, torch.Tensor, int], Figures], side: int, rounds: int) -> Figures:
    """Edits in the hole and on all tokens in turn -> a row of figures in ms, printed as it comes."""
    image = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))
    masks = {"hole": hole("compact", SHARE, side)[None].float(), "all": torch.ones(1, side, side)}
    for mask in masks.values():
        edit(image, mask, 0)
    runs: dict[str, list[Figures]] = {name: [] for name in masks}
    for seed in range(1, rounds + 1):
        for name, mask in masks.items():
            runs[name].append(edit(image, mask, seed))
    lazy, full = (sorted(run["total_ms"] for run in runs[name]) for name in masks)
    steps = {name: median(run["steps"] * run["step_ms"] for run in runs[name]) for name in masks}
    row = {
        "side": side,
        "tokens": [runs["hole"][0]["hole_tokens"], runs["all"][0]["hole_tokens"]],
        "claimed_ms": median(run["saved_ms"] for run in runs["hole"]),
        "measured_ms": median(full) - median(lazy),
        "measured_steps_ms": steps["all"] - steps["hole"],
        "lazy_ms": lazy,
        "full_ms": full,
    }
    ratio = row["claimed_ms"] / row["measured_ms"]
    print(
        f"{side:5} px, {row['tokens'][0]} of {row['tokens'][1]} tokens: claimed {row['claimed_ms']:.0f} ms, "
        f"measured {row['measured_ms']:.0f} ms (steps alone {row['measured_steps_ms']:.0f}), ratio {ratio:.2f}; "
        f"edits {lazy[0]:.0f} to {lazy[-1]:.0f} and {full[0]:.0f} to {full[-1]:.0f} ms",
        flush=True,
    )
    return row | {"ratio": ratio}


def editing() -> Callable[[torch.Tensor, torch.Tensor, int], Figures]:
    """The pack's nodes inside this process, on the CPU -> (IMAGE, MASK, seed) to what Lazy Decode tells the page."""
    tests = Path(__file__).resolve().parent.parent / "tests"
    sys.path[:0] = [str(tests), str(tests / "support")]
    conftest = importlib.import_module("conftest")  # ComfyUI's folder comes first on the path from here on
    importlib.import_module("comfy.options")
    importlib.import_module("comfy.cli_args").args.cpu = True
    importlib.import_module("comfy.utils").set_progress_bar_enabled(False)
    pack = conftest.pack.__wrapped__(importlib.import_module("comfy"))
    seen_smaller: Any = importlib.import_module(f"{pack.__name__}.lazy_core.downscale")
    seen_smaller.LARGEST = float("inf")  # never: all tokens are all tokens
    lazy = importlib.import_module("host_graphs").Lazy(pack)
    prompt = lazy.text("red apple")

    def edit(image: torch.Tensor, mask: torch.Tensor, seed: int) -> Figures:
        context = lazy.encode(image, mask)[0]
        widgets = {
            "seed": seed,
            "steps": 0,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
            "blend": "auto",
        }
        links = {
            "model": lazy.model,
            "vae": lazy.vae,
            "context": context,
            "positive": prompt,
            "negative": lazy.negative,
        }
        return lazy.call("LazyDecode", **links, **widgets).ui["lazydiffusion"][0]

    return edit


if __name__ == "__main__":
    raise SystemExit(main())
