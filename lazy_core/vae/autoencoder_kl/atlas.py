"""Pieces of a canvas side by side in one map, so that a decoder computes them in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ...geometry import Box


class NotWholeError(RuntimeError):
    """The decoder was called with something else than was asked: the host went over to tiles, for example."""


@dataclass(frozen=True)
class Strip:
    """Pieces of a canvas side by side in one map: `pieces` in latents of the canvas, `places` in px of the map, `scale` px a latent."""

    pieces: tuple[Box, ...]
    places: tuple[Box, ...]
    scale: int

    @classmethod
    def of(cls, pieces: list[Box], scale: int) -> Strip:
        """In columns, one px apart, as tall as makes the map smallest."""
        tallest, smallest = (pick(box.height for box in pieces) * scale for pick in (max, min))
        heights = range(tallest, tallest + smallest + 1, scale)
        return min((cls.in_columns(pieces, scale, height) for height in heights), key=lambda strip: math.prod(strip.size))

    @classmethod
    def in_columns(cls, pieces: list[Box], scale: int, tall: int) -> Strip:
        places, left, below, right = {}, 0, 0, 0
        for index in sorted(range(len(pieces)), key=lambda index: -pieces[index].width):
            height, width = pieces[index].height * scale, pieces[index].width * scale
            if below + height > tall:
                left, below = right + 1, 0
            places[index] = Box(below, left, below + height, left + width)
            right, below = max(right, left + width), below + height + 1
        return cls(tuple(pieces), tuple(places[index] for index in range(len(pieces))), scale)

    @property
    def size(self) -> tuple[int, int]:
        return max(place.bottom for place in self.places), max(place.right for place in self.places)

    def times(self, scale: int) -> Strip:
        return replace(self, places=tuple(place.times(scale) for place in self.places), scale=self.scale * scale)

    def at(self, x: Tensor) -> Strip:
        """This strip where a layer works on a multiple of its resolution."""
        height, width = self.size
        scale = x.shape[-2] // height
        if x.shape[0] != 1 or (height * scale, width * scale) != tuple(x.shape[-2:]):
            raise NotWholeError(f"a layer was given {tuple(x.shape)}, expected one strip of {(height, width)} or a multiple")
        return self.times(scale)

    def room(self, like: Tensor) -> Tensor:
        return like.new_zeros(*like.shape[:-2], *self.size)

    def inside(self, parts: list[Box]) -> list[Box]:
        """Where `parts` of the first pieces, one of each, in latents of the canvas, lie in the map."""
        shifts = zip(parts, self.pieces, self.places, strict=False)
        return [part.moved(-piece.top, -piece.left).times(self.scale).moved(place.top, place.left) for part, piece, place in shifts]

    def covered(self, like: Tensor) -> Tensor:
        """[H, W], 1 on the pieces and 0 between them."""
        mask = like.new_zeros(self.size)
        for place in self.places:
            place.cut(mask).fill_(1)
        return mask
