"""What stands in a hole before anything reads the canvas: a smooth continuation of what is visible. 1 = hole
(generate), 0 = keep.
"""

from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Box
from ..masks import COARSE, boxes_of, in_cells

CELLS = COARSE.bit_length() - 1  # halvings from pixels to cells


Level = tuple[Tensor, Tensor]
"""For each cell of a canvas the average [B, C, h, w] of its pixels, hidden ones as zeros, and the share of visible ones
[B, 1, h, w].
"""


def prefill(image: Tensor, hole: Tensor) -> Tensor:
    """Replace the hole of [B, C, H, W] by a smooth continuation of what is visible; hole [B, H, W] bool. A new tensor.

    Push-pull: ever coarser averages of visible pixels alone, so nothing of the hole's old content survives and a
    convolutional VAE sees no edge at the mask's border. An image without a visible pixel becomes mid-grey. Only what a
    hole depends on is looked at: its pixels and, as far as the coarsest averages reach, cells of `COARSE` px.
    """
    result, canvas = image.clone(), Box(0, 0, *image.shape[-2:])
    for index, own in enumerate(hole):
        boxes = boxes_of(own)
        if not boxes:
            continue
        if boxes == [canvas] and bool(own.all()):
            result[index] = 0.5
            continue
        picture = image[index : index + 1]
        nears = [box.grown(COARSE).within(canvas) for box in boxes]
        fine = [push(visible(near.cut(picture), ~near.cut(own)), CELLS) for near in nears]
        fars = [seen_by_push_pull(box, own) for box in boxes]
        seen = reduce(Box.union, fars)
        coarse = cell_averages(seen.cut(picture))
        cells = [near.moved(-seen.top, -seen.left).aligned(COARSE).divided(COARSE) for near in nears]
        for inside, levels in zip(cells, fine, strict=True):
            for everything, part in zip(coarse, levels.pop(), strict=True):
                inside.cut(everything).copy_(part)
        for box, near, far, inside, levels in zip(boxes, nears, fars, cells, fine, strict=True):
            around = far.moved(-seen.top, -seen.left).aligned(COARSE).divided(COARSE)
            filled = pull(push((around.cut(coarse[0]), around.cut(coarse[1]))))
            filled = pull(levels, inside.moved(-around.top, -around.left).cut(filled))
            box.cut(result[index]).copy_(box.moved(-near.top, -near.left).cut(filled[0]))
    return result


def seen_by_push_pull(box: Box, hole: Tensor) -> Box:
    """What the averages of what is inside `box` depend on, with this hole [H, W]: squares that all show something, two
    around it.
    """
    canvas, side = Box(0, 0, *hole.shape), max(COARSE, 1 << min(box.height, box.width).bit_length())
    while True:
        far = box.grown(2 * side).aligned(side).within(canvas)
        if far == canvas or bool(in_cells(~far.cut(hole), side).all()):
            return far
        side *= 2


def visible(image: Tensor, keep: Tensor) -> Level:
    """Pixels [1, C, H, W], of which those of `keep` [H, W] bool are visible. Channels come first: for three, pooling is
    faster so.
    """
    return torch.where(keep, image, 0.0).contiguous(), keep[None, None].to(image.dtype)


def cell_averages(image: Tensor) -> Level:
    """[B, C, H, W], all of it visible, in cells of `COARSE` px."""
    height, width = image.shape[-2:]
    if height % COARSE or width % COARSE:
        colour = F.avg_pool2d(image, COARSE, ceil_mode=True)
    else:  # the host's images have their channels last, and whole rows are read at memory's speed
        colour = (
            image.movedim(1, -1).unflatten(1, (-1, COARSE)).mean(2).unflatten(2, (-1, COARSE)).mean(3).movedim(-1, 1)
        )
    return colour, colour.new_ones(len(colour), 1, *colour.shape[-2:])


def push(level: Level, halvings: int | None = None) -> list[Level]:
    """The level and coarser ones, each of half the size: so many, or until something is visible in each cell."""
    levels = [level]
    while (
        len(levels) <= halvings
        if halvings is not None
        else max(levels[-1][1].shape[-2:]) > 1 and not bool(levels[-1][1].all())
    ):
        colour, weight = (F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1])
        levels.append((colour, weight))
    return levels


def pull(levels: list[Level], filled: Tensor | None = None) -> Tensor:
    """The finest level's colours [B, C, h, w], with those of the next coarser one where nothing is visible.

    `filled` is what is next to the coarsest level; without it, that one is mid-grey where nothing is visible.
    """
    for colour, weight in reversed(levels):
        if filled is None:
            coarse = torch.full_like(colour, 0.5)
        else:
            height, width = colour.shape[-2:]
            coarse = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
        filled = torch.where(weight > 0, colour / weight.clamp_min(1e-8), coarse)
    assert filled is not None
    return filled
