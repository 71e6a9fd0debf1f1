"""What a run of the sampler took, and what it saved."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from ...lazy_core.context import Context
from ...lazy_core.throughput import step_seconds
from .model import transformer_of


@dataclass
class Timing:
    """Seconds at which steps ended, and how many model calls of which kind a stock model made.

    `calls`: how often the model ran on each image, once for each branch of guidance; 0: unknown. `saved_seconds`: what
    a stock model's sparse passes took less than passes over all tokens of the same run.
    """

    marks: list[float] = field(default_factory=lambda: [time.perf_counter()])
    passes: dict[str, int] = field(default_factory=dict)
    calls: float = 0.0
    saved_seconds: float = 0.0

    def mark(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.marks.append(time.perf_counter())

    @property
    def step_ms(self) -> float:
        """Median time of a step; the first carries the set-up and counts only when it is alone."""
        gaps = [b - a for a, b in itertools.pairwise(self.marks)]
        later = sorted(b - a for a, b in itertools.pairwise(self.marks[1:])) or gaps
        return 1000 * later[len(later) // 2] if later else 0.0

    @property
    def steps(self) -> int:
        return len(self.marks) - 1


def saved_ms(model: Any, context: Context, text_tokens: int, timing: Timing) -> float:
    """Estimate how much longer the steps of an edit with a model of ours would have taken on all tokens; 0: unknown, or
    nothing.

    On the CPU one of its blocks is timed on all tokens. On a GPU a step on few tokens is a graph, and no measurement of
    a block says what a graph of all tokens would take.
    """
    if model.load_device.type != "cpu" or not timing.calls or context.hole.count in (0, context.hole.total):
        return 0.0
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    calls = round(timing.calls * len(context.image))
    full = step_seconds(transformer_of(model).decoder, context.hole.total, text_tokens, calls, dtype)
    return max(1000 * full - timing.step_ms * timing.steps, 0.0)
