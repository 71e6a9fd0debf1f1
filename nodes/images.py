"""The one place where the host's BHWC images and VAEs meet `lazy_core`'s BCHW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..lazy_core.context import Context
from .checks import check_socket
from .messages import Message, message


def to_bchw(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, 3 or 4] in 0..1 -> view [B, 3, H, W]; for an alpha channel see `alpha_of`. Raises ValueError."""
    if image.dim() != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected [batch, height, width, 3]. Convert it to RGB."
        )
    return image[..., :3].movedim(-1, 1)


def to_bhwc(image: Tensor) -> Tensor:
    return image.movedim(1, -1).contiguous()


def alpha_of(image: Tensor) -> Tensor | None:
    """IMAGE [B, H, W, 4] -> its alpha [B, 1, H, W]; None for [B, H, W, 3]."""
    return image[..., 3:].movedim(-1, 1) if image.shape[-1] == 4 else None


def with_alpha(image: Tensor, context: Context) -> Tensor:
    """Edited [B, 3, H, W] -> with the canvas's alpha [B, 4, H, W], if it has any.

    Opaque in the hole, as far as the mask goes.
    """
    if context.alpha is None:
        return image
    weight = context.mask if context.weight is None else context.weight
    alpha = context.alpha.expand(len(image), -1, -1, -1)
    return torch.cat([image, torch.lerp(alpha, torch.ones_like(alpha), weight[:, None].to(alpha))], 1)


def to_mask(mask: Tensor) -> Tensor:
    """MASK [H, W], [M, H, W], [M, 1, H, W], or with its channel last [H, W, 1], [M, H, W, 1] -> [M, H, W].

    1 = hole, 0 = keep.
    """
    if mask.dim() > 2 and mask.shape[-1] == 1 and not (mask.dim() == 4 and mask.shape[1] == 1 and mask.shape[2] > 1):
        mask = mask[..., 0]
    if mask.dim() == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    if mask.dim() not in (2, 3):
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected [batch, height, width]. Convert it to a mask.")
    return (mask[None] if mask.dim() == 2 else mask).float()


UNPAINTED = (64, 64)  # px: what the host's Load Image hands on where nothing was painted, whatever the picture's size


def painted(image: Tensor, mask: Tensor) -> tuple[Tensor, list[Message]]:
    """Masks [M, H, W] for images [B, 3, H, W], and what is to be said of them.

    None of either, or none painted, is an empty mask.
    """
    unpainted = tuple(mask.shape[-2:]) == UNPAINTED and not bool(mask.any())
    if min(len(image), len(mask)) == 0 or unpainted:
        empty = mask.new_zeros(1, 1, 1).expand(len(image), *image.shape[-2:])
        return empty, [message("no_mask_painted")] if unpainted and min(len(image), len(mask)) else []
    return mask, []


def encoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """The host's VAE as `lazy_core.pipeline.EncodeImage`, in the VAE's units like every LATENT of the host.

    It sees HDR clipped to 0..1.
    """
    if not has_time(vae):
        return lambda image: vae.encode(image.clamp(0, 1).movedim(1, -1)).float()
    # A video VAE takes a batch for one film: images go one by one, and their time axis of one is dropped.
    return lambda image: torch.cat(
        [vae.encode(one.movedim(1, -1)).float().squeeze(2) for one in image.clamp(0, 1).split(1)]
    )


def decoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """[B, C, h, w] -> [B, 3, H, W] in 0..1; what a VAE with an alpha channel (Qwen-Image 2.1) says of alpha is dropped,
    as `with_alpha` has the canvas's.
    """

    def decode(latent: Tensor) -> Tensor:
        if not has_time(vae):
            return to_bchw(vae.decode(latent))
        return to_bchw(torch.cat([vae.decode(one.unsqueeze(2)).flatten(0, -4) for one in latent.split(1)]))

    return decode


def has_time(vae: Any) -> bool:
    """Whether the VAE's latents are [B, C, T, h, w] (Qwen-Image, Wan)."""
    return getattr(vae, "latent_dim", 2) == 3


def check_context(context: object, identity: str | None = None) -> Context:
    """Raises ValueError for a CONTEXT of another pack (they share the socket's name) or of another model."""
    if context is None:
        raise ValueError("context is null, expected a CONTEXT. Connect our Encode Context node.")
    if not isinstance(context, Context):
        raise ValueError(
            f"context is a {type(context).__name__} of another node pack, expected a CONTEXT of this one. Connect our"
            " Encode Context node."
        )
    if identity is not None and context.model != identity:
        raise ValueError(
            "the CONTEXT was made by another model than the one connected here. Encode the canvas again with this"
            " model."
        )
    return context


def check_shape(context: Context, scale: int, patch: int, channels: int, width: int) -> None:
    """Raises ValueError for a CONTEXT whose sizes are not those of the model whose name it has: a file was changed."""
    got = context.grid.scale, context.grid.patch, context.latent.shape[1], context.tokens.shape[-1]
    if got != (scale, patch, channels, width):
        raise ValueError(
            f"the CONTEXT has {got[2]} channels at 1/{got[0]} in tokens of {got[1]} and {got[3]} wide, expected"
            f" {channels} channels at 1/{scale} in tokens of {patch} and {width} wide: it is not this model's. Encode"
            " the canvas again."
        )


def same_picture(image: Any, canvas: Tensor) -> bool:
    """Whether IMAGE [B or 1, H, W, C] shows the canvas [B, C, H, W]; None does."""
    if image is None:
        return True
    check_socket("IMAGE", image=image)
    shown = to_bchw(image)
    if shown.shape[-2:] != canvas.shape[-2:] or len(shown) not in (1, len(canvas)):
        return False
    return all(torch.equal(shown[min(index, len(shown) - 1), :3], one[:3]) for index, one in enumerate(canvas))
