"""Mean and variance of GroupNorm's groups, taken apart by positions and put together again."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...geometry import Box


class Moments(NamedTuple):
    """Mean and variance of each group [G], or of each group at several positions [G, n] or [G, h, w]."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, both: Tensor) -> Moments:
        """From [2, G, ...]."""
        return cls(both[0], both[1])

    def stacked(self) -> Tensor:
        """As one tensor [2, G, ...]."""
        return torch.stack(self)

    def pooled(self, share: Tensor | float) -> Moments:
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


def probe_moments(x: Tensor, positions: list[Box], groups: int) -> Tensor:
    """Of probes of one size in [1, C, H, W]: [2, G, probes]."""
    stacked = torch.stack([position.cut(x)[0] for position in positions]).float()
    variance, mean = torch.var_mean(stacked.view(len(positions), groups, -1), 2, correction=0)
    return torch.stack([mean.T, variance.T])


def pooled_parts(parts: list[Moments], sizes: list[int]) -> Moments:
    """Parts [G] of different `sizes` as one."""
    share = torch.tensor(sizes, device=parts[0].mean.device) / sum(sizes)
    return Moments(*(torch.stack(each, -1) for each in zip(*parts, strict=True))).pooled(share)


class MomentShift(NamedTuple):
    """How the moments of one thing moved: means by a `step`, variances (and an epsilon) by a `factor` [G]."""

    step: Tensor
    factor: Tensor
    eps: float

    @classmethod
    def between(cls, old: Moments, new: Moments, eps: float) -> MomentShift:
        """Find the shift that makes `new` of `old`, both [G]."""
        return cls(new.mean - old.mean, (new.variance + eps) / (old.variance + eps), eps)

    def apply(self, to: Moments) -> Moments:
        """Shift moments [G, ...]."""
        return Moments(
            to.mean + self.along(to.mean, self.step),
            (to.variance + self.eps) * self.along(to.mean, self.factor) - self.eps,
        )

    def undo(self, to: Moments) -> Moments:
        """The inverse of `apply`."""
        variance = (to.variance + self.eps) / self.along(to.mean, self.factor) - self.eps
        return Moments(to.mean - self.along(to.mean, self.step), variance.clamp_min(0))

    @staticmethod
    def along(like: Tensor, each: Tensor) -> Tensor:
        """Reshape [G] to broadcast over moments [G, ...]."""
        return each.view(-1, *[1] * (like.dim() - 1))


class ChannelAffine(NamedTuple):
    """How the values of each channel moved: by a `gain` and a `step` [C]."""

    gain: Tensor
    step: Tensor

    @classmethod
    def between(cls, old: Tensor, new: Tensor, share: Tensor) -> ChannelAffine:
        """Least squares over probes [C, probes, px], each of a `share` [probes]; channels that hardly vary keep their
        gain.
        """
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
        """The inverse of `apply`."""
        return ((to.float() - self.step[:, None, None]) / self.gain[:, None, None]).to(to)


def normalised(x: Tensor, moments: Moments, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of [1, C, H, W] with given statistics [G], weight and bias [C], computed in float32 whatever x is."""
    mean, variance = (value.repeat_interleave(x.shape[1] // len(value)) for value in moments)
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)


SPIKE = 16.0


def groupnorm_affine(module: nn.GroupNorm, original: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Recover the weight and bias [C] that a GroupNorm applies, whatever the host casts, in float32: from a map of
    zeros and from a spike.

    The spike is high, so that half precision rounds the weight and not what the bias makes of it.
    """
    probe = x.new_zeros(2, module.num_channels, 1, int(SPIKE**2) + 1)
    probe[1, ..., 0] = SPIKE
    given = original(probe).float()
    deviation, mean = torch.std_mean(probe[1, 0].float(), correction=0)
    bias = given[0, :, 0, 0]
    return (given[1, :, 0, 0] - bias) * ((deviation**2 + module.eps).sqrt() / (SPIKE - mean)), bias
