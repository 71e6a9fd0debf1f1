"""The smooth field that closes a gap along a hole's border, at a cost that follows the border, not the hole.

A harmonic function is smooth away from the border, so pixels inside need no unknowns of their own: squares that double
in size with their distance from it are enough (quadtrees for gradient-domain compositing, Agarwala 2007). Here they
carry bilinear elements of the very energy that the pixels have, so that constants and slopes come out as pixel by
pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu

BORDER_SQUARES = 3  # squares of its size between a square and what is not hole


def membrane(hole: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation in `hole` [H, W] with values `border` [C, H, W] on the pixels around it; zero elsewhere.

    Where the hole meets the image's edge the normal derivative is zero. Within a few pixels of the border, and of the
    image's edge, every pixel is an unknown, further inside corners of squares are, between which the field is bilinear.
    """
    squares = squares_of(hole)
    ties = Ties.of(squares, hole.shape)
    inside, values = hole.ravel(), border.reshape(len(border), -1).T  # [H W], [H W, C]
    parts = [*pixel_edges(hole, squares), *square_edges(hole.shape, squares)]
    start, end, weight = (np.concatenate(part) for part in zip(*parts, strict=True))

    spread = ties.spread(np.union1d(start, end), inside)  # pixels from unknowns
    across = spread[start] - spread[end]  # differences along edges from unknowns, with zeros on the border
    border_alone = np.where(inside[:, None], 0, values)
    given = (border_alone[end] - border_alone[start]) * weight[:, None]
    # The tiny diagonal keeps a hole without any kept neighbour solvable: its correction is then zero.
    matrix = across.T @ sparse.diags(weight) @ across + sparse.identity(across.shape[1]) * 1e-9
    solver = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    field = spread @ solver.solve(across.T @ given)  # [H W, C]
    return filled(np.ascontiguousarray(field.T).reshape(border.shape), squares)


Squares = list[np.ndarray]
"""For sides of 2, 4, 8, ... px which squares [rows, cols] of the lattice are elements, or divided into them; corners
are pixels.
"""


