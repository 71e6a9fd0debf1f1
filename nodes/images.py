"""The one place where the host's BHWC images and VAEs meet `lazy_core`'s BCHW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..lazy_core.context import Context


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


def not_offered(**chosen: tuple[str | None, Sequence[str]]) -> bool | str:
    """What `validate_inputs` returns: True, or a sentence. The host of 0.3.75 does not check V3 lists itself; None is a linked input."""
    for name, (value, offered) in chosen.items():
        if value is not None and value not in offered:
            known = list(offered) if len(offered) <= 20 else f"the list of {len(offered)}"
            return f"{name}: '{value}' not in {known}. Choose one of the list."
    return True


def check_context(context: object, identity: str | None = None) -> Context:
    """Raises ValueError for a CONTEXT of another pack (they share the socket's name) or of another model."""
    if not isinstance(context, Context):
        raise ValueError(
            f"context is a {type(context).__name__} of another node pack, expected a CONTEXT of this one. Connect our Encode Context node."
        )
    if identity is not None and context.model != identity:
        raise ValueError("the CONTEXT was made by another model than the one connected here. Encode the canvas again with this model.")
    return context
