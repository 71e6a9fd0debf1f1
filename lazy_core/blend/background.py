"""What a hole shows beside the object in it: the picture's own texture, in the shadow that the object throws."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Box
from ..masks import boxes_of
from .prefill import prefill
from .texture import continue_texture

Matte = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`networks.matte.ObjectMatte`: (edited image, smooth fill [B, 3, H, W], hole [B, H, W]) -> how much of each pixel is
the object's, and the light that its shadow leaves, [B, 1, H, W].
"""

HALO = 32  # px around a hole that the matte looks at


def texture_of(image: Tensor, mask: Tensor, fill: Tensor | None = None) -> Tensor:
    """Canvas [B, 3, H, W] and mask [B, H, W] bool (True = hole) -> [P, 4] for the hole's pixels, image by image and row
    by row: colours, as the picture around them goes on, and 1; 0 where too little of it is visible. On the CPU.

    `fill`: the canvas filled smoothly, if somebody made it already.
    """
    filled, done = continue_texture(image.cpu(), mask.cpu(), None if fill is None else fill.cpu())
    return torch.cat([filled, done[:, None].to(filled)], 1).movedim(1, -1)[mask.cpu()]


def on_texture(
    canvas: Tensor, generated: Tensor, mask: Tensor, texture: Tensor, matte: Matte, emptied: Tensor | None = None
) -> Tensor:
    """Keep the object of what was generated [B, 3, H, W] and let the hole's `texture` [P, 4] show around it: a new
    tensor.

    There is no object on the pixels that are `emptied` [B, H, W] bool.
    """
    result, fill = generated.clone(), prefill(canvas.contiguous(), mask)  # sums are to be the same however it lies
    whole, parts = Box(0, 0, *mask.shape[-2:]), texture.split(mask.flatten(1).sum(1).tolist())
    for index, (own, told) in enumerate(zip(mask, parts, strict=True)):
        for box in boxes_of(own):
            window = box.grown(HALO).within(whole)
            hole, before, new, smooth = (window.cut(x[index])[None] for x in (mask, canvas, generated, fill))
            alpha, light = (x.to(new) for x in matte(torch.where(hole[:, None], new, before), smooth, hole))
            light = F.avg_pool2d(light, 5, 1, 2, count_include_pad=False)  # shadows are soft, and its cells are not
            if emptied is not None:
                clear = window.cut(emptied[index])
                alpha, light = torch.where(clear, 0.0, alpha), torch.where(clear, 1.0, light)
            inside, target = box.moved(-window.top, -window.left), box.cut(result[index])
            alpha, light, new = (inside.cut(x[0]) for x in (alpha, light, new))
            around = in_box(told, own, box).to(new)
            mixed = torch.lerp(new, around[:3] * light, (1 - alpha) * around[3:])
            target.copy_(torch.where(box.cut(own), mixed, target))
    return result


def in_box(values: Tensor, own: Tensor, box: Box) -> Tensor:
    """Values [P, C] of the pixels of `own` [H, W] bool, row by row -> those in a box [C, h, w]; elsewhere anything."""
    rows = slice(box.top, box.bottom)
    before = own.sum(1).cumsum(0)[rows] - own[rows].sum(1) + own[rows, : box.left].sum(1)
    number = before[:, None] + box.cut(own).cumsum(1) - 1
    return values.to(own.device)[number.clamp(0, len(values) - 1)].movedim(-1, 0)
