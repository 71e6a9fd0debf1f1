"""Noise levels, as tables and as they are moved. What they mean is in `parametrisation`."""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Move a flow's levels towards noise (`shift` > 1) or towards the clean end (< 1); 0 and 1 stay (Esser et al. 2024,
    eq. 23).
    """
    return shift * levels / (1 + (shift - 1) * levels)


def ddpm_sigmas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """Return DDPM's linear betas as sigma = sqrt((1 - a) / a), ascending [steps]: PixArt-alpha's training schedule."""
    alphas = torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0)
    return ((1 - alphas) / alphas).sqrt().float()
