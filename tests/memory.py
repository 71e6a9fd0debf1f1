"""Memory that a piece of work holds, counted from the profiler's record of every allocation and release."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch.profiler import profile


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that `work` holds at once on the CPU, beside what was there before."""
    with profile(profile_memory=True, acc_events=True) as record:
        work()
    results: Any = record.profiler.kineto_results if record.profiler else None
    events = sorted((event for event in results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns())
    return int(max(itertools.accumulate(event.nbytes() for event in events)))
