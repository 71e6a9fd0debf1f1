"""Holes larger than those that a model was trained on: it sees the canvas smaller, and what it draws is enlarged."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .blend.background import Matte
from .config import LazyConfig
from .geometry import Box, Grid
from .masks import boxes_of, in_cells

LARGEST = 11 / 16  # of the canvas's side that a model was trained on: in holes up to there it draws what was asked for
FAMILIAR = 5 / 8  # holes that are seen smaller become no larger than this: as most that it was trained on
THINNEST = 40  # px that a hole is to be thick still in what the model sees
SPECK = 24  # px of a side: holes no larger do not say how the others are seen
CELL = 8  # px a side of the cells in which holes are told apart and thickness is measured
AGREES = 0.1  # how far apart new and old content are, of 1, where little of the old one's detail is left
MARGIN = 4  # px of what the model sees that are enlarged around a hole, for who compares what is next to it


def downscale_for(hole: Tensor, trained: int | None) -> int:
    """How many times smaller a model is to see canvases with holes [B, H, W] bool, for none to be larger than it knows.

    `trained` is the side in px of the canvases that it was trained on, which it sees as they are; None: it knows all
    sizes. A hole stays as thick
    as an object needs: of a long thin one, or a small one beside it, nothing would be left. A batch is seen as its
    image that asks for least: a larger hole in one changes nothing in the others.
    """
    if trained is None or max(hole.shape[-2:]) <= trained:
        return 1
    return min((_downscale(own, trained) for own in hole if bool(own.any())), default=1)


def _downscale(hole: Tensor, trained: int) -> int:
    cells = in_cells(hole, CELL).cpu().numpy()
    labels, _ = ndimage.label(cells, structure=np.ones((3, 3)))  # type: ignore[misc]
    sides, thin = {}, hole.numel()
    for number, (rows, cols) in enumerate(ndimage.find_objects(labels), 1):
        own = labels[rows, cols] == number
        pixels = Box(rows.start, cols.start, rows.stop, cols.stop).times(CELL).cut(hole)
        inside = torch.from_numpy(own).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        box = Box.around(pixels.cpu() & inside[: pixels.shape[0], : pixels.shape[1]])
        if box is not None and max(box.size) > SPECK:
            sides[number] = max(box.size)
            thin = min(thin, thickness(own))
    largest = max(sides.values(), default=0)
    if largest <= LARGEST * trained:
        return 1
    times = min(math.ceil(largest / (FAMILIAR * trained)), thin // THINNEST)
    while times > 1 and _joined(hole, labels, list(sides), times):
        times -= 1
    return max(times, 1)


def _joined(hole: Tensor, labels: np.ndarray, holes: list[int], times: int) -> bool:
    """Whether any two of the `holes` among the `labels` of cells would touch in cells so many times larger."""
    coarse, _ = ndimage.label(in_cells(hole, CELL * times).cpu().numpy(), structure=np.ones((3, 3)))  # type: ignore[misc]
    rows, cols = np.isin(labels, holes).nonzero()
    pairs = np.unique(np.stack([coarse[rows // times, cols // times], labels[rows, cols]]), axis=1)
    return len(np.unique(pairs[0])) < pairs.shape[1]


def known_side(grid: Grid, config: LazyConfig) -> int | None:
    """The side in px of the largest hole in which a model draws what was asked for, on a canvas as it sees it; None: it
    knows all sizes.
    """
    trained = config.trained_pixels
    if trained is None:
        return None
    alone = config.enlarged_from is not None and grid.downscale == 1 and max(grid.height, grid.width) > trained
    return round(LARGEST * trained) if alone else trained * grid.downscale


def thickness(cells: np.ndarray) -> int:
    """About the diameter in px of the largest disc in a hole of `cells` [h, w] bool, each `CELL` px a side."""
    return round((2 * float(np.asarray(ndimage.distance_transform_edt(np.pad(cells, 1))).max()) - 1) * CELL)


def enlarged(decoded: Tensor, hole: Tensor, grid: Grid) -> Tensor:
    """Decoded pixels [B, 3, H', W'] of what the model sees, as large as the padded image where a hole [B, H, W] bool
    is; elsewhere anything.
    """
    factor = grid.downscale
    if factor == 1:
        return decoded
    result = decoded.new_empty(*decoded.shape[:2], decoded.shape[2] * factor, decoded.shape[3] * factor)
    small = Box(0, 0, *decoded.shape[-2:])
    for index, own in enumerate(hole):
        for box in boxes_of(own, MARGIN * factor):
            part = box.aligned(factor).divided(factor).within(small)
            large = F.interpolate(part.cut(decoded[index : index + 1]), scale_factor=factor, mode="bicubic")
            part.times(factor).cut(result[index]).copy_(large[0].clamp(0, 1))
    return result


def with_detail(pixels: Tensor, image: Tensor, hole: Tensor, share: Tensor, grid: Grid) -> Tensor:
    """Enlarged pixels [B, 3, H, W] with a `share` [B, H, W] in 0..1 of what the image [B, 3, H, W] has and its smaller
    copy has not: old content that shows through stays sharp, as far as the new pixels still show it.
    """
    if grid.downscale == 1:
        return pixels
    padded = grid.pad(image)
    smooth = grid.crop(enlarged(grid.seen(padded), hole, grid))
    apart = F.avg_pool2d((pixels - smooth).abs().mean(1, keepdim=True), 5, 1, 2)
    kept = share[:, None] * torch.exp(-((apart / AGREES) ** 2))
    return torch.where(hole[:, None], (pixels + kept * (image - smooth)).clamp(0, 1), pixels)


def seen_smaller(matte: Matte, factor: int, image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """Ask `matte` of pictures that are `factor` times smaller; its answers are as large as those that came."""
    if factor == 1:
        return matte(image, fill, hole)
    height, width = hole.shape[-2:]
    grid = Grid(height, width, 1, 1, factor)
    told = matte(grid.seen(grid.pad(image)), grid.seen(grid.pad(fill)), in_cells(hole, factor))
    alpha, light = (grid.crop(F.interpolate(each, scale_factor=factor, mode="bilinear")) for each in told)
    return alpha, light
