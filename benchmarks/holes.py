"""The holes that are measured: a share of the canvas as one square, two distant squares, or a thin band."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("compact", "two parts", "thin")


def hole(kind: str, share: float, side: int, shift: int = 0) -> Tensor:
    """[side, side] float, 1 = hole, covering about `share` (0..1) of the canvas; `shift` px moves it. Raises
    ValueError.
    """
    mask = torch.zeros(side, side)
    if share >= 1:
        return mask + 1
    if kind == "compact":
        length = round(side * share**0.5)
        mask[:length, :length] = 1
        offset = (side - length) // 2
        return mask.roll((offset, min(offset + shift, side - length)), (0, 1))
    if kind == "two parts":
        length = round(side * (share / 2) ** 0.5)
        mask[:length, :length] = mask[-length:, -length:] = 1
        return mask
    if kind == "thin":
        height = max(round(side * share), 1)
        mask[(side - height) // 2 :][:height] = 1
        return mask
    raise ValueError(f"hole kind is {kind!r}, expected one of {KINDS}.")
