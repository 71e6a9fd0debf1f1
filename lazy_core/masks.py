"""Masks. Polarity everywhere: 1 = hole (generate), 0 = keep."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .geometry import Box, Grid, merged

Shape = Literal["circle", "square"]
SHAPES: tuple[Shape, ...] = get_args(Shape)


FLOOR = (
    4 / 255
)  # of a soft mask: up to here it is 0, from 1 - FLOOR on 1, so that a blur's long tail does not grow the hole


def holes_of(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """Split a mask [..., H, W] into its holes, bool: all above `FLOOR`; and its weight.

    The weight is a soft mask's, in 0..1 and 0 outside the holes; None for a hard mask.
    """
    hole = mask > FLOOR
    pairs = zip(*(x.reshape(-1, *mask.shape[-2:]) for x in (mask, hole)), strict=True)
    grey = (box.cut(own) & (box.cut(values) < 1 - FLOOR) for values, own in pairs for box in boxes_of(own))
    if not any(bool(part.any()) for part in grey):
        return hole, None
    return hole, torch.where(mask >= 1 - FLOOR, 1.0, torch.where(hole, mask.float(), 0.0))


def threshold(mask: Tensor) -> Tensor:
    """Soft mask [..., H, W] -> bool, True = hole. A pixel belongs to the hole from one half on."""
    return mask >= 0.5


def mostly_black(image: Tensor, hole: Tensor) -> bool:
    """Tell whether more than half of a hole [B, H, W] bool is exactly black in [B, 3, H, W].

    Programs leave what is transparent so.
    """
    black = total = 0
    for picture, own in zip(image, hole, strict=True):
        for box in boxes_of(own):
            inside = box.cut(own)
            total += int(inside.count_nonzero())
            black += int((inside & (box.cut(picture) == 0).all(0)).count_nonzero())
    return 2 * black > total


LEVELS = 16  # that a soft mask is grown at, where it has more values than these


def dilate(mask: Tensor, pixels: int, shape: Shape = "circle", fill: bool = False) -> Tensor:
    """Grow every hole of a mask [B, H, W] by `pixels` px, and `fill` what a hole encloses. Returns float in 0..1, a new
    tensor.

    A soft mask grows at each of its values (greyscale dilation by threshold decomposition): a pixel gets the highest
    value within reach. Of more than `LEVELS` values the grown part takes the next lower of that many.
    """
    hole, weight = holes_of(mask)
    if weight is None:
        grown = [_grown(own, pixels, shape, fill).astype(np.float32) for own in hole.cpu().numpy()]
    else:
        grown = [_soft_grown(own, pixels, shape, fill) for own in weight.cpu().numpy()]
    return torch.from_numpy(np.stack(grown)).to(mask.device)


def _soft_grown(weight: np.ndarray, pixels: int, shape: Shape, fill: bool) -> np.ndarray:
    result, levels = weight.copy(), np.unique(weight[weight > 0])
    if len(levels) > LEVELS:
        levels = np.arange(1, LEVELS + 1, dtype=weight.dtype) / LEVELS
    for level in levels:
        grown = _grown(weight >= level, pixels, shape, fill)
        result[grown & (result < level)] = level
    return result


def _grown(hole: np.ndarray, pixels: int, shape: Shape, fill: bool) -> np.ndarray:
    grown = _dilate(hole, pixels, shape)
    return np.asarray(ndimage.binary_fill_holes(grown)) if fill else grown


def _dilate(hole: np.ndarray, pixels: int, shape: Shape) -> np.ndarray:
    if pixels == 0 or not hole.any():
        return hole
    if shape == "square":
        return np.asarray(ndimage.maximum_filter(hole, size=2 * pixels + 1, mode="constant", cval=0))
    return np.asarray(ndimage.distance_transform_edt(~hole)) <= pixels


def in_cells(flags: Tensor, side: int) -> Tensor:
    """[..., H, W] bool -> [..., H / side, W / side] bool (rounded up): in which square cells anything is True."""
    height, width = flags.shape[-2:]
    if height % side or width % side:
        flags = F.pad(flags, (0, -width % side, 0, -height % side))
    found = (
        flags.view(torch.uint8).unflatten(-2, (-1, side)).amax(-2)
    )  # whole rows first: that is read at memory's speed
    return found.unflatten(-1, (-1, side)).amax(-1) > 0


def hole_token_mask(hole: Tensor, grid: Grid) -> Tensor:
    """Pixel holes [B, H, W] bool -> hole tokens [B, N] bool by max-pooling: any masked pixel makes its token a hole
    (section 3.1).
    """
    return in_cells(hole, grid.token_pixels).flatten(1)


def latent_mask(hole: Tensor, grid: Grid) -> Tensor:
    """Pixel holes [B, H, W] bool -> float [B, 1, h, w], 1 where any pixel of the latent is masked."""
    return in_cells(grid.pad(hole[:, None], value=0.0), grid.latent_pixels).float()


COARSE = 16  # px a side of the cells in which holes are looked for, and in which what is far from them is averaged


def boxes_of(hole: Tensor, margin: int = 0) -> list[Box]:
    """Disjoint boxes that hold the holes of [H, W] bool; the `margin` px around, where they are on the canvas, are in
    them, and kept.
    """
    labels, _ = ndimage.label(in_cells(hole, COARSE).cpu().numpy(), structure=np.ones((3, 3)))  # type: ignore[misc]
    found = [Box(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in ndimage.find_objects(labels)]
    canvas = Box(0, 0, *hole.shape)
    return merged([box.times(COARSE).grown(margin).within(canvas) for box in found])


def largest_side(hole: Tensor) -> int:
    """The longer side in px of the largest hole in [B, H, W] bool; holes whose cells touch count as one."""
    found = [Box.around(box.cut(own)) for own in hole for box in boxes_of(own)]
    return max((max(box.size) for box in found if box is not None), default=0)
