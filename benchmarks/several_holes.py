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
from torch import Tensor
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
    parser.add_argument("--prompts", action="store_true", help="a prompt for each of four holes, against four edits")
    parser.add_argument(
        "--rounds", type=int, default=5, help="medians of so many, one and two holes in turn, after one to warm up"
    )
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    if args.prompts:
        return four_prompts(args)
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


PROMPTS = ("a red apple", "a sunflower", "a panda", "a pizza")


def four_prompts(args: argparse.Namespace) -> int:
    """Time four edits in a row, each on the last one's result, and the same four holes in one pass."""
    editor, image, side = LazyEditor.load(MODEL), torch.rand(1, 3, args.size, args.size), 2 * HOLE
    places = [int(args.size * share) - side // 2 for share in (0.25, 0.75)]
    holes = []
    for top, left in ((top, left) for top in places for left in places):
        holes.append(torch.zeros(1, args.size, args.size))
        holes[-1][:, top : top + side, left : left + side] = 1

    def row(seed: int) -> Tensor:
        canvas = image
        for prompt, hole in zip(PROMPTS, holes, strict=True):
            canvas = editor.decode(editor.encode(canvas, hole), prompt, seed, args.steps)
        return canvas

    def once(seed: int) -> Tensor:
        context = editor.encode(image, torch.stack(holes).amax(0))
        return editor.decode(context, "", seed, args.steps, regions=list(zip(PROMPTS, holes, strict=True)))

    seconds = []
    for seed in range(args.rounds + 1):  # the first one warms up
        times = []
        for work in (row, once):
            begin = time.perf_counter()
            work(seed)
            times.append(time.perf_counter() - begin)
        seconds.append(times)
    four, one = (median(column) for column in zip(*seconds[1:], strict=True))
    ratio = median(one / four for four, one in seconds[1:])
    print(f"{args.size} px, four holes of {side} px, {args.steps} steps, medians of {args.rounds}:")
    print(f"four edits in a row {four:.3f} s, four prompts in one pass {one:.3f} s: {ratio:.2f}")
    if args.json:
        figures = {"size": args.size, "steps": args.steps, "row": four, "pass": one, "ratio": ratio}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
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
