"""The canvases that a VAE encoded last: of the next one, only what differs from one of them is encoded."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache import ContentCache
from .windows import EncodeImage, encode_windows


@dataclass(frozen=True)
class EncodedCanvas:
    """An image [1, 3, H, W] as it was encoded, and its latent [1, C, h, w]."""

    image: Tensor
    latent: Tensor

    def get_ram_usage(self) -> int:
        """Return bytes."""
        return self.image.nbytes + self.latent.nbytes

    def changed(self, image: Tensor) -> Tensor:
        """Which latents of another image of its size are over pixels that are not the same: [h, w] bool."""
        rows, cols = self.latent.shape[-2:]
        different = (
            (image != self.image).movedim(1, -1).flatten(2).view(torch.uint8)
        )  # [1, H, W 3]: as the host's images lie in memory
        return different.unflatten(1, (rows, -1)).amax(2).unflatten(2, (cols, -1)).amax(3)[0] > 0

    def distance(self, image: Tensor) -> int:
        """How many values of one row of each latent's pixels are not the same."""
        side = image.shape[-2] // self.latent.shape[-2]
        return int((image[..., side // 2 :: side, :] != self.image[..., side // 2 :: side, :]).sum())


class CanvasCache:
    """Up to `limit` bytes of canvases, `free` tells what the machine has left (`lazy_core.cache`).

    For VAEs of plain convolutions, of which a window can be encoded by itself (`lazy_core.vae.windows`). An edited
    canvas is one more canvas that differs in its hole, and so is the same one under another mask.
    """

    def __init__(self, limit: int, free: Callable[[], int] | None = None):
        self.cache: ContentCache[EncodedCanvas] = ContentCache(limit, free)
        self.numbers = itertools.count()

    def encode(self, vae: str, encode: EncodeImage, image: Tensor) -> Tensor:
        """A `lazy_core.vae.windows.EncodeImage` for the VAE that `vae` names: [B, 3, H, W] in 0..1 -> [B, C, h, w]."""
        prefix = f"{vae}/{tuple(image.shape[1:])}{image.dtype}/"
        found = [self.from_similar(prefix, encode, one) for one in image.split(1)]
        if new := [index for index, latent in enumerate(found) if latent is None]:
            for index, latent in zip(
                new, encode(image if len(new) == len(image) else image[new]).split(1), strict=True
            ):
                found[index] = self.keep(prefix, image[index : index + 1], latent)
        return torch.cat([latent for latent in found if latent is not None])

    def from_similar(self, prefix: str, encode: EncodeImage, image: Tensor) -> Tensor | None:
        """The latent of an image [1, 3, H, W] by way of the canvas most like it, as far as `distance` tells; None where
        none is like it.
        """
        known = self.cache.under(prefix)
        if not known:
            return None
        key, canvas = min(reversed(known), key=lambda each: each[1].distance(image))
        self.cache.put(key, canvas)
        cells = canvas.changed(image)
        if not bool(cells.any()):
            return canvas.latent.clone()
        latent = encode_windows(encode, image, canvas.latent, cells)
        return None if latent is None else self.keep(prefix, image, latent)

    def keep(self, prefix: str, image: Tensor, latent: Tensor) -> Tensor:
        """Put a canvas into the cache, and return its latent."""
        if bool(torch.isfinite(latent).all()):  # what is not may have come from far away
            self.cache.put(f"{prefix}{next(self.numbers)}", EncodedCanvas(image.clone(), latent.clone()))
        return latent
