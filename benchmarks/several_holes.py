"""`python -m benchmarks.several_holes`: what two far holes cost against one, with the shipped model: counted
operations, CPU time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from lazy_core.editor import LazyEditor

MODEL = Path(__file__).parent.parent / "models" / "fluent-small.safetensors"
HOLE = 48  # px a side


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.several_holes", description=(__doc__ or "").partition(": ")[2]
    )
    parser.add_argument("--size", type=int, default=2048, help="px a side")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument(
        "--rounds", type=int, default=5, help="medians of so many, one and two holes in turn, after one to warm up"
    )
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    works = stages(args.size, args.steps)
    rows = [measure(name, pair, args.rounds) for name, pair in works.items()]
    print(
        f"{args.size} px, holes of {HOLE} px in opposite corners, {args.steps} steps; CPU seconds, medians of"
        f" {args.rounds}"
    )
    print(f"{'':10}{'operations':>12}{'one':>10}{'two':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['stage']:10}{row['operations']:>12.2f}{row['one']:>10.3f}{row['two']:>10.3f}{row['seconds']:>8.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps({"size": args.size, "steps": args.steps, "rows": rows}, indent=1) + "\n")
    return 0


def stages(size: int, steps: int) -> dict[str, list[Callable[[], object]]]:
    """Encoding and decoding, each with one hole and with two."""
    editor, image = LazyEditor.load(MODEL), torch.rand(1, 3, size, size)
    one, two = torch.zeros(1, size, size), torch.zeros(1, size, size)
    one[:, HOLE : 2 * HOLE, HOLE : 2 * HOLE] = two[:, HOLE : 2 * HOLE, HOLE : 2 * HOLE] = 1
    two[:, -2 * HOLE : -HOLE, -2 * HOLE : -HOLE] = 1
    masks = (one, two)
    contexts = [editor.encode(image, mask) for mask in masks]
    return {
        "encode": [lambda mask=mask: editor.encode(image, mask) for mask in masks],
        "decode": [lambda context=context: editor.decode(context, "a red apple", steps=steps) for context in contexts],
    }


def measure(stage: str, pair: list[Callable[[], object]], rounds: int) -> dict[str, float | str]:
    """Ratios of two holes to one: `operations` of networks counted, CPU `seconds` measured in turn."""
    counts = []
    for work in pair:  # this warms up as well
        with FlopCounterMode(display=False) as counter:
            work()
        counts.append(counter.get_total_flops())
    seconds = [[cpu_seconds(work) for work in pair] for _ in range(rounds)]
    one, two = (median(column) for column in zip(*seconds, strict=True))
    ratio = median(two / one for one, two in seconds)
    return {"stage": stage, "operations": counts[1] / counts[0], "one": one, "two": two, "seconds": ratio}


def cpu_seconds(work: Callable[[], object]) -> float:
    """Of all threads of this process."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


if __name__ == "__main__":
    raise SystemExit(main())
