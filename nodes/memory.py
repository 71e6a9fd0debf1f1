"""What the pack keeps in main memory: how much it may be, when it is given back, and a second try where memory ran
out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

Result = TypeVar("Result")
LEAST = 64 << 20  # bytes that a cache may have on any machine
_forgetters: list[Callable[[], None]] = []


def part_of_memory(most: int, total: int, parts: int = 32) -> int:
    """How many bytes a cache may have: one of so many `parts` of the machine's memory, `total`, and no more than
    `most`."""
    return max(min(most, total // parts), min(most, LEAST))


def forgettable(forget: Callable[[], None]) -> None:
    """Have `forget` called when memory is short, or when the host is asked to free it."""
    _forgetters.append(forget)


def forget_caches() -> None:
    """Drop all that is kept between edits: it is made anew when it is needed."""
    for forget in _forgetters:
        forget()


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: a GPU's, or the machine's, which PyTorch reports as an ordinary
    RuntimeError."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def retry_when_out_of_memory(
    what: str, work: Callable[[], Result], again: Callable[[], Result], make_room: Callable[[], None]
) -> Result:
    """What `work` gives; where memory ran out, what `again` gives after caches were dropped and `make_room` was
    called."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        logging.warning(f"{what} ran out of memory; trying again with as little as it can.")
    # Outside of the `except`: the error holds all that the failed run held.
    forget_caches()
    make_room()
    return again()
