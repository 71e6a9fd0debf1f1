"""Put the generated hole back into the canvas. Outside the mask the canvas comes back bit-identical, in every mode."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from .masks import boxes_of
from .membrane import membrane

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
    reach = feather + 1
    share = torch.arange(reach**2 + 1, dtype=torch.float64, device=mask.device).sqrt() / reach  # of each squared distance
    squared = mask.to(torch.int32) * reach**2
    for axis in (0, 1):
        squared = squared_distance(squared, axis, reach)
    return (share**2 * (3 - 2 * share)).float()[squared]


def squared_distance(squared: Tensor, axis: int, reach: int) -> Tensor:
    """One axis of a Euclidean distance transform (Felzenszwalb and Huttenlocher 2012), which needs to be right below `reach` alone."""
    result, length = squared.clone(), squared.shape[axis]
    for apart in range(1, min(reach, length)):
        for to, at in ((apart, 0), (0, apart)):
            there, further = result.narrow(axis, to, length - apart), squared.narrow(axis, at, length - apart) + apart**2
            torch.minimum(there, further, out=there)
    return result


def poisson(canvas: Tensor, generated: Tensor, mask: Tensor) -> Tensor:
    """One image [3, H, W]: generated + f, with f harmonic in the hole and equal to canvas - generated on the kept pixels around it."""
    if bool(mask.all()):
        return generated
    gap = (canvas - generated).double().cpu().numpy()
    return generated + torch.from_numpy(membrane(mask.cpu().numpy(), gap)).to(generated)
