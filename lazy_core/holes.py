"""Which of a mask's holes are edits of their own: a row of tokens for each (docs/masks.md).

Holes are told apart in cells of half a token: what lies in cells that touch is one hole, so that gaps of a brush are
closed. A speck, too small to show anything, belongs to what lies within its reach. Of what is left there are at most
`MOST` in an image; beyond that those are joined that lie nearest to each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from .geometry import Box, Grid
from .masks import hole_token_mask, in_cells
from .tokens import HoleTokens

WINDOW_MARGIN = 2  # tokens around a hole that is as large as the encoder's window
SPECK = 3  # cells a side: in a hole no larger, 24 px, the shipped model draws what was asked for in one of five edits
REACH = 4  # cells between a speck and what it is joined with
MOST = 32  # edits of their own in an image
MANY = 512  # holes that are compared pair by pair; of more, those in one square of the canvas are joined first
SQUARES = 1 << 30  # more cells than a canvas has
NEVER = np.iinfo(np.int64).max


def hole_rows(hole: Tensor, grid: Grid, window: int | None = None) -> HoleTokens:
    """Pixel holes [B, H, W] bool -> a row of tokens [R, K] for each hole, image by image; an image without a hole has
    none.

    Where each image has exactly one hole these are `HoleTokens.of` its tokens, a row for each image. `window`: tokens a
    side that the encoder reads around a hole; specks are joined as long as they share one.
    """
    parts = [(image, tokens) for image, own in enumerate(hole) for tokens in separate(own, grid, window)]
    if [image for image, _ in parts] == list(range(len(hole))):
        return HoleTokens.of(hole_token_mask(hole, grid))
    marks = torch.zeros(len(parts), grid.tokens, dtype=torch.bool)
    for row, (_, tokens) in zip(marks, parts, strict=True):
        row[torch.from_numpy(tokens)] = True
    return replace(HoleTokens.of(marks), owner=torch.tensor([image for image, _ in parts], dtype=torch.int64))


def separate(hole: Tensor, grid: Grid, window: int | None) -> list[np.ndarray]:
    """The tokens of each hole of [H, W] bool, ascending; holes in the order of their first tokens."""
    share = 2 if grid.token_pixels % 2 == 0 else 1  # cells to a token's side
    cells = in_cells(hole, grid.token_pixels // share).cpu().numpy()
    found, count = ndimage.label(cells, structure=np.ones((3, 3)))  # type: ignore[misc]
    labels = np.asarray(found, dtype=np.int64)
    if count > 1:
        places = ndimage.find_objects(labels)
        boxes = np.array([[part.start for part in slices] + [part.stop for part in slices] for slices in places])
        groups = Groups.of(boxes, share * (window - 2 * WINDOW_MARGIN) if window else NEVER).joined()
        labels = np.concatenate([[0], 1 + groups])[labels]
    rows, cols = cells.nonzero()
    name = np.zeros(grid.tokens, dtype=np.int64)  # cells of one token are always one hole's
    name[rows // share * grid.cols + cols // share] = labels[rows, cols]
    tokens = name.nonzero()[0]
    names, first = np.unique(name[tokens], return_index=True)
    return [(name == each).nonzero()[0] for each in names[first.argsort()]]


def pixels_of(hole: HoleTokens, chosen: Tensor, grid: Grid, images: int) -> Tensor:
    """Rows of tokens, of which those of `chosen` [R] bool count -> their pixels [images, H, W] bool."""
    tokens, side = torch.zeros(images, grid.tokens, dtype=torch.bool), grid.token_pixels
    row, slot = (hole.valid & chosen[:, None]).nonzero(as_tuple=True)
    tokens[hole.owners[row], hole.index[row, slot]] = True
    return grid.crop(tokens.unflatten(1, (grid.rows, grid.cols)).repeat_interleave(side, 1).repeat_interleave(side, 2))


class Groups:
    """Holes on their way to becoming rows: `group` [n] of each hole; of each group its box from `low` to `high` [g, 2]
    in cells, and the side of its `largest` hole [g].

    What is joined is what makes the box around it grow least, as that is what the encoder has to read.
    """

    def __init__(self, group: np.ndarray, low: np.ndarray, high: np.ndarray, largest: np.ndarray, shared: int):
        self.group, self.low, self.high, self.largest, self.shared = group, low, high, largest, shared
        count = len(low)
        self.growth = np.full(
            (count, count), NEVER
        )  # of the box around two groups; of two that grow as much, the smaller one
        self.speck = np.zeros((count, count), dtype=bool)  # whether two groups are joined because of a speck
        for one in range(count):
            self.compare(one)

    @classmethod
    def of(cls, boxes: np.ndarray, shared: int) -> Groups:
        """From the holes' boxes [n, 4] (top, left, bottom, right) in cells; specks are joined within `shared` cells a
        side.
        """
        group, square = np.arange(len(boxes)), REACH
        while group.max() >= MANY:
            centre = (boxes[:, :2] + boxes[:, 2:]) // (2 * square)
            group, square = np.unique(centre, axis=0, return_inverse=True)[1].reshape(-1), 2 * square
        low, high = np.full((group.max() + 1, 2), NEVER), np.zeros((group.max() + 1, 2), dtype=np.int64)
        largest = np.zeros(len(low), dtype=np.int64)
        np.minimum.at(low, group, boxes[:, :2])
        np.maximum.at(high, group, boxes[:, 2:])
        np.maximum.at(largest, group, (boxes[:, 2:] - boxes[:, :2]).max(1))
        return cls(group, low, high, largest, shared)

    def joined(self) -> np.ndarray:
        """The group [n] of each hole in the end."""
        left = len(self.low)
        while True:
            wanted = self.growth if left > MOST else np.where(self.speck, self.growth, NEVER)
            one, other = divmod(int(wanted.argmin()), len(self.low))
            if wanted[one, other] == NEVER:
                return self.group
            self.join(one, other)
            left -= 1

    def join(self, one: int, other: int) -> None:
        """Make one group of two."""
        self.group[self.group == other] = one
        self.low[one], self.high[one] = np.minimum(*self.low[[one, other]]), np.maximum(*self.high[[one, other]])
        self.largest[one] = self.largest[[one, other]].max()
        self.largest[other] = 0  # gone
        self.compare(one)
        self.compare(other)

    def compare(self, one: int) -> None:
        """A group with all others."""
        low, high = np.minimum(self.low, self.low[one]), np.maximum(self.high, self.high[one])
        alone, largest = (self.high - self.low).prod(1), np.maximum(self.largest, self.largest[one])
        growth = (high - low).prod(1) - np.maximum(alone, alone[one])
        growth = growth * SQUARES + (high - low).prod(1)
        growth[(self.largest == 0) | (self.largest[one] == 0)] = NEVER
        growth[one] = NEVER
        gap = (np.maximum(self.low, self.low[one]) - np.minimum(self.high, self.high[one])).max(1)
        most = np.maximum(
            self.shared, np.where(largest > SPECK, largest + 2 * REACH, 0)
        )  # or specks would draw a large hole across
        speck = (np.minimum(self.largest, self.largest[one]) <= SPECK) & (gap <= REACH) & ((high - low).max(1) <= most)
        self.growth[one], self.growth[:, one] = growth, growth
        self.speck[one], self.speck[:, one] = speck, speck


def windows_around(hole: HoleTokens, grid: Grid, window: int | None) -> list[Box]:
    """For each row the box in tokens that the encoder reads: `window` tokens a side around the hole, more for a hole
    that is larger.

    Each as large as its own hole asks for, so that no other hole of a batch changes what becomes of it. Empty where all
    are the whole canvas. The encoder's cost then follows the holes, wherever they lie, and a model meets no
    position that it was not trained on, however large the canvas (the paper's encoder is quadratic in it, section 5).
    """
    if window is None or not len(hole.index):
        return []
    parts = []
    for index, valid in zip(hole.index, hole.valid, strict=True):
        cells = index[valid] if bool(valid.any()) else index.new_zeros(1)
        rows, cols = cells // grid.cols, cells % grid.cols
        parts.append(Box(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1))
    heights = [min(grid.rows, max(window, part.height + 2 * WINDOW_MARGIN)) for part in parts]
    widths = [min(grid.cols, max(window, part.width + 2 * WINDOW_MARGIN)) for part in parts]
    if min(heights) == grid.rows and min(widths) == grid.cols:
        return []
    boxes = []
    for part, height, width in zip(parts, heights, widths, strict=True):
        top = min(max((part.top + part.bottom - height) // 2, 0), grid.rows - height)
        left = min(max((part.left + part.right - width) // 2, 0), grid.cols - width)
        boxes.append(Box(top, left, top + height, left + width))
    return boxes
