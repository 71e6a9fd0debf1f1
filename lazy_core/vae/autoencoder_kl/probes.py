"""Probes: small squares of latents all over a canvas, computed along with a hole: they tell how the rest moved."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from ...geometry import Box
from .moments import Moments

BLOCK = 2  # latents a side of what moments are recorded over
SIDE, ACROSS = 4, 6  # latents a side of a probe; a square of so many probes a side is spread over the canvas
PROBE_HALOS = (2, 1, 0, 0)  # latents around each, at each resolution from the latents' to the pixels'
RIDGE = 1.0  # how much shares keep to areas: the root of a mean square of differences of moments, in their units


def spread(canvas: Box) -> list[Box]:
    """Probes along the canvas's edges, and in the middle of equal parts of the rest; none on a canvas of a few
    latents.
    """
    rows, cols = (starts(side) for side in (canvas.bottom, canvas.right))
    return [Box(top, left, top + SIDE, left + SIDE) for top in rows for left in cols]


def starts(side: int) -> list[int]:
    """Return where probes start along one side, in latents."""
    count = min(ACROSS, side // (2 * SIDE))
    if count < 3:
        return [0, side - SIDE][:count]
    part = (side - 2 * SIDE) / (count - 2)
    inner = [round(SIDE + (i + 0.5) * part - SIDE / 2) // BLOCK * BLOCK for i in range(count - 2)]
    return [0, *inner, side - SIDE]


def areas(canvas: Box) -> Tensor:
    """Which share of the canvas each probe stands for [probes]: those at an edge for no more than the edge."""
    sides = []
    for side in (canvas.bottom, canvas.right):
        count = len(starts(side))
        share = torch.full((count,), (side - 2 * SIDE) / max(1, count - 2) / side)
        share[:1], share[-1:] = SIDE / side, SIDE / side
        sides.append(share)
    return (sides[0][:, None] * sides[1]).flatten()


def shares(area: Tensor, probes: dict[str, Tensor], wholes: dict[str, Moments]) -> Tensor:
    """Which share of the rest each probe stands for [n]: near its `area` [n], and so that they have together the rest's
    moments.

    Moments of the probes [2, G, n] and of the rest [G] for each norm. Survey sampling calls it calibration (Deville and
    Särndal 1992): what the probes have by chance more or less of than the canvas weighs less or more.
    """
    apart = []
    for name, whole in wholes.items():
        each, variance = Moments.of(probes[name]), whole.variance.clamp_min(1e-12)[:, None]
        off = each.mean - whole.mean[:, None]
        apart += [off / variance.sqrt(), (each.variance + off.square()) / variance - 1]
    unlike = torch.cat(apart).double().numpy()
    expected = (area / area.sum()).double().numpy()
    rows = np.concatenate([unlike / len(unlike) ** 0.5, RIDGE * np.eye(len(expected))])
    found, _ = nnls(rows, np.concatenate([np.zeros(len(unlike)), RIDGE * expected]))
    return torch.from_numpy(found / found.sum()).to(area)


def disagreement(old: Moments, new: Moments, share: Tensor) -> float:
    """Standard error of how probes [G, n] say that the whole's variances moved, relative to these, on average over
    groups.
    """
    before, now = old.pooled(share), new.pooled(share)
    squares = (
        each.variance + (each.mean - whole.mean[:, None]).square() for each, whole in ((old, before), (new, now))
    )
    small = 1e-9
    expected, found = next(squares) * ((now.variance + small) / (before.variance + small))[:, None], next(squares)
    apart = (found - expected) / (now.variance + small)[:, None]
    return float((share * apart).square().sum(-1).sqrt().mean())
