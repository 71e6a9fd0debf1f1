"""Sketch conditioning: a rough picture in the hole becomes the point where denoising starts (SDEdit, Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .context import Context, Sketch
from .masks import threshold
from .tokens import patchify


@torch.inference_mode()
def add_sketch(
    context: Context, sketch: Tensor, strength: float, encode_image: Callable[[Tensor], Tensor], where: Tensor | None = None
) -> Context:
    """Context with `sketch` [B or 1, 3, H, W] in 0..1 as its start; only pixels of `where` [B or 1, H, W] count, if given.

    `strength` 0 ignores the sketch, 1 keeps it. `encode_image` is the VAE: [B, 3, H', W'] in 0..1 -> latent. Raises ValueError.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"sketch strength is {strength}, expected 0 (ignore the sketch) to 1 (keep it).")
    if not torch.isfinite(sketch).all():
        raise ValueError("the sketch holds NaN or infinite pixels. Check the node that made it.")
    size = tuple(context.image.shape[-2:])
    if tuple(sketch.shape[-2:]) != size:
        raise ValueError(
            f"sketch is {sketch.shape[-1]} x {sketch.shape[-2]} px, expected the canvas's {size[1]} x {size[0]}. Resize the sketch."
        )
    if where is not None and tuple(where.shape[-2:]) != size:
        raise ValueError(
            f"sketch mask is {where.shape[-1]} x {where.shape[-2]} px, expected the canvas's {size[1]} x {size[0]}. Resize the sketch mask."
        )
    for name, given in (("sketches", sketch), ("sketch masks", where)):
        if given is not None and len(given) not in (1, len(context.image)):
            raise ValueError(f"{len(given)} {name} came for a CONTEXT of {len(context.image)} images, expected one, or one for each.")
    if strength == 0 or context.hole.count == 0:
        return context
    inside = context.mask if where is None else context.mask & threshold(where)
    filled = torch.where(inside[:, None], sketch.to(context.image), context.image)
    latent = encode_image(context.grid.pad(filled))
    return context.with_(sketch=Sketch(context.hole.gather(patchify(latent, context.grid.patch)), float(strength)))
