"""Mean and variance of GroupNorm's groups, taken apart by places and put together again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...geometry import Box


class Moments(NamedTuple):
    """Mean and variance of each group [G], or of each group at several places [G, n] or [G, h, w]."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, both: Tensor) -> Moments:
        """From [2, G, ...]."""
        return cls(both[0], both[1])

    def stacked(self) -> Tensor:
        return torch.stack(self)

    def united(self, share: Tensor | float) -> Moments:
        """Places [G, n], of which each is a `share` [n] of the whole (shares sum to one), as one [G]."""
        middle = (self.mean * share).sum(-1)
        return Moments(middle, ((self.variance + (self.mean - middle[:, None]).square()) * share).sum(-1))


def group_means(x: Tensor, groups: int) -> Tensor:
    """Of [1, C, H, W]: [G]."""
    return x[0].mean((1, 2), dtype=torch.float32).view(groups, -1).mean(1)


def block_moments(x: Tensor, side: int, centre: Tensor) -> Moments:
    """[1, C, H, W] -> those of each block of `side` px [G, H / side, W / side].

    `centre` [G] is near the values, so that squares do not lose what they differ by.
    """
    values = x[0].float().unflatten(0, (len(centre), -1)) - centre.view(-1, 1, 1, 1)
    mean = F.avg_pool2d(values.mean(1), side)
    square = F.avg_pool2d(values.square_().mean(1), side)
    return Moments(mean + centre.view(-1, 1, 1), (square - mean.square()).clamp_min_(0))


def patch_moments(x: Tensor, places: list[Box], groups: int) -> Tensor:
    """Of patches of one size in [1, C, H, W]: [2, G, patches]."""
    stacked = torch.stack([place.cut(x)[0] for place in places]).float()
    variance, mean = torch.var_mean(stacked.view(len(places), groups, -1), 2, correction=0)
    return torch.stack([mean.T, variance.T])


def together(parts: list[Moments], sizes: list[int]) -> Moments:
    """Parts [G] of different `sizes` as one."""
    share = torch.tensor(sizes, device=parts[0].mean.device) / sum(sizes)
    return Moments(*(torch.stack(each, -1) for each in zip(*parts, strict=True))).united(share)


class Shift(NamedTuple):
    """How the moments of one thing moved: means by a `step`, variances (and an epsilon) by a `factor` [G]."""

    step: Tensor
    factor: Tensor
    eps: float

    @classmethod
    def between(cls, old: Moments, new: Moments, eps: float) -> Shift:
        return cls(new.mean - old.mean, (new.variance + eps) / (old.variance + eps), eps)

    def apply(self, to: Moments) -> Moments:
        return Moments(to.mean + self.along(to.mean, self.step), (to.variance + self.eps) * self.along(to.mean, self.factor) - self.eps)

    def undo(self, to: Moments) -> Moments:
        variance = (to.variance + self.eps) / self.along(to.mean, self.factor) - self.eps
        return Moments(to.mean - self.along(to.mean, self.step), variance.clamp_min(0))

    @staticmethod
    def along(like: Tensor, each: Tensor) -> Tensor:
        return each.view(-1, *[1] * (like.dim() - 1))


class Line(NamedTuple):
    """How the values of each channel moved: by a `gain` and a `step` [C]."""

    gain: Tensor
    step: Tensor

    @classmethod
    def between(cls, old: Tensor, new: Tensor, share: Tensor) -> Line:
        """Least squares over patches [C, patches, px], each of a `share` [patches]; channels that hardly vary keep their gain."""
        weight = share[:, None] / old.shape[-1]
        before, now = ((each * weight).sum((1, 2)) for each in (old, new))
        apart = old - before[:, None, None]
        variance, covariance = ((apart * each * weight).sum((1, 2)) for each in (apart, new - now[:, None, None]))
        little = 0.01 * variance.mean() + 1e-12
        gain = ((covariance + little) / (variance + little)).clamp_min(0.1)  # `undo` divides by it
        return cls(gain, now - gain * before)

    def apply(self, to: Tensor) -> Tensor:
        """[..., C, a, b]"""
        return (to.float() * self.gain[:, None, None] + self.step[:, None, None]).to(to)

    def undo(self, to: Tensor) -> Tensor:
        return ((to.float() - self.step[:, None, None]) / self.gain[:, None, None]).to(to)


def normalised(x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of [1, C, H, W] with given statistics [G], weight and bias [C], computed in float32 whatever x is."""
    mean, variance = (value.repeat_interleave(x.shape[1] // len(value)) for value in moments)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


SPIKE = 16.0


def affine(module: nn.GroupNorm, original: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A GroupNorm's weight and bias [C] in float32 as it applies them, whatever the host casts: nothing gives the bias, a spike the weight.

    The spike is high, so that half precision rounds the weight and not what the bias makes of it.
    """
    probe = x.new_zeros(2, module.num_channels, 1, int(SPIKE**2) + 1)
    probe[1, ..., 0] = SPIKE
    given = original(probe).float()
    deviation, mean = torch.std_mean(probe[1, 0].float(), correction=0)
    bias = given[0, :, 0, 0]
    return (given[1, :, 0, 0] - bias) * ((deviation**2 + module.eps).sqrt() / (SPIKE - mean)), bias
