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

    The pixels next to the hole become the canvas's as far as the texture meets them, so that a blend that closes the
    gap along the border finds none there. There is no object on the pixels that are `emptied` [B, H, W] bool.
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
            inside = box.moved(-window.top, -window.left)
            around = new.new_zeros(4, *window.size)
            inside.cut(around).copy_(in_box(told, own, box))
            part = torch.zeros_like(hole)  # others have boxes of their own
            inside.cut(part).copy_(inside.cut(hole))
            generated_share = torch.where(part[0], 1 - (1 - alpha[0]) * around[3:], 0.0)
            mixed = torch.lerp(around[:3] * light[0], new[0], generated_share)
            beside = torch.lerp(before[0], new[0], F.max_pool2d(generated_share, 3, 1, 1))
            # This box's part of the hole, and the visible pixels next to it.
            written = (F.max_pool2d(part.to(new), 3, 1, 1) > 0)[0] & (part | ~hole)[0]
            target = window.cut(result[index])
            target.copy_(torch.where(written, torch.where(hole[0], mixed, beside), target))
    return result


def in_box(values: Tensor, own: Tensor, box: Box) -> Tensor:
    """Values [P, C] of the pixels of `own` [H, W] bool, row by row -> those in a box [C, h, w]; elsewhere anything."""
    rows = slice(box.top, box.bottom)
    before = own.sum(1).cumsum(0)[rows] - own[rows].sum(1) + own[rows, : box.left].sum(1)
    number = before[:, None] + box.cut(own).cumsum(1) - 1
    return values.to(own.device)[number.clamp(0, len(values) - 1)].movedim(-1, 0)
