"""What a `Run` keeps in mind: its images' holes, its canvas, the pass under way, and where it is between passes over
all tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...lazy_core.kv.policy import HoleInLatent
from .roles import Prefix


@dataclass(frozen=True)
class Group:
    """Images of a batch that share their hole: their numbers in the batch, and where the hole lies in each of them."""

    images: tuple[int, ...]
    hole: HoleInLatent

    def rows(self, total: int, batch: int) -> list[int] | None:
        """This group's rows in a model call of `total` rows, `batch` for each conditioning; None means all of them."""
        if len(self.images) == batch:
            return None
        return [first + image for first in range(0, total, batch) for image in self.images]

    def to(self, device: torch.device) -> Group:
        return Group(self.images, replace(self.hole, index=self.hole.index.to(device)))


def share_of(groups: Sequence[Group], images: int) -> float:
    """Of the tokens of so many images, the part that lies in holes, 0 to 1."""
    tokens = sum(len(group.images) * len(group.hole.index) for group in groups)
    return tokens / (images * groups[0].hole.rows * groups[0].hole.cols) if groups else 0.0


@dataclass(frozen=True)
class KnownLatents:
    """What a run knows of the pictures, in the model's units: clean latents and noise [B, C, (1,) h, w]; `hole`, True
    where it lies.
    """

    latent: Tensor
    noise: Tensor
    hole: Tensor

    def noised(self, base: Any, x: Tensor, t: Tensor, clean: Tensor | None = None) -> Tensor:
        """Return the pictures at noise level t [B], for all conditionings in x [B, ...], by the host's model `base`.

        `clean`: latents whose holes to put into them.
        """
        times = len(x) // len(self.latent)
        latent, noise, hole = (
            part.repeat(times, *[1] * (part.dim() - 1)) for part in (self.latent, self.noise, self.hole)
        )
        if clean is not None:
            latent = torch.where(hole, clean.to(latent), latent)
        return base.scale_latent_inpaint(x=x, sigma=t, noise=noise, latent_image=latent).to(x)


class Call(NamedTuple):
    """What the host's `apply_model` was called with, beside latents and sigma; `batch` names the conditionings in it,
    `compute_control` makes its `control` at other noise levels.
    """

    execute: Any
    concat: Any
    text: Tensor
    options: dict[str, Any]
    batch: tuple[Any, ...]
    conds: dict[str, Any]
    control: Any = None
    compute_control: Any = None


Kind = Literal["full", "sparse"]


@dataclass
class Pass:
    """A model call under way, and how far it has come: of `kind` "full" on all tokens, or "sparse" on a `group`'s hole.

    `batch` names the conditionings in it, `batch_size` is images times conditionings, `tokens_before` are those
    before the image's, and `prefix` is what they are. `later`: all tokens at a noise level to come; `fraction`: how
    far towards it the hole's tokens are, 0 to 1. `attention_calls`, `control_calls` (in the blocks of control patches)
    and `position_calls` count; `limit` is the first attention call after the block that a patch replaces, while that
    one runs.
    """

    kind: Kind
    batch: tuple[Any, ...]
    prefix: Prefix
    tokens_before: int
    batch_size: int
    group: int = 0
    later: bool = False
    fraction: float = 0.0
    attention_calls: int = 0
    control_calls: int = 0
    limit: int | None = None
    position_calls: int = 0
    thread: int = field(default_factory=threading.get_ident)


@dataclass
class FullPasses:
    """A batch of conditionings' passes over all tokens: at the noise levels of which `steps` they are, and the last
    one, `behind`.

    `denoised` [B, C, (1,) h, w] is the model's last answer, if any; `denoised_full` those of the pass behind and of the
    one after it.
    """

    steps: list[int]
    denoised: Tensor | None = None
    behind: int = 0
    denoised_full: list[Tensor | None] = field(default_factory=lambda: [None, None])

    @property
    def more(self) -> bool:
        """Whether a pass is still to come."""
        return self.behind + 1 < len(self.steps)

    def fraction(self, sigma: float, sigmas: list[float], timestep: Callable[[float], float]) -> float:
        """How far `sigma` is from the pass behind to the one after it, 0 to 1, in the network's own time (sigma ->
        timestep).
        """
        if not self.more:
            return 0.0
        behind, after = (timestep(sigmas[self.steps[self.behind + which]]) for which in (0, 1))
        return min(max((behind - timestep(sigma)) / (behind - after), 0.0), 1.0) if behind != after else 0.0

    def interpolated(self, fraction: float) -> Tensor:
        """Return the latents as a pass over all tokens would see them by now, `fraction` of the way from the pass
        behind to the next.

        Guidance that takes statistics over the picture reads it.
        """
        behind, later = self.denoised_full
        assert behind is not None
        return behind if later is None or not fraction else torch.lerp(behind, later, fraction)


def replaced_blocks(options: dict[str, Any]) -> tuple[Any, ...]:
    """Which blocks patches stand in for in this model call: the same conditioning through other blocks has other keys
    and values.
    """
    patches = options.get("patches_replace", {}).get("dit", {})
    named = ((*name, getattr(patch, "__qualname__", type(patch).__name__)) for name, patch in patches.items())
    return tuple(sorted(named, key=str))


def select_rows(value: Any, rows: list[int] | None, total: int) -> Any:
    """Return `rows` of whatever a model call of `total` rows was given, tensor by tensor; all else, and everything for
    None, as it is.
    """
    if rows is None:
        return value
    if isinstance(value, Tensor):
        return value[rows] if value.dim() and len(value) == total else value
    if isinstance(value, dict):
        return {name: select_rows(each, rows, total) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(select_rows(each, rows, total) for each in value)
    return value


def drop_time_axis(latent: Tensor) -> Tensor:
    """[B, C, (1,) h, w] -> [B, C, h, w]."""
    return latent.squeeze(2) if latent.dim() == 5 else latent


def restore_time_axis(x: Tensor, latent: Tensor) -> Tensor:
    """Return a latent [B, C, h, w] with a time axis of one, if x has it."""
    return latent.unsqueeze(2) if x.dim() == 5 else latent


def clock() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
