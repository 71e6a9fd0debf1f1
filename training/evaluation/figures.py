"""What an evaluation measures, each figure with its 95 % bootstrap interval: [value, low, high].

Distances between sets of pictures are taken on features of judges trained on this data. These are no Inception network:
the figures compare methods here, nothing else. Everything here is deterministic.
"""

from __future__ import annotations

import torch
from torch import Tensor

Figure = list[float]  # [value, low, high]
DRAWS = 2000
EDGE = 3  # px inside the mask where colours are compared


def interval(values: Tensor, draws: int = DRAWS) -> Figure | None:
    """`average`; None for no values."""
    return average(values, draws) if len(values) else None


def average(values: Tensor, draws: int = DRAWS) -> Figure:
    """Mean of [n] and its interval."""
    values = values.double()
    return rounded(values.mean(), values[resampled(len(values), draws)].mean(1))


def ratio(values: Tensor, reference: Tensor, draws: int = DRAWS) -> Figure:
    """Mean of [n] over the mean of `reference` [n], both of the same edits."""
    values, reference, picks = values.double(), reference.double().clamp_min(1e-6), resampled(len(values), draws)
    return rounded(values.mean() / reference.mean(), values[picks].mean(1) / reference[picks].mean(1))


def resampled(count: int, draws: int) -> Tensor:
    """Indices [draws, count] of as many samples with repetition."""
    return torch.randint(count, (draws, count), generator=torch.Generator().manual_seed(0))


def rounded(value: Tensor, found: Tensor) -> Figure:
    return [round(float(x), 4) for x in (value, found.quantile(0.025), found.quantile(0.975))]


def frechet(features: Tensor, reference: Tensor, draws: int = 50) -> Figure:
    """Frechet distance (Heusel et al. 2017) of [n, F] to the reference [m, F].

    Resampling with repetition makes a set poorer and its distance larger; the interval is moved back by that bias.
    """
    mean, covariance = moments(reference)
    root = square_root(covariance)

    def distance(pick: Tensor) -> Tensor:
        own_mean, own = moments(features[pick])
        cross = torch.linalg.eigvalsh(root @ own @ root).clamp_min(0).sqrt().sum()
        return (own_mean - mean).square().sum() + covariance.trace() + own.trace() - 2 * cross

    value = distance(torch.arange(len(features)))
    found = torch.stack([distance(pick) for pick in resampled(len(features), draws)])
    return rounded(value, (found - found.mean() + value).clamp_min(0))


def joint(
    features: Tensor, condition: Tensor, reference: Tensor, reference_condition: Tensor, draws: int = 50
) -> Figure:
    """Frechet joint distance (DeVries et al. 2019, arXiv 1907.08175): that of features [n, F] together with what they
    had to go with.

    The conditions [n, K] and [m, K] are scaled as there, to the mean length of the reference's features [m, F]. Two
    sets that show the same things, but not each under its own condition, are at distance zero by `frechet`, and apart
    here.
    """
    scale = reference.norm(dim=1).mean() / reference_condition.double().norm(dim=1).mean()
    pairs = (torch.cat([x, scale * y], 1) for x, y in ((features, condition), (reference, reference_condition)))
    return frechet(*pairs, draws=draws)


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    features = features.double()
    return features.mean(0), features.T.cov()


def square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def recall(features: Tensor, reference: Tensor, neighbours: int = 3) -> Figure:
    """Share of reference pictures [m, F] within reach of some generated one [n, F] (Kynkaanniemi et al. 2019):
    variety.
    """
    own = torch.cdist(features, features)
    reach = own.kthvalue(min(neighbours + 1, len(own)), 1).values
    return average((torch.cdist(reference, features) <= reach).any(1))


def seam(image: Tensor, mask: Tensor) -> Tensor:
    """Mean step between neighbouring pixels on either side of the mask's edge: [B, 3, H, W] and [B, 1, H, W] -> [B] in
    0..1.
    """
    total, count = torch.zeros(len(image)), torch.zeros(len(image))
    for axis in (2, 3):
        size = image.shape[axis] - 1
        step = (image.narrow(axis, 1, size) - image.narrow(axis, 0, size)).abs().mean(1)
        edge = ((mask.narrow(axis, 1, size) > 0.5) != (mask.narrow(axis, 0, size) > 0.5))[:, 0]
        total, count = total + (step * edge).sum((1, 2)), count + edge.sum((1, 2))
    return total / count.clamp_min(1)


def colour_shift(image: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """How far the mean colour of the hole's outermost EDGE px is from the real image's there: [B] in 8-bit levels."""
    hole = (mask > 0.5).float()
    inner = 1 - torch.nn.functional.max_pool2d(1 - hole, 2 * EDGE + 1, 1, EDGE)
    rim = hole - inner
    gap = ((image - real) * rim).sum((2, 3)) / rim.sum((2, 3)).clamp_min(1)  # [B, 3]
    return 255 * gap.abs().mean(1)
