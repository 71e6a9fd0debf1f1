"""A lazy VAE: only windows around the holes are decoded, only windows around what changed are encoded.

Plain convolutions need no more than a halo around a window. A VAE with GroupNorm or attention (AutoencoderKL: SD, SDXL,
Flux) sees the whole picture at once: its holes are decoded with a record (`autoencoder_kl`), its canvases encoded in
full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..geometry import Box, merged

DecodeImage = Callable[[Tensor], Tensor]
"""VAE decoder: latent [B, C, h, w] -> [B, 3, H', W'] in 0..1."""

DecodePart = Callable[[Tensor, Box], Tensor]
"""Decodes a window's latents [1, C, h, w] for those in a box alone: -> their pixels [1, 3, H', W'] in 0..1."""

EncodeImage = Callable[[Tensor], Tensor]
"""VAE encoder: [B, 3, H', W'] in 0..1, whole tokens -> latent [B, C, h, w]."""

HALO = 6  # latents: the shipped VAE then differs from a full decode by less than a tenth of an 8-bit level
REACH, SIGHT = (
    7,
    8,
)  # latents around a changed one that change with it, and that these see: float32's bits of the shipped VAE
LARGEST_SHARE = 0.6  # of the canvas: beyond it, one full decode is faster than its windows


@dataclass(frozen=True)
class Window:
    """A part of a latent: what is computed, and what of that is valid, because it lies a halo away from every cut."""

    computed: Box
    valid: Box

    @property
    def inner(self) -> Box:
        """What is valid, in what was computed."""
        return self.valid.moved(-self.computed.top, -self.computed.left)


def windows(cells: Tensor, halo: int, margin: int = 1) -> list[Window]:
    """Latents that a hole touches [h, w] bool -> disjoint windows that contain them, a `halo` of latents around.

    Valid are the hole's latents inside a window and `margin` more on each side: blending compares the pixels around a
    hole.
    """
    hole = cells.cpu().numpy()
    near = ndimage.maximum_filter(hole, size=2 * halo + 1, mode="constant", cval=0)
    labels, _ = ndimage.label(near, structure=np.ones((3, 3)))  # type: ignore[misc]
    found = [Box(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in ndimage.find_objects(labels)]
    boxes = merged(found)
    return [Window(box, inner) for box in boxes if (inner := around(hole, box, margin)) is not None]


def around(hole: np.ndarray, window: Box, margin: int) -> Box | None:
    """Return the box of the hole inside a window, grown by `margin`; None where no hole is in it."""
    inside = Box.around(torch.from_numpy(window.cut(hole)), margin)
    return inside and inside.moved(window.top, window.left)


def decode_windows(
    decode: DecodeImage, decode_part: DecodePart, latent: Tensor, canvas: Tensor, cells: Tensor, halo: int = HALO
) -> Tensor:
    """Latent [B, C, h, w] of the edited canvas, canvas [B, 3, H', W'], touched latents [B, h, w] bool -> [B, 3, H', W']
    in 0..1.

    Valid in the hole and on the latents next to it; elsewhere it is whatever was in memory.
    """
    scale = canvas.shape[-1] // latent.shape[-1]
    result = torch.empty_like(canvas)
    for index, hole in enumerate(cells):
        parts = windows(hole, halo)
        if too_large(parts, hole):
            result[index] = decode(latent[index : index + 1])[0].to(result)
            continue
        for part in parts:
            pixels = decode_part(part.computed.cut(latent[index : index + 1]), part.inner)
            part.valid.times(scale).cut(result[index]).copy_(pixels[0])
    return result


def encode_windows(encode: EncodeImage, image: Tensor, latent: Tensor, cells: Tensor) -> Tensor | None:
    """Image [1, 3, H, W] -> [1, C, h, w], from the `latent` of another one that differs from it in some `cells` [h, w]
    bool.

    None where encoding it in full is faster.
    """
    scale, parts = image.shape[-1] // latent.shape[-1], windows(cells, REACH + SIGHT, REACH)
    if too_large(parts, cells):
        return None
    result = latent.clone()
    for part in parts:
        part.valid.cut(result).copy_(part.inner.cut(encode(part.computed.times(scale).cut(image))))
    return result


def too_large(parts: list[Window], cells: Tensor) -> bool:
    """Tell whether windows hold so much of the canvas that computing all of it is faster."""
    return sum(part.computed.area for part in parts) > LARGEST_SHARE * cells.numel()
