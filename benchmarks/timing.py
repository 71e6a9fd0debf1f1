"""Honest clocks: warm-up, synchronised devices, methods in turn within one run, medians, ratios pair by pair."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]
"""What is timed. Where it has a `ready`, that is called before the clock starts: what an edit prepares for all of its
steps.
"""


@dataclass(frozen=True)
class Timed:
    """Milliseconds of every measured run, in order, and the most bytes the device held beside what it held before (CUDA
    only).
    """

    runs: tuple[float, ...]
    peak_bytes: int | None

    @property
    def ms(self) -> float:
        return median(self.runs)


def once(work: Work, device: torch.device) -> tuple[float, int | None]:
    """-> ms, peak bytes."""
    cuda = device.type == "cuda"
    before = 0
    getattr(work, "ready", lambda: None)()
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    begin = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    elapsed = 1000 * (time.perf_counter() - begin)
    return elapsed, torch.cuda.max_memory_allocated(device) - before if cuda else None


def in_turn(
    works: Mapping[str, Work], device: torch.device, rounds: int, warmup: list[str] | None = None
) -> dict[str, Timed]:
    """Run every work once to warm up (or only those named), then `rounds` times each, one after the other within a
    round.
    """
    for name in works if warmup is None else warmup:
        once(works[name], device)
    seen: dict[str, list[tuple[float, int | None]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(once(work, device))
    return {
        name: Timed(tuple(ms for ms, _ in runs), max((p for _, p in runs if p is not None), default=None))
        for name, runs in seen.items()
    }


def ratio(slow: Timed, fast: Timed) -> float:
    """Median of the ratios of runs that followed each other."""
    return median(a / b for a, b in zip(slow.runs, fast.runs, strict=True))


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: what the machine gives at most."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = in_turn({"product": lambda: a @ b}, device, 7)["product"]
    return 2 * side**3 / (min(times.runs) / 1000)


def line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Least squares y = intercept + slope x -> intercept, slope, R2."""
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)
    intercept = mean_y - slope * mean_x
    residual = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    return intercept, slope, 1 - residual / sum((b - mean_y) ** 2 for b in y)
