"""The records of a VAE's last decodes, and which of them a hole is decoded with."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ...cache import ContentCache, content_key
from ...geometry import Box
from ..windows import LARGEST_SHARE, DecodeImage, windows
from . import witnesses
from .hole_pass import HALOS, FarError, Holes, decode_holes, with_patches
from .record import Parts, Record, decode_and_record
from .witnesses import BLOCK

FRESH = 0.25  # of the latents' variance: a latent that moved further shows something else, and is computed like a hole
FEWEST = 0.25  # of a canvas's patches: with fewer that are known and untouched, nothing tells how the rest moved
MOST_EDITS = 10  # one after the other on one record: errors add up
DRIFT = 0.02  # on average over all others: more, and it is another canvas

REST = 20  # decodes in full after one that failed
FAILURES = (RuntimeError, ValueError, LookupError, TypeError, AttributeError)  # not what a host raises when a user cancels

Nearest = tuple[str, Record, list[Box]]  # its key, and what is computed of it


class Records:
    """Up to `limit` bytes of records, `free` tells what the machine has left (`lazy_core.cache`).

    The first decode of a canvas is a full one; it leaves the record that later ones take, which leave theirs. Whatever fails
    (tiles, memory, a decoder that others have changed) ends in a full decode.
    """

    def __init__(self, limit: int, free: Callable[[], int] | None = None):
        self.cache: ContentCache[Record] = ContentCache(limit, free)
        self.resting: dict[str, int] = {}  # decodes until a VAE at a size is tried again

    def decode(self, vae: str, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor) -> Tensor:
        """A `lazy_core.pipeline.DecodeHole`, for the VAE that `vae` names and that has these `parts`."""
        given = zip(latent.split(1), canvas, cells, strict=True)
        return torch.stack([self.one(vae, parts, decode, part, image, hole).to(canvas) for part, image, hole in given])

    def one(self, vae: str, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor) -> Tensor:
        """[1, C, h, w], [3, H, W], [h, w] -> [3, H, W]"""
        if not bool(cells.any()):
            return canvas
        kind = f"{vae}/{tuple(latent.shape)}/"
        fits = all(side % BLOCK == 0 for side in cells.shape) and witnesses.spread(Box(0, 0, *cells.shape))
        if fits and not self.rests(kind):
            ways = (
                lambda: self.near(self.nearest(kind, latent, cells), parts, decode, latent, canvas),
                lambda: self.whole(kind, parts, decode, latent),
            )
            for way in ways:
                if (picture := self.attempt(kind, way)) is not None:
                    return picture
        return decode(latent)[0]

    def rests(self, kind: str) -> bool:
        left = self.resting.get(kind, 0)
        self.resting[kind] = max(0, left - 1)
        return left > 0

    def attempt(self, kind: str, way: Callable[[], Tensor | None]) -> Tensor | None:
        """None where that does not work: a full decode always does, and no edit may fail for the sake of time."""
        try:
            return None if self.resting.get(kind) else way()
        except FarError:
            return None
        except FAILURES as error:
            logging.warning(f"The VAE decodes the whole picture for a while, as around the hole it failed: {error}")
            self.resting[kind] = REST
        return None

    def whole(self, kind: str, parts: Parts, decode: DecodeImage, latent: Tensor) -> Tensor:
        pictures, record = decode_and_record(parts, decode, latent)
        if record.get_ram_usage() > self.cache.limit:
            self.resting[kind] = 1 << 30
        elif record.finite:
            self.cache.put(kind + content_key(latent), record)
        return pictures[0]

    def near(self, nearest: Nearest | None, parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor) -> Tensor | None:
        if nearest is None:
            return None
        key, record, boxes = nearest
        record = with_patches(parts, decode, record)
        self.cache.put(key, record)
        picture, after = decode_holes(parts, decode, latent, canvas, boxes, record)
        self.cache.put(f"{key} {content_key(str(boxes))}", after)
        return picture

    def nearest(self, kind: str, latent: Tensor, cells: Tensor) -> Nearest | None:
        """The record with the least to compute, and the boxes that are; of several the one with the fewest edits behind it."""
        found = []
        for key, record in self.cache.under(kind):
            if record.edits < MOST_EDITS and (boxes := changed(record, latent, cells)) is not None:
                found.append((sum(box.area for box in boxes), record.edits, key, record, boxes))
        return min(found, key=lambda each: each[:2])[2:] if found else None


def changed(record: Record, latent: Tensor, cells: Tensor) -> list[Box] | None:
    """Boxes of latents that hold a hole's `cells` and whatever else is not what was recorded; None where a full decode is better."""
    moved = record.moved(latent)
    fresh = (moved > FRESH) | cells.cpu()
    if float(torch.where(fresh, 0, moved).mean()) > DRIFT:
        return None
    boxes = [window.right for window in windows(fresh, HALOS[0])]
    holes = Holes.over(record, boxes)
    counted = int(holes.known.sum()) if record.patch_moments else len(holes.kept)
    enough = counted >= FEWEST * len(witnesses.spread(record.canvas)) > 0
    return boxes if enough and holes.cost <= LARGEST_SHARE else None
