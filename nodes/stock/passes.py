"""What a `Run` keeps in mind: its images' holes, its canvas, the pass under way, and where it is between passes over
all tokens.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...lazy_core.kv.policy import Whole


@dataclass(frozen=True)
class Group:
    """Images of a batch that share their hole: their numbers in the batch, and where the hole lies in each of them."""

    images: tuple[int, ...]
    whole: Whole

    def rows(self, total: int, batch: int) -> list[int] | None:
        """This group's rows in a model call of `total` rows, `batch` for each conditioning; None means all of them."""
        if len(self.images) == batch:
            return None
        return [first + image for first in range(0, total, batch) for image in self.images]

    def to(self, device: torch.device) -> Group:
        return Group(self.images, replace(self.whole, index=self.whole.index.to(device)))


@dataclass(frozen=True)
class Canvas:
    """What a run knows of the pictures, in the model's units: clean latents and noise [B, C, (1,) h, w]; `hole`, True
    where it lies.
    """

    latent: Tensor
    noise: Tensor
    hole: Tensor


class Call(NamedTuple):
    """What the host's `apply_model` was called with, beside latents and sigma; `batch` names the conditionings in it."""

    execute: Any
    concat: Any
    text: Tensor
    options: dict[str, Any]
    batch: tuple[Any, ...]
    conds: dict[str, Any]


@dataclass
class Pass:
    """A model call under way: all tokens or the hole's of `group`, for which conditionings, and how far the forward has
    come.

    `later`: all tokens at a noise level to come; `weight`: how far towards it the hole's tokens are, 0 to 1. `rows`:
    images times conditionings. `limit`: the first attention call after the block that a patch replaces, while that one
    runs.
    """

    full: bool
    batch: tuple[Any, ...]
    text: int
    rows: int
    group: int = 0
    later: bool = False
    weight: float = 0.0
    attention: int = 0
    limit: int | None = None
    positions: int = 0
    thread: int = field(default_factory=threading.get_ident)


@dataclass
class Between:
    """Where a batch of conditionings is between passes over all tokens: that of step `levels[behind]` and the next one.

    `clean`: the model's last answer [B, C, (1,) h, w], if any; `seen`: what those two passes made of the whole picture.
    """

    levels: list[int]
    clean: Tensor | None = None
    behind: int = 0
    seen: list[Tensor | None] = field(default_factory=lambda: [None, None])

    @property
    def more(self) -> bool:
        return self.behind + 1 < len(self.levels)

    def around(self, weight: float) -> Tensor:
        """The picture as a pass over all tokens would see it by now; guidance that takes statistics over the picture
        reads it.
        """
        behind, later = self.seen
        assert behind is not None
        return behind if later is None or not weight else torch.lerp(behind, later, weight)


def replaced_blocks(options: dict[str, Any]) -> tuple[Any, ...]:
    """Which blocks patches stand in for in this model call: the same conditioning through other blocks has other keys
    and values.
    """
    patches = options.get("patches_replace", {}).get("dit", {})
    named = ((*name, getattr(patch, "__qualname__", type(patch).__name__)) for name, patch in patches.items())
    return tuple(sorted(named, key=str))


def picked(value: Any, rows: list[int] | None, total: int) -> Any:
    """`rows` of whatever a model call of `total` rows was told, tensor by tensor; all else, and everything for None, as
    it is.
    """
    if rows is None:
        return value
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == total else value
    if isinstance(value, dict):
        return {name: picked(each, rows, total) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(picked(each, rows, total) for each in value)
    return value


def flat(latent: Tensor) -> Tensor:
    return latent.squeeze(2) if latent.dim() == 5 else latent


def like(x: Tensor, latent: Tensor) -> Tensor:
    """Some models' latents have a time axis of one."""
    return latent.unsqueeze(2) if x.dim() == 5 else latent
