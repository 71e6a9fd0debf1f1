"""Pieces of a canvas side by side in one map, so that a decoder computes them in one pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from ...geometry import Box


class UnexpectedShapeError(RuntimeError):
    """The decoder was called with something else than was asked: the host went over to tiles, for example."""


@dataclass(frozen=True)
class Atlas:
    """Pieces of a canvas side by side in one map: `pieces` in latents of the canvas, `slots` in px of the map, `scale`
    px a latent.
    """

    pieces: tuple[Box, ...]
    slots: tuple[Box, ...]
    scale: int

    @classmethod
    def of(cls, pieces: list[Box], scale: int) -> Atlas:
        """Pack the pieces into columns, one px apart; their height is what makes the map smallest."""
        tallest, smallest = (pick(box.height for box in pieces) * scale for pick in (max, min))
        heights = range(tallest, tallest + smallest + 1, scale)
        return min(
            (cls.in_columns(pieces, scale, height) for height in heights), key=lambda atlas: math.prod(atlas.size)
        )

    @classmethod
    def in_columns(cls, pieces: list[Box], scale: int, tall: int) -> Atlas:
        """Lay the pieces in columns `tall` px high, the widest first."""
        slots, left, below, right = {}, 0, 0, 0
        for index in sorted(range(len(pieces)), key=lambda index: -pieces[index].width):
            height, width = pieces[index].height * scale, pieces[index].width * scale
            if below + height > tall:
                left, below = right + 1, 0
            slots[index] = Box(below, left, below + height, left + width)
            right, below = max(right, left + width), below + height + 1
        return cls(tuple(pieces), tuple(slots[index] for index in range(len(pieces))), scale)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the map in px."""
        return max(slot.bottom for slot in self.slots), max(slot.right for slot in self.slots)

    def times(self, scale: int) -> Atlas:
        """Return the same atlas at `scale` times its resolution."""
        return replace(self, slots=tuple(slot.times(scale) for slot in self.slots), scale=self.scale * scale)

    def at(self, x: Tensor) -> Atlas:
        """This atlas where a layer works on a multiple of its resolution."""
        height, width = self.size
        scale = x.shape[-2] // height
        if x.shape[0] != 1 or (height * scale, width * scale) != tuple(x.shape[-2:]):
            raise UnexpectedShapeError(
                f"a layer was given {tuple(x.shape)}, expected one atlas of {(height, width)} or a multiple"
            )
        return self.times(scale)

    def blank(self, like: Tensor) -> Tensor:
        """Make an empty map [..., h, w] with the batch and channels of `like`."""
        return like.new_zeros(*like.shape[:-2], *self.size)

    def inside(self, parts: list[Box]) -> list[Box]:
        """Where `parts` of the first pieces, one of each, in latents of the canvas, lie in the map."""
        shifts = zip(parts, self.pieces, self.slots, strict=False)
        return [
            part.moved(-piece.top, -piece.left).times(self.scale).moved(slot.top, slot.left)
            for part, piece, slot in shifts
        ]

    def covered(self, like: Tensor) -> Tensor:
        """[H, W], 1 on the pieces and 0 between them."""
        mask = like.new_zeros(self.size)
        for slot in self.slots:
            slot.cut(mask).fill_(1)
        return mask
