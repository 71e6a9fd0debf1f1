"""The records of a VAE's last decodes, and which of them a hole is decoded with."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ...cache import ContentCache, content_key
from ...geometry import Box
from ..windows import LARGEST_SHARE, DecodeImage, windows
from . import probes
from .atlas import UnexpectedShapeError
from .hole_pass import HOLE_HALOS, FarError, HolePass, decode_holes, with_probes
from .probes import BLOCK
from .record import Parts, Record, decode_and_record

RECOMPUTE_ABOVE = (
    0.25  # of the latents' variance: a latent that moved further shows something else, and is computed like a hole
)
MIN_KNOWN_PROBES = (
    0.25  # of a canvas's probes: with fewer that are known and untouched, nothing tells how the rest moved
)
MAX_EDITS = 10  # one after the other on one record: errors add up
MAX_MEAN_DRIFT = 0.02  # on average over all others: more, and it is another canvas

BACKOFF = 20  # decodes in full after one that failed
FAILURES = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)  # not what a host raises when a user cancels

Nearest = tuple[str, Record, list[Box]]  # its key, and what is computed of it


class Records:
    """Up to `limit` bytes of records, `free` tells what the machine has left (`lazy_core.cache`).

    The first decode of a canvas is a full one; it leaves the record that later ones take, which leave theirs. Whatever
    fails (tiles, memory, a decoder that others have changed) ends in a full decode.
    """

    def __init__(self, limit: int, free: Callable[[], int] | None = None):
        self.cache: ContentCache[Record] = ContentCache(limit, free)
        self.backoff: dict[str, int] = {}  # decodes until a VAE at a size is tried again

    def decode(
        self, vae: str, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor
    ) -> Tensor:
        """A `lazy_core.pipeline.DecodeHole`, for the VAE that `vae` names and that has these `parts`.

        Latent [B, C, h, w] of the edited canvas [B, 3, H, W], `cells` [B, h, w] bool the latents that a hole touches ->
        [B, 3, H, W].
        """
        given = zip(latent.split(1), canvas, cells, strict=True)
        return torch.stack(
            [self.decode_image(vae, parts, decode, part, image, hole).to(canvas) for part, image, hole in given]
        )

    def decode_image(
        self, vae: str, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor
    ) -> Tensor:
        """Decode one image with the nearest record, or in full and recorded, or in full: [1, C, h, w], [3, H, W], [h,
        w] -> [3, H, W].
        """
        if not bool(cells.any()):
            return canvas
        prefix = f"{vae}/{tuple(latent.shape)}/"
        fits = all(side % BLOCK == 0 for side in cells.shape) and probes.spread(Box(0, 0, *cells.shape))
        if fits and not self.take_backoff(prefix):
            ways = (
                lambda: self.with_record(self.nearest(prefix, latent, cells), parts, decode, latent, canvas),
                lambda: self.in_full(prefix, parts, decode, latent),
            )
            for way in ways:
                if (picture := self.attempt(prefix, way)) is not None:
                    return picture
        return decode(latent)[0]

    def take_backoff(self, prefix: str) -> bool:
        """Tell whether full decodes are still to be made after a failure, and count one of them."""
        left = self.backoff.get(prefix, 0)
        self.backoff[prefix] = max(0, left - 1)
        return left > 0

    def attempt(self, prefix: str, way: Callable[[], Tensor | None]) -> Tensor | None:
        """None where that does not work: a full decode always does, and no edit may fail for the sake of time."""
        try:
            return None if self.backoff.get(prefix) else way()
        except FarError:
            return None
        except FAILURES as error:
            failed = "The VAE decodes the whole picture for a while, as around the hole it failed"
            logging.warning(f"{failed}: {error}", exc_info=not isinstance(error, UnexpectedShapeError))
            self.backoff[prefix] = BACKOFF
        return None

    def in_full(self, prefix: str, parts: Parts, decode: DecodeImage, latent: Tensor) -> Tensor:
        """Decode the whole canvas, and keep its record -> [3, H, W]."""
        pictures, record = decode_and_record(parts, decode, latent)
        if record.get_ram_usage() > self.cache.limit:
            self.backoff[prefix] = 1 << 30
        elif record.finite:
            self.cache.put(prefix + content_key(latent), record)
        return pictures[0]

    def with_record(
        self, nearest: Nearest | None, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor
    ) -> Tensor | None:
        """Decode the holes with the nearest record -> [3, H, W]; None where there is none."""
        if nearest is None:
            return None
        key, record, boxes = nearest
        record = with_probes(parts, decode, record)
        self.cache.put(key, record)
        picture, after = decode_holes(parts, decode, latent, canvas, boxes, record)
        self.cache.put(f"{key} {content_key(str(boxes))}", after)
        return picture

    def nearest(self, prefix: str, latent: Tensor, cells: Tensor) -> Nearest | None:
        """The record with the least to compute, and the boxes that are; of several the one with the fewest edits behind
        it.
        """
        found = []
        for key, record in self.cache.under(prefix):
            if record.edits < MAX_EDITS and (boxes := changed(record, latent, cells)) is not None:
                found.append((sum(box.area for box in boxes), record.edits, key, record, boxes))
        return min(found, key=lambda each: each[:2])[2:] if found else None


def changed(record: Record, latent: Tensor, cells: Tensor) -> list[Box] | None:
    """Boxes of latents that hold a hole's `cells` and whatever else is not what was recorded; None where a full decode
    is better.
    """
    moved = record.moved(latent)
    fresh = (moved > RECOMPUTE_ABOVE) | cells.cpu()
    if float(torch.where(fresh, 0, moved).mean()) > MAX_MEAN_DRIFT:
        return None
    boxes = [window.valid for window in windows(fresh, HOLE_HALOS[0])]
    holes = HolePass.over(record, boxes)
    counted = int(holes.known.sum()) if record.probe_moments else len(holes.probe_ids)
    enough = counted >= MIN_KNOWN_PROBES * len(probes.spread(record.canvas)) > 0
    return boxes if enough and holes.cost <= LARGEST_SHARE else None
