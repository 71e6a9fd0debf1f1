"""Differential denoising (Levin and Fried 2023, arXiv 2306.00950): tokens of less strength join at a lower noise level.

Until then a token is the canvas, noised to the level that the others have come to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Grid
from ..tokens import HoleTokens


def token_strength(weight: Tensor, hole: HoleTokens, grid: Grid) -> Tensor:
    """Weight [B, H, W] of a soft mask -> strength [B, K] of the hole's tokens: the largest weight in each."""
    padded = grid.pad(weight[:, None].float(), value=0.0)
    return hole.cut(F.max_pool2d(padded, grid.token_pixels), 1)[..., 0]


def relative(strength: Tensor) -> Tensor:
    """Strength [B, K] in shares of each hole's strongest token.

    A hole that is grey all over is generated in full, and blended weakly.
    """
    return strength / strength.amax(1, keepdim=True).clamp_min(1e-6)


def joined(strength: Tensor, time: float, first: float, last: float, final: bool) -> Tensor:
    """Tell which tokens take part at `time`: bool, the shape of `strength` in 0..1.

    A run's timesteps fall from `first` to `last`. As ComfyUI's DifferentialDiffusion node has it, but that all take
    part in the `final` step, however few steps there are.
    """
    if final:
        return torch.ones_like(strength, dtype=torch.bool)
    return strength >= (time - last) / (first - last)


Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, K, D], sigma [B]) -> x0 [B, K, D]"""


def differential(
    denoise: Denoiser, strength: Tensor, start: Tensor, noised: Callable[[Tensor], Tensor], times: Tensor
) -> Denoiser:
    """Make a denoiser for tokens of `strength` [B, K] that are clean `start` [B, K, D] until they join.

    `noised(sigma)` is `start` at a noise level; `times` [steps + 1] are the sampler's noise levels, of which those
    after the last but one are the final step.
    """

    def step(x: Tensor, sigma: Tensor) -> Tensor:
        now = float(sigma.flatten()[0])
        final = now <= float(times[-2]) * (1 + 1e-6)
        part = joined(strength, now, float(times[0]), float(times[-1]), final)[..., None].to(x)
        x0 = denoise(x * part + noised(sigma.flatten()[0]) * (1 - part), sigma)
        return x0 * part + start * (1 - part)

    return step
