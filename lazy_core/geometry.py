"""Pixels <-> latents <-> tokens of one canvas; nothing assumes a square or a multiple of anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The token grid of an image of `height` x `width` px; `scale` px make a latent's side, `patch` latents a token's.

    The image is padded on the right and bottom to whole tokens, and cropped back: rows and cols count padded tokens.
    A model sees it `downscale` times smaller, for holes that are larger than those it was trained on: `scale` counts
    pixels of what it sees, all else pixels of the image.
    """

    height: int
    width: int
    scale: int
    patch: int
    downscale: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(
                f"image is {self.width} x {self.height} px, expected at least one pixel. Check the node that made it."
            )

    @property
    def token_pixels(self) -> int:
        """Pixels of a token's side."""
        return self.latent_pixels * self.patch

    @property
    def latent_pixels(self) -> int:
        """Pixels of a latent's side."""
        return self.scale * self.downscale

    @property
    def rows(self) -> int:
        """Tokens from top to bottom."""
        return -(-self.height // self.token_pixels)

    @property
    def cols(self) -> int:
        """Tokens from left to right."""
        return -(-self.width // self.token_pixels)

    @property
    def tokens(self) -> int:
        """N, the tokens of the whole canvas."""
        return self.rows * self.cols

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width in latents."""
        return self.rows * self.patch, self.cols * self.patch

    def pad(self, image: Tensor, value: float | None = None) -> Tensor:
        """[B, C, H, W] -> padded to whole tokens, by repeating the edge or with `value`."""
        right, bottom = self.cols * self.token_pixels - self.width, self.rows * self.token_pixels - self.height
        if right == bottom == 0:
            return image
        if value is not None:
            return F.pad(image, (0, right, 0, bottom), value=value)
        if image.dtype == torch.bool:  # which PyTorch does not replicate
            return self.pad(image.float()) > 0
        return F.pad(image, (0, right, 0, bottom), mode="replicate")

    def crop(self, image: Tensor) -> Tensor:
        """The inverse of `pad`: [B, C, H', W'] -> [B, C, H, W]."""
        return image[..., : self.height, : self.width]

    def seen(self, padded: Tensor) -> Tensor:
        """A padded image [B, C, H', W'] -> what the model sees of it: each of its pixels is the mean of `downscale`
        squared.
        """
        return padded if self.downscale == 1 else F.avg_pool2d(padded, self.downscale)


@dataclass(frozen=True)
class Box:
    """Half-open rectangle, in pixels or in latents."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def around(cls, mask: Tensor, margin: int = 0) -> Box | None:
        """Tight box of a [H, W] bool mask, grown by `margin` px and clipped to the image; None for an empty mask."""
        height, width = mask.shape
        rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        if len(rows) == 0:
            return None
        top, bottom, left, right = (
            int(rows[0]) - margin,
            int(rows[-1]) + 1 + margin,
            int(cols[0]) - margin,
            int(cols[-1]) + 1 + margin,
        )
        return cls(max(top, 0), max(left, 0), min(bottom, height), min(right, width))

    def cut(self, image: Any) -> Any:
        """View of the box in a tensor or array [..., H, W]."""
        return image[..., self.top : self.bottom, self.left : self.right]

    @property
    def height(self) -> int:
        """Rows that the box holds."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns that it holds."""
        return self.right - self.left

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Cells that it holds."""
        return self.height * self.width

    def grown(self, margin: int) -> Box:
        """Return the box with `margin` more on all sides."""
        return Box(self.top - margin, self.left - margin, self.bottom + margin, self.right + margin)

    def within(self, other: Box) -> Box:
        """What of it lies in the other."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )

    def aligned(self, side: int) -> Box:
        """The smallest box around it that starts and ends at multiples of `side`."""
        return Box(
            self.top // side * side,
            self.left // side * side,
            -(-self.bottom // side) * side,
            -(-self.right // side) * side,
        )

    def divided(self, side: int) -> Box:
        """The inverse of `times`, for a box that is `aligned`."""
        return Box(self.top // side, self.left // side, self.bottom // side, self.right // side)

    def moved(self, down: int, along: int) -> Box:
        """Return the box moved `down` and `along`."""
        return Box(self.top + down, self.left + along, self.bottom + down, self.right + along)

    def times(self, scale: int) -> Box:
        """The same rectangle where one unit is divided into `scale`: latents to pixels."""
        return Box(self.top * scale, self.left * scale, self.bottom * scale, self.right * scale)

    def grid(self, whole: Grid) -> Grid:
        """The box of tokens as a canvas of its own."""
        side = whole.token_pixels
        return replace(whole, height=self.height * side, width=self.width * side)

    def overlaps(self, other: Box) -> bool:
        """Tell whether two boxes share a cell."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )

    def union(self, other: Box) -> Box:
        """The smallest box around both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )


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
