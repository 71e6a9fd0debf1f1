"""Sketch conditioning: rough colours become the point where denoising starts (SDEdit, Meng et al. 2022), lines a
condition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks.inputs import all_finite
from .context import Context, Sketch
from .masks import mostly_black, threshold

Kind = Literal["colour", "edges"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@torch.inference_mode()
def add_sketch(
    context: Context,
    sketch: Tensor,
    strength: float,
    encode_image: Callable[[Tensor], Tensor],
    where: Tensor | None = None,
) -> Context:
    """Context with `sketch` [B or 1, 3, H, W] in 0..1 as its start; only pixels of `where` [B or 1, H, W] count, if
    given.

    `strength` 0 ignores the sketch, 1 keeps it. `encode_image` is the VAE: [B, 3, H', W'] in 0..1 -> latent. Raises
    ValueError.
    """
    check_sketch(context, sketch, strength, where)
    if strength == 0 or context.hole.count == 0:
        return context
    drawn = region(context, where)
    filled = torch.where(drawn[:, None], sketch.to(context.image), context.image)
    tokens = context.hole.cut(encode_image(context.grid.seen(context.grid.pad(filled))), context.grid.patch)
    partly = None if where is None else drawn
    return context.with_(sketch=Sketch(tokens, float(strength), partly, mostly_black(filled, context.mask)))


@torch.inference_mode()
def add_edges(context: Context, drawing: Tensor, strength: float, where: Tensor | None = None) -> Context:
    """Context with the lines of `drawing` [B or 1, 3, H, W] in 0..1 as a condition; only pixels of `where` [B or 1, H,
    W] count, if given.

    Light lines on dark ground or dark lines on light ground: whichever is less of the drawing is line. `strength` 0
    ignores them, 1 follows them. Needs a model with `LazyConfig.edges`. Raises ValueError.
    """
    check_sketch(context, drawing, strength, where)
    if context.stock is not None:
        raise ValueError(
            "edges came for a stock checkpoint, which was not trained with them. Choose kind colour, or Load Lazy"
            " Model's."
        )
    if strength == 0 or context.hole.count == 0:
        return context
    lines = (
        lines_of(drawing, context.mask[:, None].to(drawing)) * region(context, where)[:, None].to(drawing) * strength
    )
    grid = context.grid
    seen = F.max_pool2d(grid.pad(lines, value=0.0), grid.downscale)  # a thin line stays one
    return context.with_(edges=context.hole.cut(seen, grid.scale * grid.patch))


def lines_of(drawing: Tensor, inside: Tensor) -> Tensor:
    """Drawing [B or 1, 3, H, W] -> lines [B, 1, H, W], 1 on a line; `inside` [B, 1, H, W] says where to look which tone
    is the ground.
    """
    tone = drawing.mean(1, keepdim=True).clamp(0, 1).expand_as(inside)
    light = (tone * inside).sum((1, 2, 3), keepdim=True) > 0.5 * inside.sum((1, 2, 3), keepdim=True)
    return torch.where(light, 1 - tone, tone)


def region(context: Context, where: Tensor | None) -> Tensor:
    """Where a sketch counts: [B, H, W] bool."""
    return context.mask if where is None else context.mask & threshold(where)


def check_sketch(context: Context, sketch: Tensor, strength: float, where: Tensor | None) -> None:
    """Raises ValueError that says what to change."""
    if not 0 <= strength <= 1:
        raise ValueError(f"sketch strength is {strength}, expected 0 (ignore the sketch) to 1 (keep it).")
    if not all_finite(sketch):
        raise ValueError("the sketch holds NaN or infinite pixels. Check the node that made it.")
    size = tuple(context.image.shape[-2:])
    if tuple(sketch.shape[-2:]) != size:
        raise ValueError(
            f"sketch is {sketch.shape[-1]} x {sketch.shape[-2]} px, expected the canvas's {size[1]} x {size[0]}. Resize"
            " the sketch."
        )
    if where is not None and tuple(where.shape[-2:]) != size:
        raise ValueError(
            f"sketch mask is {where.shape[-1]} x {where.shape[-2]} px, expected the canvas's {size[1]} x {size[0]}."
            " Resize the sketch mask."
        )
    for name, given in (("sketches", sketch), ("sketch masks", where)):
        if given is not None and len(given) not in (1, len(context.image)):
            raise ValueError(
                f"{len(given)} {name} came for a CONTEXT of {len(context.image)} images, expected one, or one for each."
            )
