"""The square crop around a mask that RegenerateCrop sees."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CONTEXT = 1.5  # side of the crop, in longer sides of the mask's box
LEAST = 3 / 16  # and never less than this share of the canvas


@dataclass(frozen=True)
class CropBox:
    """Squares inside the canvas: `left`, `top` and `side` [B] in whole px."""

    left: Tensor
    top: Tensor
    side: Tensor


def bounds(mask: Tensor) -> Tensor:
    """Masks [B, 1, H, W] -> [B, 4]: left, top, right, bottom in px, half open; the whole canvas for an empty mask."""
    result = []
    for axis in (2, 3):  # over rows: columns remain
        line = mask[:, 0].amax(axis - 1) > 0.5  # [B, W or H]
        length = line.shape[1]
        first = line.float().argmax(1)
        last = length - line.flip(1).float().argmax(1)
        result.append((first, torch.where(line.any(1), last, length)))
    (left, right), (top, bottom) = result
    return torch.stack([left, top, right, bottom], 1)


def crop_boxes(mask: Tensor) -> CropBox:
    """The tight square around each mask [B, 1, H, W], CONTEXT times its box's longer side, moved and cut to fit the
    canvas.
    """
    height, width = mask.shape[-2:]
    least = round(LEAST * min(height, width))
    left, top, right, bottom = bounds(mask).unbind(1)
    longer = torch.maximum(right - left, bottom - top)
    side = (longer * CONTEXT).ceil().long().clamp(least, min(height, width))
    x = torch.minimum(((left + right - side) // 2).clamp_min(0), width - side)
    y = torch.minimum(((top + bottom - side) // 2).clamp_min(0), height - side)
    return CropBox(x, y, side)


def inside(crop: CropBox, size: int) -> Tensor:
    """[B, 1, size, size]: 1 within each crop."""
    place = torch.arange(size, device=crop.side.device)
    column, row = (
        (place >= start[:, None]) & (place < (start + crop.side)[:, None]) for start in (crop.left, crop.top)
    )
    return (row[:, :, None] & column[:, None, :]).float()[:, None]


def cut(image: Tensor, boxes: CropBox, side: int, grow: bool = False) -> Tensor:
    """Squares of [B, C, H, W] resized to [B, C, side, side]; `grow`: every pixel that a mask touches at all becomes
    1.
    """
    parts = []
    for picture, x, y, width in zip(image, boxes.left.tolist(), boxes.top.tolist(), boxes.side.tolist(), strict=True):
        part = picture[None, :, y : y + width, x : x + width]
        parts.append(F.interpolate(part, (side, side), mode="bilinear", antialias=True)[0])
    result = torch.stack(parts)
    return (result > 0.01).float() if grow else result.clamp(0, 1)


def put_back(canvas: Tensor, squares: Tensor, boxes: CropBox) -> Tensor:
    """The inverse of `cut`: a new [B, 3, H, W] with each square resized into its place."""
    result = canvas.clone()
    for i, (x, y, width) in enumerate(zip(boxes.left.tolist(), boxes.top.tolist(), boxes.side.tolist(), strict=True)):
        part = F.interpolate(squares[i : i + 1], (width, width), mode="bilinear", antialias=True)[0]
        result[i, :, y : y + width, x : x + width] = part
    return result
