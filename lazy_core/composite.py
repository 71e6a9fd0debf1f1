"""Put the generated hole back into the canvas. Outside the mask the canvas comes back bit-identical, in every mode."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse.linalg import splu
from torch import Tensor

from .masks import boxes_of

Blend = Literal["none", "feather", "poisson"]
BLENDS: tuple[Blend, ...] = get_args(Blend)
FEATHER_PIXELS = 6


def composite(canvas: Tensor, generated: Tensor, mask: Tensor, blend: Blend = "none", feather: int = FEATHER_PIXELS) -> Tensor:
    """Canvas and generated image [B, 3, H, W] in 0..1, mask [B, H, W] bool (True = hole) -> new tensor [B, 3, H, W].

    `none` pastes; `feather` fades over the hole's outermost `feather` px; `poisson` shifts the hole's colours by the
    smooth field that closes the gap along its border (Perez et al. 2003; the paper's section 3.3). Raises ValueError.
    """
    if blend not in BLENDS:
        raise ValueError(f"blend is '{blend}', expected none, feather or poisson.")
    result = canvas.clone()
    for index, own in enumerate(mask):
        for box in boxes_of(own, margin=1):
            old, new, hole = (box.cut(x[index]) for x in (canvas, generated, mask))
            if blend == "feather":
                new = torch.lerp(old, new.to(old), feather_weight(hole, feather).to(old))
            elif blend == "poisson":
                new = poisson(old, new, hole)
            box.cut(result[index]).copy_(torch.where(hole, new.clamp(0, 1).to(old), old))
    return result


def feather_weight(mask: Tensor, feather: int) -> Tensor:
    """[H, W] bool -> [H, W] in 0..1: 0 outside the hole, rising with the distance from what is kept; all 1 if nothing is.

    It rises slowly at both ends (3 t^2 - 2 t^3), so that the step across the hole's edge is a twentieth of the gap there, not a seventh.
    """
    hole = mask.cpu().numpy()
    distance = np.full(hole.shape, np.inf) if hole.all() else np.asarray(ndimage.distance_transform_edt(hole))
    share = np.clip(distance / (feather + 1), 0, 1)
    return torch.from_numpy(share**2 * (3 - 2 * share)).float().to(mask.device)


def poisson(canvas: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """One image [3, H, W]: generated + f, with f harmonic in the hole and equal to canvas - generated on the kept pixels around it."""
    if bool(mask.all()):
        return generated
    gap = (canvas - generated).double().cpu().numpy()
    return generated + torch.from_numpy(membrane(mask.cpu().numpy(), gap)).to(generated)


def membrane(hole: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Solve Laplace's equation in `hole` [H, W] with values `border` [C, H, W] on the pixels around it; zero elsewhere.

    Where the hole meets the image's edge the normal derivative is zero. The tiny diagonal keeps a hole without any
    kept neighbour solvable (its correction is then zero).
    """
    height, width = hole.shape
    number = np.full((height + 2, width + 2), -1)
    number[1:-1, 1:-1][hole] = np.arange(hole.sum())
    inside = np.pad(np.ones_like(hole), 1)
    values = np.pad(border, ((0, 0), (1, 1), (1, 1)))
    rows, cols = (axis + 1 for axis in np.nonzero(hole))
    own = number[rows, cols]
    degree, right = np.full(len(own), 1e-9), np.zeros((len(own), len(border)))
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for down, along in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        at = (rows + down, cols + along)
        neighbour, exists = number[at], inside[at]
        degree += exists
        known = exists & (neighbour < 0)
        right[known] += values[:, at[0][known], at[1][known]].T
        links.append((own[neighbour >= 0], neighbour[neighbour >= 0]))
    i, j = (np.concatenate(part) for part in zip(*links, strict=True))
    matrix = sparse.coo_matrix((-np.ones(len(i)), (i, j)), shape=(len(own), len(own))) + sparse.diags(degree)
    solved = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}).solve(right)
    result = np.zeros_like(border)
    result[:, hole] = solved.T
    return result
