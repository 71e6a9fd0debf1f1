"""What may come as a canvas and its mask."""

from __future__ import annotations

import torch
from torch import Tensor


def check_inputs(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Image [B, 3, H, W] and mask [M, H, W] brought to one batch size. Raises ValueError that says what to change."""
    if not all_finite(image):
        raise ValueError(
            "the image holds NaN or infinite pixels. Check the node that made it; a half-precision VAE is the usual"
            " cause."
        )
    if not all_finite(mask):
        raise ValueError("the mask holds NaN or infinite values. Check the node that made it.")
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"mask is {mask.shape[-1]} x {mask.shape[-2]} px, expected the image's {image.shape[-1]} x"
            f" {image.shape[-2]}. Resize the mask, or draw it on this image."
        )
    if len(image) == len(mask):
        return image, mask
    if len(mask) == 1:
        return image, mask.expand(len(image), -1, -1)
    if len(image) == 1:
        return image.expand(len(mask), -1, -1, -1), mask
    raise ValueError(
        f"{len(mask)} masks came with {len(image)} images, expected one mask, one image, or as many of one as of the"
        " other."
    )


def all_finite(x: Tensor) -> bool:
    """A sum is finite only where everything is; where it overflowed, minimum and maximum tell (NaN is both of whatever
    holds it).
    """
    return bool(torch.isfinite(x.sum(dtype=torch.float32))) or bool(torch.isfinite(torch.stack(x.aminmax())).all())
