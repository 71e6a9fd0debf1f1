"""The written record of a run, and the schedule that both trainers follow: by steps, or by the clock."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch


def progress_fraction(step: int, steps: int, start: float, minutes: float | None) -> float:
    """Part of the run that is done, 0..1; `start` is `time.monotonic()` at its beginning."""
    return step / steps if minutes is None else (time.monotonic() - start) / (60 * minutes)


def learning_rate(peak: float, done: float, warmup: float, floor: float = 0.02) -> float:
    """Linear warm-up, then a cosine down to `floor * peak`."""
    if done < warmup:
        return peak * max(done, 1e-3) / warmup
    phase = (done - warmup) / (1 - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(phase, 1.0))))


def summary(docstring: str | None) -> str:
    """First paragraph of a module's docstring, for its command line."""
    return " ".join((docstring or "").partition("\n\n")[0].split())


class RunRecord:
    """Settings, machine and curves of a run as one JSON file, rewritten as it grows."""

    def __init__(self, path: Path, settings: dict[str, Any], step: int = 0):
        self.path, self.start = path, time.monotonic()
        if path.exists():
            self.values = json.loads(path.read_text())
            self.start -= self.values["seconds"]
            for points in self.values[
                "curves"
            ].values():  # a run that was stopped repeats the steps after its last saved state
                points[:] = [point for point in points if point[0] <= step]
            return
        device = (
            torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
        )
        self.values = {
            "settings": dict(settings),
            "machine": {"device": device, "python": platform.python_version(), "torch": torch.__version__},
            "seconds": 0.0,
            "curves": {},
        }

    def add(self, step: int, **figures: float) -> None:
        seconds = time.monotonic() - self.start
        for name, value in figures.items():
            self.values["curves"].setdefault(name, []).append([step, round(seconds, 1), round(value, 5)])
        self.values["seconds"] = round(seconds, 1)
        self.write()

    def finish(self, **figures: Any) -> None:
        self.values.update(figures)
        self.write()

    def write(self) -> None:
        """In one move: a run that is killed leaves the last whole record."""
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.values, default=str))
        os.replace(new, self.path)
