"""Surfaces as they occur in pictures, made from random numbers: grain, marble, out-of-focus lights, print and lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import Draw

SHADES = 4  # colours that a surface goes through


def surfaces(draw: Draw, count: int, size: int) -> Tensor:
    """Return [B, 3, size, size] in 0..1: noise of several octaves, gradients with grain, bokeh, lines and print."""
    height = octaves(draw, count, size)  # [B, 1, size, size] in 0..1
    colours = draw.uniform(count, SHADES, 3, low=0.02, high=0.98)
    spread = draw.uniform(count, 1, 1, low=0.1, high=1.0)
    colours = colours[:, :1] + (colours - colours[:, :1]) * spread
    image = through(colours, height)
    flat = through(colours, slopes(draw, count, size))
    kind = draw.integers(count, 1, 1, 1, high=4)
    image = torch.where(kind == 0, flat, torch.where(kind == 1, flat + bokeh(draw, count, size), image))
    image = torch.where(kind == 2, image * lines(draw, count, size), image)
    grain = torch.randn(image.shape, generator=draw.generator, device=draw.device) * draw.uniform(
        count, 1, 1, 1, high=0.06
    )
    return (image + grain * (draw.uniform(count, 1, 1, 1) < 0.6)).clamp(0, 1)


def octaves(draw: Draw, count: int, size: int) -> Tensor:
    """Return fractal noise [B, 1, size, size] in 0..1, longer in one direction in some images."""
    total = torch.zeros(count, 1, size, size, device=draw.device)
    fall = draw.uniform(count, 1, 1, 1, low=0.35, high=0.85)
    for octave in range(6):
        side = 3 * 2**octave
        noise = F.interpolate(draw.uniform(count, 1, side, side), size=(size, size), mode="bicubic", align_corners=True)
        long = F.interpolate(draw.uniform(count, 1, side, 3), size=(size, size), mode="bicubic", align_corners=True)
        total = total + torch.where(draw.uniform(count, 1, 1, 1) < 0.2, long, noise) * fall**octave
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low)


def slopes(draw: Draw, count: int, size: int) -> Tensor:
    """Return a slope in some direction [B, 1, size, size] in 0..1."""
    y, x = torch.meshgrid(*[torch.linspace(-0.5, 0.5, size, device=draw.device)] * 2, indexing="ij")
    angle = draw.uniform(count, 1, 1, 1, high=6.2832)
    return ((x * angle.cos() + y * angle.sin()) * 0.7 + 0.5).clamp(0, 1)


def through(colours: Tensor, height: Tensor) -> Tensor:
    """Return the colours [B, S, 3] that heights [B, 1, H, W] in 0..1 lie between, [B, 3, H, W]."""
    place = height * (colours.shape[1] - 1)
    weights = [(1 - (place - index).abs()).clamp_min(0) for index in range(colours.shape[1])]
    return sum(
        (weight * colours[:, index, :, None, None] for index, weight in enumerate(weights)), torch.zeros_like(height)
    )


def bokeh(draw: Draw, count: int, size: int) -> Tensor:
    """Return lights out of focus [B, 3, size, size]: discs of some colours."""
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size, device=draw.device)] * 2, indexing="ij")
    image = torch.zeros(count, 3, size, size, device=draw.device)
    for _ in range(8):
        centre, radius = draw.uniform(count, 2, 1, 1), draw.uniform(count, 1, 1, low=0.03, high=0.15)
        inside = ((radius - ((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2).sqrt()) / 0.02).clamp(0, 1)
        image = image + inside[:, None] * draw.uniform(count, 3, 1, 1, low=-0.1, high=0.35)
    return image


def lines(draw: Draw, count: int, size: int) -> Tensor:
    """Return [B, 1, size, size] in 0..1 to multiply with: rows of dashes like print, and rules like joints and
    seams.
    """
    y, x = torch.meshgrid(*[torch.arange(size, device=draw.device)] * 2, indexing="ij")
    pitch = draw.integers(count, 1, 1, high=14) + 7
    row = y // pitch
    dashes = draw.uniform(count, size, size // 3) < 0.6
    on = dashes[torch.arange(count, device=draw.device)[:, None, None], row, (x // 3).clamp(max=size // 3 - 1)]
    printed = on & (y % pitch < pitch // 2)
    ruled = (y % (pitch * 3) < 2) | (x % (pitch * 4) < 2)
    dark = torch.where(draw.uniform(count, 1, 1) < 0.5, printed, ruled)
    return 1 - dark[:, None] * draw.uniform(count, 1, 1, 1, low=0.1, high=0.8)