def squares_of(hole: np.ndarray) -> Squares:
    """Find the squares in a hole [H, W] bool, of each size those that lie far enough from its border."""
    full, found = hole[:-1, :-1] & hole[1:, :-1] & hole[:-1, 1:] & hole[1:, 1:], []
    while min(full.shape) > 1:
        full = full[: full.shape[0] // 2 * 2, : full.shape[1] // 2 * 2]
        full = full[::2, ::2] & full[1::2, ::2] & full[::2, 1::2] & full[1::2, 1::2]
        inner = ndimage.minimum_filter(full, size=2 * BORDER_SQUARES + 1, mode="constant", cval=0)
        if not inner.any():
            break
        found.append(inner)
    return found


def halved(squares: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which squares of half the size, [rows, cols] = `shape`, lie in these."""
    result = np.zeros(shape, bool)
    quarters = squares.repeat(2, 0).repeat(2, 1)
    result[: quarters.shape[0], : quarters.shape[1]] = quarters
    return result


def sides_of(squares: np.ndarray, axis: int) -> np.ndarray:
    """Which lines between squares that follow each other along an axis, one more than there are squares, are a side of
    one of these.
    """
    before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
    before[axis], after[axis] = (1, 0), (0, 1)
    return np.pad(squares, before) | np.pad(squares, after)


@dataclass(frozen=True)
class Ties:
    """Pixels [H W] that lie on a square's edge or in it, between its corners; of those on an edge its two ends."""

    tied: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, squares: Squares, shape: tuple[int, ...]) -> Ties:
        """From the squares on a lattice of [H, W] = `shape` pixels."""
        size, width = shape[0] * shape[1], shape[1]
        tied, first, second = np.zeros(size, bool), np.arange(size), np.arange(size)
        for level, cells in enumerate(squares):
            side, half = 2 << level, 1 << level
            rows, cols = np.nonzero(cells)
            tied[(rows * side + half) * width + cols * side + half] = True
            for step, across in ((width, 1), (1, 0)):  # edges that go down, and along
                rows, cols = np.nonzero(sides_of(cells, across))
                corner = (rows * width + cols) * side
                middle = corner + half * step
                tied[middle], first[middle], second[middle] = True, corner, corner + side * step
        return cls(tied, (first, second))

    def spread(self, pixels: np.ndarray, inside: np.ndarray) -> sparse.csr_matrix:
        """[H W, unknowns]: rows for those of `pixels` that are `inside`, the others are empty. Unknown is what is
        inside and not tied.
        """
        unknown = inside & ~self.tied
        row = column = pixels[inside[pixels]]
        share = np.ones(len(row))
        while (tied := self.tied[column]).any():
            row = np.concatenate([row[~tied], row[tied], row[tied]])
            share = np.concatenate([share[~tied], share[tied] / 2, share[tied] / 2])
            column = np.concatenate([column[~tied], *(end[column[tied]] for end in self.ends)])
        number = np.cumsum(unknown) - 1
        return sparse.csr_matrix((share, (row, number[column])), shape=(len(inside), int(unknown.sum())))


Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Which pixels edges join, and their weights: the energy is the sum of weights times squared differences."""


def pixel_edges(hole: np.ndarray, squares: Squares) -> list[Edges]:
    """Between neighbours, of which one at least is hole: half of its weight belongs to what lies on either side of an
    edge.
    """
    number = np.arange(hole.size).reshape(hole.shape)
    covered = np.zeros((hole.shape[0] + 1, hole.shape[1] + 1), bool)  # pixels' squares, one more around
    if squares:
        covered[1:-1, 1:-1] = halved(squares[0], (hole.shape[0] - 1, hole.shape[1] - 1))
    found = []
    for down, left, right in ((1, covered[1:-1, :-1], covered[1:-1, 1:]), (0, covered[:-1, 1:-1], covered[1:, 1:-1])):
        a, b = (slice(None, -1), slice(None)), (slice(1, None), slice(None))
        a, b = (a, b) if down else (a[::-1], b[::-1])
        weight = np.where(hole[a] | hole[b], 1 - 0.5 * left - 0.5 * right, 0)
        at = weight > 0
        found.append((number[a][at], number[b][at], weight[at]))
    return found


def square_edges(shape: tuple[int, ...], squares: Squares) -> list[Edges]:
    """The energy of all edges between pixels of a square, half of it for those on its own edges, where the field is
    bilinear in it.
    """
    found = []
    for level, cells in enumerate(squares):
        side = 2 << level
        whole = cells & ~halved(squares[level + 1], cells.shape) if level + 1 < len(squares) else cells
        rows, cols = np.nonzero(whole)
        corner = (rows * shape[1] + cols) * side
        corners = [corner, corner + side, corner + side * shape[1], corner + side * shape[1] + side]
        edge, diagonal = 1 / 6 + 1 / (3 * side**2), 1 / 3 - 1 / (3 * side**2)
        for i, j, weight in (
            (0, 1, edge),
            (2, 3, edge),
            (0, 2, edge),
            (1, 3, edge),
            (0, 3, diagonal),
            (1, 2, diagonal),
        ):
            found.append((corners[i], corners[j], np.full(len(corner), weight)))
    return found


def filled(field: np.ndarray, squares: Squares) -> np.ndarray:
    """[C, H, W] with the pixels of all squares between the corners that it has."""
    for level, cells in reversed(list(enumerate(squares))):
        half, (rows, cols) = 1 << level, cells.shape
        fine = field[:, ::half, ::half][:, : 2 * rows + 1, : 2 * cols + 1]
        corners = fine[:, ::2, ::2]
        down, along = (corners[:, 1:] + corners[:, :-1]) / 2, (corners[:, :, 1:] + corners[:, :, :-1]) / 2
        np.copyto(fine[:, 1::2, 1::2], (down[:, :, 1:] + down[:, :, :-1]) / 2, where=cells)
        np.copyto(fine[:, 1::2, ::2], down, where=sides_of(cells, 1))
        np.copyto(fine[:, ::2, 1::2], along, where=sides_of(cells, 0))
    return field
