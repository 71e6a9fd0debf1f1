"""Keys and values that one run keeps for its sparse steps: beside the model where there is room, else in main memory
and fetched ahead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .split import Split

KVDtype = Literal["model", "fp8"]
"""How keys and values are kept: as the model computes them, or in eight bits (`float8_e4m3fn`) with a scale for each
channel.
"""
KV_DTYPES: tuple[KVDtype, ...] = get_args(KVDtype)
FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max  # 448

Place = Callable[[int, torch.device], bool]
"""(bytes, device that computes) -> whether so much may be kept on that device; else it goes to main memory."""


@dataclass
class Stored:
    """Keys or values [..., L + K, D]: the kept L first, then room for the hole's K of the step at hand. `scale` [...,
    1, D] with fp8.
    """

    values: Tensor
    scale: Tensor | None
    kept: int
    here: bool

    @property
    def nbytes(self) -> int:
        """Bytes, wherever they lie."""
        return self.values.nbytes + (0 if self.scale is None else self.scale.nbytes)

    @classmethod
    def room(cls, like: Tensor, kept: int, here: bool, dtype: KVDtype) -> Stored:
        """Room for what one call will keep of `like` [..., total, D], on its device or in main memory (pinned for a
        CUDA device).
        """
        kind = FP8 if dtype == "fp8" else like.dtype
        values = (
            torch.empty(like.shape, dtype=kind, device=like.device)
            if here
            else in_main_memory(like.shape, kind, like.device)
        )
        scale = like.new_empty(*like.shape[:-2], 1, like.shape[-1], dtype=torch.float32) if dtype == "fp8" else None
        return cls(values, scale, kept, here)

    def fits(self, like: Tensor, kept: int) -> bool:
        """Tell whether the memory can take what a full pass hands over."""
        dtype = FP8 if self.scale is not None else like.dtype
        return self.values.shape == like.shape and self.kept == kept and self.values.dtype == dtype

    def put(self, values: Tensor) -> None:
        """`values` [..., L + K, D] of a full pass, the hole's last: those are copied along, as one block is copied
        fastest.
        """
        if self.scale is not None:
            largest = values[..., : self.kept, :].abs().amax(-2, keepdim=True)
            torch.div(largest.float().clamp_min(1e-12), FP8_MAX, out=self.scale)
            values = (values.float() / self.scale).clamp(-FP8_MAX, FP8_MAX).to(FP8)
        self.values.copy_(values)


def in_main_memory(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor; for a CUDA `device` in pinned memory, of which a system may have no more, so that copies need
    not wait.
    """
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            return torch.empty(shape, dtype=dtype, pin_memory=True)
    return torch.empty(shape, dtype=dtype)


Key = tuple[Any, int]
Pair = tuple[Stored, Stored]


