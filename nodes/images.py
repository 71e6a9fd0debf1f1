"""The one place where the host's BHWC images and VAEs meet `lazy_core`'s BCHW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..lazy_core.context import Context
from .checks import check_socket


def to_bchw(image: Tensor) -> Tensor:
    """IMAGE [B, H, W, 3 or 4] in 0..1 -> view [B, 3, H, W]; an alpha channel is left out. Raises ValueError."""
    if image.dim() != 4 or image.shape[-1] not in (3, 4):
        raise ValueError(f"image has shape {tuple(image.shape)}, expected [batch, height, width, 3]. Convert it to RGB.")
    return image[..., :3].movedim(-1, 1)


def to_bhwc(image: Tensor) -> Tensor:
    return image.movedim(1, -1).contiguous()


def to_mask(mask: Tensor) -> Tensor:
    """MASK [H, W], [M, H, W] or [M, 1, H, W] -> [M, H, W]. 1 = hole, 0 = keep."""
    return mask.reshape(-1, *mask.shape[-2:])


def encoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """The host's VAE as `lazy_core.pipeline.EncodeImage`, in the VAE's units like every LATENT of the host."""
    if not has_time(vae):
        return lambda image: vae.encode(image.movedim(1, -1)).float()
    # A video VAE takes a batch for one film: images go one by one, and their time axis of one is dropped.
    return lambda image: torch.cat([vae.encode(one.movedim(1, -1)).float().squeeze(2) for one in image.split(1)])


def decoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """[B, C, h, w] -> [B, 3, H, W] in 0..1."""
    if not has_time(vae):
        return lambda latent: vae.decode(latent).movedim(-1, 1)
    return lambda latent: torch.cat([vae.decode(one.unsqueeze(2)).flatten(0, -4) for one in latent.split(1)]).movedim(-1, 1)


def has_time(vae: Any) -> bool:
    """Whether the VAE's latents are [B, C, T, h, w] (Qwen-Image, Wan)."""
    return getattr(vae, "latent_dim", 2) == 3


def check_context(context: object, identity: str | None = None) -> Context:
    """Raises ValueError for a CONTEXT of another pack (they share the socket's name) or of another model."""
    if context is None:
        raise ValueError("context is null, expected a CONTEXT. Connect our Encode Context node.")
    if not isinstance(context, Context):
        raise ValueError(
            f"context is a {type(context).__name__} of another node pack, expected a CONTEXT of this one. Connect our Encode Context node."
        )
    if identity is not None and context.model != identity:
        raise ValueError("the CONTEXT was made by another model than the one connected here. Encode the canvas again with this model.")
    return context


def same_picture(image: Any, canvas: Tensor) -> bool:
    """Whether IMAGE [B or 1, H, W, C] shows the canvas [B, C, H, W]; None does."""
    if image is None:
        return True
    check_socket("IMAGE", image=image)
    shown = to_bchw(image)
    if shown.shape[-2:] != canvas.shape[-2:] or len(shown) not in (1, len(canvas)):
        return False
    return all(torch.equal(shown[min(index, len(shown) - 1), :3], one[:3]) for index, one in enumerate(canvas))
