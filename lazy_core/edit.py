"""One edit of a canvas as the page hands it on: the canvas, its mask, and what may come out of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Edit:
    """A canvas `image` [B, 3, H, W] in 0..1 and the `mask` [M, H, W] of what an edit may change: 1 = hole (generate), 0
    = keep.
    """

    image: Tensor
    mask: Tensor

    def __repr__(self) -> str:
        return f"Edit({self.image.shape[-1]} x {self.image.shape[-2]} px)"


def blank_image(width: int, height: int, color: str) -> Tensor:
    """Return one image [1, 3, H, W] in 0..1 of a single `color`, written #rrggbb. Raises ValueError."""
    digits = color.strip().removeprefix("#")
    try:
        levels = bytes.fromhex(digits)
    except ValueError:
        levels = b""
    if len(levels) != 3:
        raise ValueError(
            f"color is '{color}', expected #rrggbb, for example #808080 for grey. Choose a colour in the canvas's"
            " panel."
        )
    return (torch.tensor(list(levels)).float() / 255)[None, :, None, None].expand(1, 3, height, width)


def paint_over(image: Tensor, paint: Tensor) -> Tensor:
    """Return the image [B, 3, H, W] with `paint` [4, H, W] (red, green, blue, opacity in 0..1) laid over it. Raises
    ValueError.
    """
    check_size("the sketch", paint, image)
    opacity = paint[3]
    return torch.where(opacity > 0, image * (1 - opacity) + paint[:3] * opacity, image)


def join_masks(image: Tensor, *masks: Tensor | None) -> Tensor:
    """Return what any of the `masks` [M, H, W] covers, or an empty mask [1, H, W] of the image's size. Raises
    ValueError.
    """
    joined = image.new_zeros(1, *image.shape[-2:])
    for mask in masks:
        if mask is not None:
            check_size("the mask", mask, image)
            joined = torch.maximum(joined, mask.to(joined))
    return joined


def keep_outside(edit: Edit, result: Tensor) -> Tensor:
    """Return the `result` [R, 3, H, W] inside the edit's mask and the canvas outside it, to the bit. Raises
    ValueError.
    """
    check_size("the result", result, edit.image)
    return torch.where(edit.mask[:, None] > 0, result.to(edit.image), edit.image)


def check_size(name: str, given: Tensor, image: Tensor) -> None:
    """Raises ValueError where `given` is not as wide and high as the canvas."""
    if given.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"{name} is {given.shape[-1]} x {given.shape[-2]} px, expected the canvas's {image.shape[-1]} x"
            f" {image.shape[-2]}. Resize it, or start a canvas of that size."
        )
