"""Lazy VAE decoding: only windows around the holes are decoded; everywhere else the picture is the canvas's own.

A decoder of plain convolutions needs no more than a halo around the hole. One with GroupNorm or attention (AutoencoderKL:
SD, SDXL, Flux) sees the whole picture at once, and is decoded in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .geometry import Box

DecodeImage = Callable[[Tensor], Tensor]
"""VAE decoder: latent [B, C, h, w] -> [B, 3, H', W'] in 0..1."""

HALO = 5  # latents: the shipped VAE then differs from a full decode by less than a tenth of an 8-bit level
LARGEST_SHARE = 0.6  # of the canvas: beyond it, one full decode is faster than its windows


@dataclass(frozen=True)
class Window:
    """A part of a latent: what is decoded, and what of that is right, because it lies a halo away from every cut."""

    decoded: Box
    right: Box


def windows(cells: Tensor, halo: int) -> list[Window]:
    """Latents that a hole touches [h, w] bool -> disjoint windows that contain them, a `halo` of latents around."""
    hole = cells.cpu().numpy()
    near = ndimage.maximum_filter(hole, size=2 * halo + 1, mode="constant", cval=0)
    labels, _ = ndimage.label(near, structure=np.ones((3, 3)))  # type: ignore[misc]
    found = [Box(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in ndimage.find_objects(labels)]
    boxes = merged(found)
    return [Window(box, inner) for box in boxes if (inner := around(hole, box)) is not None]


def merged(boxes: list[Box]) -> list[Box]:
    """Boxes that overlap become the box around both, until none do."""
    result: list[Box] = []
    for box in boxes:
        while touching := [other for other in result if other.overlaps(box)]:
            result = [other for other in result if other not in touching]
            for other in touching:
                box = box.union(other)
        result.append(box)
    return result


def around(hole: np.ndarray, window: Box) -> Box | None:
    """Box of the hole's latents inside a window and one more on each side: blending compares the pixels around a hole."""
    inside = Box.around(torch.from_numpy(window.cut(hole)), margin=1)
    return inside and inside.moved(window.top, window.left)


def decode_windows(decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor, halo: int = HALO) -> Tensor:
    """Latent [B, C, h, w] of the edited canvas, canvas [B, 3, H', W'], touched latents [B, h, w] bool -> [B, 3, H', W'] in 0..1.

    Right in the hole and on the latents next to it; the canvas's own pixels elsewhere.
    """
    scale = canvas.shape[-1] // latent.shape[-1]
    result = canvas.clone()
    for index, hole in enumerate(cells):
        parts = windows(hole, halo)
        if sum(part.decoded.area for part in parts) > LARGEST_SHARE * hole.numel():
            result[index] = decode(latent[index : index + 1])[0].to(result)
            continue
        for part in parts:
            pixels = decode(part.decoded.cut(latent[index : index + 1]))[0]
            inner = part.right.moved(-part.decoded.top, -part.decoded.left)
            part.right.times(scale).cut(result[index]).copy_(inner.times(scale).cut(pixels))
    return result