class KeptKV:
    """Keys and values of one run, by batch of conditionings and attention call. Lives no longer than the run.

    Two passes over all tokens can be kept at a time: the one that lies behind, and a `later` one, at a noise level that
    the run has not come to; `extend` then interpolates between both, and `advance` leaves the earlier one behind.

    `place` says for each pair whether it may lie where it is used. What lies in main memory is copied to the device
    while the call before computes (on CUDA, by a stream of its own); two calls' worth of room is enough for that.
    """

    def __init__(self, place: Place = lambda size, device: True, dtype: KVDtype = "model") -> None:
        self.place = place
        self.dtype: KVDtype = dtype
        self.pairs: dict[Key, Pair] = {}
        self.later: dict[Key, Pair] = {}
        self.splits: dict[Key, Split] = {}
        self.ahead: Ahead | None = None
        self.scratch: dict[tuple[Any, ...], Tensor] = {}

    def keep(self, batch: Any, call: int, k: Tensor, v: Tensor, split: Split, later: bool = False) -> None:
        """From a full pass: k and v [..., total, D]; the memory of an earlier pass is used again."""
        key, kept, pairs = (batch, call), split.kept, self.later if later else self.pairs
        k, v, self.splits[key] = split.arranged(k), split.arranged(v), split
        pair = pairs.get(key)
        if pair is None or not all(stored.fits(like, kept) for stored, like in zip(pair, (k, v), strict=True)):
            here = self.place(sum(x.numel() if self.dtype == "fp8" else x.nbytes for x in (k, v)), k.device)
            pair = pairs[key] = (Stored.room(k, kept, here, self.dtype), Stored.room(v, kept, here, self.dtype))
        if self.ahead is not None:
            self.ahead.forget()
        for stored, values in zip(pair, (k, v), strict=True):
            stored.put(values)

    def advance(self, batch: Any, last: bool) -> None:
        """The run has come to the later pass's noise level: that pass is what lies behind now, and the memory of the
        one before is the next later one's; with the `last` it is free.
        """
        if self.ahead is not None:
            self.ahead.forget()
        for key in [key for key in self.later if key[0] == batch]:
            before, self.pairs[key] = self.pairs[key], self.later.pop(key)
            if not last:
                self.later[key] = before

    def extend(self, batch: Any, call: int, k: Tensor, v: Tensor, weight: float = 0.0) -> tuple[Tensor, Tensor]:
        """In a sparse step: the hole's k and v [..., K, D] -> those of all tokens [..., L + K, D], good until the next
        call.

        `weight`, 0 to 1: how far from the pass behind to the later one. Without it what lies where it is used is not
        copied, but for the hole's. Raises KeyError where no full pass over this batch came before.
        """
        key = (batch, call)
        stored = self.entry(key, weight)
        found = [part.values for part in stored]
        away = [i for i, part in enumerate(stored) if not part.here]
        if away:
            self.ahead = self.ahead or Ahead(k.device)
            for i, values in zip(away, self.ahead.take(key, [stored[i] for i in away]), strict=True):
                found[i] = values
            self.ahead.fetch(*self.following(key, weight))
        whole = [self.opened(part, values, k, i) for i, (part, values) in enumerate(zip(stored, found, strict=True))]
        if len(whole) > 2:
            whole = [self.between(stored[i].kept, whole[i], whole[i + 2], weight, i) for i in range(2)]
        for part, x, new in zip(stored, whole, (k, v), strict=False):
            x[..., part.kept :, :] = new
        return whole[0], whole[1]

    def bias(self, batch: Any, call: int, like: Tensor) -> Tensor | None:
        """What attention adds to the logits of the keys that `extend` gives [1, 1, 1, L + K], as in `like`; None for
        nothing.
        """
        bias = self.splits[batch, call].bias
        return None if bias is None else bias.to(like)[None, None, None]

    def entry(self, key: Key, weight: float) -> tuple[Stored, ...]:
        """Keys and values that a call needs: of the pass behind, and of the later one."""
        return self.pairs[key] + (self.later[key] if weight else ())

    def opened(self, stored: Stored, values: Tensor, like: Tensor, part: int) -> Tensor:
        """`values` as attention takes them: eight bits become numbers of the model's kind, in memory that all calls
        share.
        """
        if stored.scale is None:
            return values
        room = self.room(part, values.shape, like.dtype, like.device)
        kept = room[..., : stored.kept, :]
        torch.mul(
            values[..., : stored.kept, :].to(like.dtype), stored.scale, out=kept
        )  # by scales that fp16 could not hold
        return room

    def between(self, kept: int, behind: Tensor, later: Tensor, weight: float, part: int) -> Tensor:
        """`weight` of the way [..., L + K, D] from the one to the other, in memory that all calls share."""
        room = self.room(part, behind.shape, behind.dtype, behind.device)
        torch.lerp(behind[..., :kept, :], later[..., :kept, :], weight, out=room[..., :kept, :])
        return room

    def room(self, part: int, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory of a shape that all calls share, for keys (`part` 0) or values (1)."""
        kind = (part, tuple(shape), dtype)
        if kind not in self.scratch:
            self.scratch[kind] = torch.empty(shape, dtype=dtype, device=device)
        return self.scratch[kind]

    def following(self, key: Key, weight: float) -> tuple[Key, list[Stored]]:
        """The next call of the same batch that has something in main memory, round and round."""
        away = {
            each: [part for part in self.entry(each, weight) if not part.here]
            for each in self.pairs
            if each[0] == key[0]
        }
        keys = [each for each, parts in away.items() if parts]
        after = keys[(keys.index(key) + 1) % len(keys)]
        return after, away[after]

    def forget(self) -> None:
        """Drop everything; copies under way end first, as their memory is about to be somebody else's."""
        if self.ahead is not None:
            self.ahead.forget()
        self.pairs, self.later, self.scratch, self.splits, self.ahead = {}, {}, {}, {}, None

    @property
    def nbytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(stored.nbytes for pairs in (self.pairs, self.later) for pair in pairs.values() for stored in pair)


class Ahead:
    """Brings what lies in main memory to `device`, one attention call ahead of its use."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.slots: list[list[Tensor]] = [[], []]
        self.turn = 0
        self.coming: tuple[Key, int] | None = None

    def take(self, key: Key, parts: Sequence[Stored]) -> list[Tensor]:
        """The parts on the device: what was fetched ahead, or copied now where something else, or nothing, was."""
        if self.coming != (key, len(parts)):
            self.fetch(key, parts)
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
        here, self.coming, self.turn = self.slots[self.turn], None, 1 - self.turn
        return here

    def fetch(self, key: Key, parts: Sequence[Stored]) -> None:
        """Start copying; what the device was told to do before now may still read the slot, so the copy waits for
        it.
        """
        slot = self.slots[self.turn]
        if [(x.shape, x.dtype) for x in slot] != [(part.values.shape, part.values.dtype) for part in parts]:
            slot[:] = [torch.empty(part.values.shape, dtype=part.values.dtype, device=self.device) for part in parts]
        self.coming = (key, len(parts))
        if self.stream is None:
            return self.copy(slot, parts)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            self.copy(slot, parts)

    @staticmethod
    def copy(slot: list[Tensor], parts: Sequence[Stored]) -> None:
        """Copy `parts` into a slot, without waiting on CUDA."""
        for room, part in zip(slot, parts, strict=True):
            room.copy_(part.values, non_blocking=room.device.type == "cuda")

    def forget(self) -> None:
        """What was fetched is out of date, or not wanted any more."""
        self.coming = None
        if self.stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
