"""Memory that a piece of work holds, counted from the profiler's record of every allocation and release."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes that `work` holds at once on the CPU, beside what was there before."""
    with profile(profile_memory=True, acc_events=True) as record:
        work()
    results: Any = record.profiler.kineto_results if record.profiler else None
    events = sorted(
        (event for event in results.events() if event.name() == "[memory]"), key=lambda event: event.start_ns()
    )
    return int(max(itertools.accumulate(event.nbytes() for event in events)))


class Written(TorchDispatchMode):
    """Counts the bytes of all new tensors that PyTorch's operations fill."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        made = {x.untyped_storage() for x in tree_leaves(result) if isinstance(x, Tensor)}
        if "empty" not in str(func):
            self.bytes += sum(storage.nbytes() for storage in made if storage.data_ptr() not in given)
        return result
