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


def threshold(mask: Tensor) -> Tensor:
    """Soft mask [..., H, W] -> bool, True = hole. A pixel belongs to the hole from one half on."""
    return mask >= 0.5


def dilate(mask: Tensor, pixels: int, shape: Shape = "circle", fill: bool = False) -> Tensor:
    """Grow every hole of a mask [B, H, W] by `pixels` px, and `fill` what a hole encloses. Returns float 0/1, a new tensor."""
    holes = threshold(mask).cpu().numpy()
    grown = np.stack([_dilate(hole, pixels, shape) for hole in holes])
    if fill:
        grown = np.stack([np.asarray(ndimage.binary_fill_holes(hole)) for hole in grown])
    return torch.from_numpy(grown).to(mask.device, torch.float32)


def _dilate(hole: np.ndarray, pixels: int, shape: Shape) -> np.ndarray:
    if pixels == 0 or not hole.any():
        return hole
    if shape == "square":
        return np.asarray(ndimage.maximum_filter(hole, size=2 * pixels + 1, mode="constant", cval=0))
    return np.asarray(ndimage.distance_transform_edt(~hole)) <= pixels


def token_mask(hole: Tensor, grid: Grid) -> Tensor:
    """Pixel holes [B, H, W] bool -> hole tokens [B, N] bool by max-pooling: any masked pixel makes its token a hole (section 3.1)."""
    padded = grid.pad(hole[:, None].float(), value=0.0)
    return F.max_pool2d(padded, grid.token_pixels).flatten(1) > 0


def latent_mask(hole: Tensor, grid: Grid) -> Tensor:
    """Pixel holes [B, H, W] bool -> float [B, 1, h, w], 1 where any pixel of the latent is masked."""
    return F.max_pool2d(grid.pad(hole[:, None].float(), value=0.0), grid.scale)


COARSE = 16  # px a side of the cells in which holes are looked for


def boxes_of(hole: Tensor, margin: int = 0) -> list[Box]:
    """Disjoint boxes that hold the holes of [H, W] bool; the `margin` px around, where they are on the canvas, are in them, and kept."""
    cells = F.max_pool2d(hole[None].float(), COARSE, ceil_mode=True)[0].cpu().numpy() > 0
    labels, _ = ndimage.label(cells, structure=np.ones((3, 3)))  # type: ignore[misc]
    found = [Box(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in ndimage.find_objects(labels)]
    canvas = Box(0, 0, *hole.shape)
    return merged([box.times(COARSE).grown(margin).within(canvas) for box in found])


SMALL = 512 * 512  # px, which are filled as a whole


def prefill(image: Tensor, hole: Tensor) -> Tensor:
    """Replace the hole of [B, C, H, W] by a smooth continuation of what is visible; hole [B, H, W] bool. A new tensor.

    Push-pull: ever coarser averages of visible pixels alone, so nothing of the hole's old content survives and a
    convolutional VAE sees no edge at the mask's border. An image without a visible pixel becomes mid-grey.
    Large canvases are looked at around their holes only.
    """
    if hole[0].numel() <= SMALL:
        return push_pull(image, hole)
    result = image.clone()
    for index, own in enumerate(hole):
        for box in boxes_of(own):
            window = seen_by_push_pull(box, Box(0, 0, *own.shape))
            filled = push_pull(window.cut(image[index : index + 1]), window.cut(own[None]))
            box.cut(result[index]).copy_(box.moved(-window.top, -window.left).cut(filled[0]))
    return result


def seen_by_push_pull(box: Box, canvas: Box) -> Box:
    """What the averages of a hole inside `box` depend on: a square of the coarsest level holds a visible pixel, and two of these around."""
    side = 1 << min(box.height, box.width).bit_length()
    return box.grown(2 * side).aligned(side).within(canvas)


def push_pull(image: Tensor, hole: Tensor) -> Tensor:
    keep = (~hole[:, None]).to(image.dtype)
    if not keep.any():
        return torch.full_like(image, 0.5)
    levels = [(image * keep, keep)]
    while min(levels[-1][1].shape[-2:]) > 1 and not bool((levels[-1][1] > 0).all()):
        colour, weight = levels[-1]
        levels.append((F.avg_pool2d(colour, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)))
    colour, weight = levels[-1]
    grey = torch.full_like(colour, 0.5)
    filled = torch.where(weight > 0, colour / weight.clamp_min(1e-8), grey)
    for colour, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=colour.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, colour / weight.clamp_min(1e-8), coarse)
    return filled
