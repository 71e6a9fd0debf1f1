"""Noise levels, falling to 0. What they mean is in `parametrisation`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import Prediction


def sigmas(prediction: Prediction, steps: int, denoise: float = 1.0) -> Tensor:
    """[steps + 1] falling to 0. `denoise` < 1 keeps the last part of a proportionally longer schedule (SDEdit). Raises ValueError."""
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1.")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}, expected more than 0 and at most 1.")
    total = int(steps / denoise)
    if prediction == "flow_x0":
        levels = torch.linspace(1, 0, total + 1)
    else:
        table = ddpm_sigmas()
        picks = torch.linspace(len(table) - 1, 0, total).round().long()
        levels = torch.cat([table[picks], torch.zeros(1)])
    return levels[-(steps + 1) :]


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Flow's levels moved towards noise (`shift` > 1) or towards the clean end (< 1); 0 and 1 stay (Esser et al. 2024, eq. 23)."""
    return shift * levels / (1 + (shift - 1) * levels)


def ddpm_sigmas(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> Tensor:
    """DDPM's linear betas as sigma = sqrt((1 - a) / a), ascending: PixArt-alpha's training schedule."""
    alphas = torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0)
    return ((1 - alphas) / alphas).sqrt().float()
