"""Keys and values that one run keeps for its sparse steps: beside the model where there is room, else in main memory and fetched ahead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

KVDtype = Literal["model", "fp8"]
"""How keys and values are kept: as the model computes them, or in eight bits (`float8_e4m3fn`) with a scale for each channel."""
KV_DTYPES: tuple[KVDtype, ...] = get_args(KVDtype)
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max  # 448

Place = Callable[[int, torch.device], bool]
"""(bytes, device that computes) -> whether so much may be kept on that device; else it goes to main memory."""


@dataclass(frozen=True)
class Split:
    """Which tokens of a sequence of `total` are the hole's, ascending [K] int64, and which are not [total - K]."""

    hole: Tensor
    others: Tensor
    total: int

    @classmethod
    def of(cls, hole: Tensor, total: int, offset: int = 0) -> Split:
        """`hole` [K] counts from `offset`, where a sequence's image tokens begin."""
        keep = torch.ones(total, dtype=torch.bool, device=hole.device)
        keep[hole + offset] = False
        return cls(hole + offset, keep.nonzero()[:, 0], total)

    @cached_property
    def order(self) -> Tensor:
        """All tokens [total], the hole's last."""
        return torch.cat([self.others, self.hole])


@dataclass
class Stored:
    """Keys or values [..., L + K, D]: the kept L first, then room for the hole's K of the step at hand. `scale` [..., 1, D] with fp8."""

    values: Tensor
    scale: Tensor | None
    kept: int
    here: bool

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @classmethod
    def room(cls, like: Tensor, kept: int, here: bool, dtype: KVDtype) -> Stored:
        """Room for what one call will keep of `like` [..., total, D], on its device or in main memory (pinned for a CUDA device)."""
        kind = FP8 if dtype == "fp8" else like.dtype
        values = torch.empty(like.shape, dtype=kind, device=like.device) if here else in_main_memory(like.shape, kind, like.device)
        scale = like.new_empty(*like.shape[:-2], 1, like.shape[-1], dtype=torch.float32) if dtype == "fp8" else None
        return cls(values, scale, kept, here)

    def fits(self, like: Tensor, kept: int) -> bool:
        dtype = FP8 if self.scale is not None else like.dtype
        return self.values.shape == like.shape and self.kept == kept and self.values.dtype == dtype

    def put(self, values: Tensor) -> None:
        """`values` [..., L + K, D] of a full pass, the hole's last: those are copied along, as one block is copied fastest."""
        if self.scale is not None:
            largest = values[..., : self.kept, :].abs().amax(-2, keepdim=True)
            torch.div(largest.float().clamp_min(1e-12), FP8_MAX, out=self.scale)
            values = (values.float() / self.scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
        self.values.copy_(values)


def in_main_memory(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor; for a CUDA `device` in pinned memory, of which a system may have no more, so that copies need not wait."""
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            return torch.empty(shape, dtype=dtype, pin_memory=True)
    return torch.empty(shape, dtype=dtype)


Key = tuple[Any, int]
Pair = tuple[Stored, Stored]


class KeptKV:
    """Keys and values of one run, by batch of conditionings and attention call. Lives no longer than the run.

    `place` says for each pair whether it may lie where it is used. What lies in main memory is copied to the device while the
    call before computes (on CUDA, by a stream of its own); two calls' worth of room is enough for that.
    """

    def __init__(self, place: Place = lambda size, device: True, dtype: KVDtype = "model") -> None:
        self.place = place
        self.dtype: KVDtype = dtype
        self.pairs: dict[Key, Pair] = {}
        self.ahead: Ahead | None = None
        self.scratch: dict[tuple[Any, ...], Tensor] = {}

    def keep(self, batch: Any, call: int, k: Tensor, v: Tensor, split: Split) -> None:
        """From a full pass: k and v [..., total, D]; the memory of an earlier pass is used again."""
        key, kept = (batch, call), len(split.others)
        pair = self.pairs.get(key)
        if pair is None or not all(stored.fits(like, kept) for stored, like in zip(pair, (k, v), strict=True)):
            here = self.place(sum(x.numel() if self.dtype == "fp8" else x.nbytes for x in (k, v)), k.device)
            pair = self.pairs[key] = (Stored.room(k, kept, here, self.dtype), Stored.room(v, kept, here, self.dtype))
        if self.ahead is not None:
            self.ahead.forget()
        for stored, values in zip(pair, (k, v), strict=True):
            stored.put(values.index_select(-2, split.order))

    def extend(self, batch: Any, call: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """In a sparse step: the hole's k and v [..., K, D] -> those of all tokens [..., L + K, D], good until the next call.

        What lies where it is used is not copied, but for the hole's. Raises KeyError where no full pass over this batch came before.
        """
        key = (batch, call)
        pair = self.pairs[key]
        found = tuple(stored.values for stored in pair)
        if not pair[0].here:
            self.ahead = self.ahead or Ahead(k.device)
            found = self.ahead.take(key, pair)
            self.ahead.fetch(*self.following(key))
        whole = tuple(self.opened(stored, x, new, part) for part, (stored, x, new) in enumerate(zip(pair, found, (k, v), strict=True)))
        for stored, x, new in zip(pair, whole, (k, v), strict=True):
            x[..., stored.kept :, :] = new
        return whole[0], whole[1]

    def opened(self, stored: Stored, values: Tensor, like: Tensor, part: int) -> Tensor:
        """`values` as attention takes them: eight bits become numbers of the model's kind, in memory that all calls share."""
        if stored.scale is None:
            return values
        shape = (part, tuple(values.shape), like.dtype)
        room = self.scratch.get(shape)
        if room is None:
            room = self.scratch[shape] = torch.empty(values.shape, dtype=like.dtype, device=like.device)
        kept = room[..., : stored.kept, :]
        torch.mul(values[..., : stored.kept, :].to(like.dtype), stored.scale, out=kept)  # by scales that fp16 could not hold
        return room

    def following(self, key: Key) -> tuple[Key, Pair]:
        """The next call of the same batch that has something in main memory, round and round."""
        elsewhere = [each for each, pair in self.pairs.items() if each[0] == key[0] and not pair[0].here]
        after = elsewhere[(elsewhere.index(key) + 1) % len(elsewhere)]
        return after, self.pairs[after]

    def forget(self) -> None:
        """Drop everything; copies under way end first, as their memory is about to be somebody else's."""
        if self.ahead is not None:
            self.ahead.forget()
        self.pairs, self.scratch, self.ahead = {}, {}, None

    @property
    def nbytes(self) -> int:
        return sum(stored.nbytes for pair in self.pairs.values() for stored in pair)


class Ahead:
    """Brings what lies in main memory to `device`, one attention call ahead of its use."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.slots: list[list[Tensor]] = [[], []]
        self.turn = 0
        self.coming: Key | None = None

    def take(self, key: Key, pair: Pair) -> tuple[Tensor, Tensor]:
        """The pair on the device: what was fetched ahead, or copied now where something else, or nothing, was."""
        if self.coming != key:
            self.fetch(key, pair)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        here, self.coming, self.turn = self.slots[self.turn], None, 1 - self.turn
        return here[0], here[1]

    def fetch(self, key: Key, pair: Pair) -> None:
        """Start copying; what the device was told to do before now may still read the slot, so the copy waits for it."""
        slot = self.slots[self.turn]
        if [(x.shape, x.dtype) for x in slot] != [(stored.values.shape, stored.values.dtype) for stored in pair]:
            slot[:] = [torch.empty(stored.values.shape, dtype=stored.values.dtype, device=self.device) for stored in pair]
        self.coming = key
        if self.stream is None:
            return self.copy(slot, pair)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.copy(slot, pair)

    @staticmethod
    def copy(slot: list[Tensor], pair: Pair) -> None:
        for room, stored in zip(slot, pair, strict=True):
            room.copy_(stored.values, non_blocking=room.device.type == "cuda")

    def forget(self) -> None:
        """What was fetched is out of date, or not wanted any more."""
        self.coming = None
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
