"""Masks as people draw them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .draw import Draw


def user_masks(draw: Draw, alpha: Tensor, box: Tensor, everything: float = 0.02) -> Tensor:
    """Masks [B, 1, H, W] that cover the object `alpha` [B, 1, H, W] in `box` [B, 3] (centre x, y, side in 0..1).

    Grown silhouettes, boxes, ellipses, loose blobs, generous boxes, and in a share `everything` the whole canvas.
    """
    count, _, size, _ = alpha.shape
    y, x = torch.meshgrid(*[(torch.arange(size, device=draw.device) + 0.5) / size] * 2, indexing="ij")
    solid = (alpha > 0.02).float()
    fine = grow(solid, size // 64)
    medium = grow(fine, size // 64)
    broad = grow(medium, size // 32)
    brush = draw.integers(count, 1, 1, 1, high=3)
    grown = torch.where(brush == 0, fine, torch.where(brush == 1, medium, broad))
    margin = 1 + draw.uniform(count, 2, 1, 1, high=0.6) ** 2
    margin = margin * torch.where(draw.uniform(count, 1, 1, 1) < 0.08, 1 + draw.uniform(count, 1, 1, 1, high=1.5), 1.0)
    dx, dy = ((p - box[:, i, None, None]) / box[:, 2, None, None] * 2 / margin[:, i] for i, p in enumerate((x, y)))
    square = ((dx.abs() < 1) & (dy.abs() < 1)).float()[:, None]
    ellipse = (dx**2 + dy**2 < 1.35).float()[:, None]
    blob = F.interpolate(draw.uniform(count, 1, 6, 6), size=(size, size), mode="bicubic", align_corners=True)
    loose = torch.maximum(ellipse, (blob > 0.75).float() * (dx**2 + dy**2 < 4).float()[:, None])
    choice = draw.uniform(count, 1, 1, 1)
    mask = torch.where(
        choice < 0.45, grown, torch.where(choice < 0.68, square, torch.where(choice < 0.9, ellipse, loose))
    )
    whole = draw.uniform(count, 1, 1, 1) < everything
    return torch.where(whole, torch.ones_like(mask), torch.maximum(mask, solid))


def edge_masks(draw: Draw, count: int, size: int) -> Tensor:
    """Return masks [B, 1, size, size] of strips along the canvas's sides: one side, a corner's two, opposite ones, or a
    whole frame.
    """
    sides = torch.tensor(
        [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], device=draw.device
    )  # left, right, top, bottom
    kind = torch.where(draw.uniform(count) < 0.6, 0, 1 + draw.integers(count, high=3))
    chosen = sides[kind]
    turn = (torch.arange(4, device=draw.device)[None] + draw.integers(count, 1, high=4)) % 4
    share = draw.uniform(count, 4, low=0.1, high=0.5) / (1 + (kind > 0).float()[:, None])
    wide = (share * size * chosen.gather(1, turn)).view(count, 4, 1, 1)
    place = torch.arange(size, device=draw.device)
    across, down = place[None, None], place[:, None][None]
    near = (across < wide[:, 0]) | (across >= size - wide[:, 1]) | (down < wide[:, 2]) | (down >= size - wide[:, 3])
    return near.float()[:, None]


def grow(mask: Tensor, radius: int) -> Tensor:
    """Square dilation, one axis after the other: the cost follows the radius, not its square."""
    wide = F.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))
    return F.max_pool2d(wide, (2 * radius + 1, 1), 1, (radius, 0))
