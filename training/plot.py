"""`python -m training.plot RECORD.json OUT.png`: the curves of a training run against time."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .loop.record import summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.plot", description=summary(__doc__))
    parser.add_argument("record", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    from matplotlib.figure import Figure

    record = json.loads(args.record.read_text())
    figure = Figure(figsize=(7, 3.2 * len(record["curves"])), layout="constrained")
    for axes, (name, points) in zip(
        figure.subplots(len(record["curves"]), squeeze=False)[:, 0], record["curves"].items(), strict=True
    ):
        minutes, values = [point[1] / 60 for point in points], [point[2] for point in points]
        axes.plot(minutes, values, linewidth=0.6, alpha=0.5)
        axes.plot(minutes, smoothed(values), linewidth=1.6)
        axes.set(xlabel=f"minutes ({record['machine']['device']})", ylabel=name)
        if name == "loss":
            axes.set_yscale("log")
        axes.grid(alpha=0.3)
    figure.savefig(args.out, dpi=110)
    return 0


def smoothed(values: list[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average without the bias of its start."""
    result, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        result.append(total / norm)
    return result


if __name__ == "__main__":
    raise SystemExit(main())
