"""`python dev.py run -- python -m benchmarks.points`: stock models made lazy, at the masks and steps of others' papers.

A pass over all tokens and a sparse step are timed beside the host's own step, in turns in one run, at true width and
few blocks (`benchmarks.stock`); what an edit of so many steps takes follows from how many of each its plan has. Masks
of 6.4, 15.9 and 35.4 % at 8 steps are those of HiLo-Token (arXiv 2606.13898), which reports 3.13, 2.59 and 1.67 times
on an A100 for a trained network.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import torch

from .stock import SHAPES, Case, load_pack, loaded, parser_of, written

SHARES, STEPS = (0.064, 0.1, 0.159, 0.354), (4, 8, 20, 28)
SPARSE = 4  # steps of a lazy run: one pass over all tokens is made before the first


def main(argv: list[str] | None = None) -> int:
    parser = parser_of("points", __doc__)
    parser.add_argument("--holes", type=float, nargs="+", default=SHARES, help="shares of the canvas")
    args = parser.parse_args(argv)
    load_pack()
    rows = []
    with torch.inference_mode():
        for name in args.families:
            for share in args.holes:
                args.hole = share
                rows.append(measure(name, args))
                print(line_of(rows[-1]), flush=True)
    return written(rows, args)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds of the host's step, of a pass over all tokens in a lazy run, and of a sparse step; and
    what they make of edits.
    """
    case = Case(SHAPES[name], args)
    policies = loaded("nodes.stock.families").family_of(case.model).policies
    stock: list[float] = []
    full: list[float] = []
    sparse: list[float] = []
    for which in range(args.rounds + 1):
        own = case.run("stock", 2)
        first, *rest = case.run("fast", SPARSE)
        if which:  # the first one warms up
            stock += own
            sparse += rest
            full.append(first - median(rest))
    host, whole, part = median(stock), median(full), median(sparse)
    row = {"family": name, "depth": SHAPES[name].depth, "size": args.size, "hole": args.hole}
    row |= {"hole_tokens": case.hole, "all_tokens": case.total, "rounds": args.rounds}
    row |= {"host_step_ms": round(host, 1), "full_pass_ms": round(whole, 1), "sparse_step_ms": round(part, 1)}
    row["step_ratio"] = round(host / part, 2)
    for reuse in ("fast", "balanced"):
        for steps in STEPS:
            levels = policies[reuse].levels(steps)
            lazy = len(levels) * whole + (steps - (0 in levels)) * part
            row[f"{reuse}, {steps} steps"] = round(max(steps * host / lazy, 1.0), 2)  # else it is the host's own run
    return row


def line_of(row: dict[str, Any]) -> str:
    edits = " ".join(f"{row[f'fast, {steps} steps']}/{row[f'balanced, {steps} steps']}" for steps in STEPS)
    return f"{row['family']} {row['size']} px, hole {row['hole']:.1%}: step {row['step_ratio']}x, edits {edits}"


if __name__ == "__main__":
    raise SystemExit(main())
