"""A bounded, content-addressed cache: the same canvas, mask and model never encode twice."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor


class Sized(Protocol):
    """What a cache can hold: a value that knows its size."""

    def get_ram_usage(self) -> int:
        """Return bytes."""
        ...


Value = TypeVar("Value", bound=Sized)


class ContentCache(Generic[Value]):
    """Least recently used values up to `limit` bytes. `runs` counts how often a value had to be made.

    `free` tells how many bytes of memory the machine has left: values are dropped while that is less than `reserve`.
    """

    def __init__(self, limit: int, free: Callable[[], int] | None = None, reserve: int = 1 << 30):
        self.limit, self.runs, self.bytes = limit, 0, 0
        self.free, self.reserve = free, reserve
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_make(self, key: str, make: Callable[[], Value]) -> tuple[Value, bool]:
        """The value of `key`, and whether `make` ran for it. What `make` raises is passed on; nothing is stored
        then.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                value = self._values[key]
                self._shrink()
                return value, False
        value = make()
        with self._lock:
            self.runs += 1
            self._store(key, value)
        return value, True

    def put(self, key: str, value: Value) -> None:
        """Stores a value, or counts it as used just now."""
        with self._lock:
            self._store(key, value)

    def under(self, prefix: str) -> list[tuple[str, Value]]:
        """Keys that start with `prefix` and their values, least recently used first."""
        with self._lock:
            return [(key, value) for key, value in self._values.items() if key.startswith(prefix)]

    def _store(self, key: str, value: Value) -> None:
        if key in self._values:
            self.bytes -= self._values.pop(key).get_ram_usage()
        size = value.get_ram_usage()
        if size > self.limit:
            return
        self._values[key] = value
        self.bytes += size
        self._shrink()

    def _shrink(self) -> None:
        room = self.limit if self.free is None else min(self.limit, self.bytes + self.free() - self.reserve)
        while self._values and self.bytes > room:
            _, oldest = self._values.popitem(last=False)
            self.bytes -= oldest.get_ram_usage()

    def clear(self) -> None:
        """Drop all values; `runs` goes on counting."""
        with self._lock:
            self._values.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)


PIECE = 4 << 20  # bytes that a thread hashes at once


def content_key(*parts: Tensor | str) -> str:
    """Hash of tensors (bytes, shape, dtype) and strings. A tensor that is contiguous need not be copied."""
    digest = hashlib.sha256()  # processors have instructions for it
    for part in parts:
        if not isinstance(part, str):
            tensor = part.detach().cpu().contiguous()
            digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(hash_of(tensor.reshape(-1).view(torch.uint8).numpy().data))
        else:
            digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()


def hash_of(data: memoryview) -> bytes:
    """Of pieces by themselves, so that all cores take part, then of what they gave."""
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    if len(pieces) < 2:
        return hashlib.sha256(data).digest()
    with ThreadPoolExecutor(min(len(pieces), os.cpu_count() or 1)) as pool:
        return hashlib.sha256(b"".join(pool.map(lambda piece: hashlib.sha256(piece).digest(), pieces))).digest()
