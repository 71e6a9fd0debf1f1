"""A picture with its holes, as a model's grid of tokens sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .blend.prefill import prefill
from .checks.inputs import check_inputs
from .downscale import downscale_for
from .geometry import Grid
from .masks import holes_of


@dataclass(frozen=True)
class Canvas:
    """An `image` [B, 3, H, W] in 0..1, its `hole` [B, H, W] bool (True = generate), and a soft mask's `weight` [B, H,
    W], if any.

    `padded` [B, 3, H', W'] is the image in whole tokens, and `padded_hole` [B, H', W'] what of that is not to be seen.
    """

    grid: Grid
    image: Tensor
    hole: Tensor
    weight: Tensor | None
    padded: Tensor
    padded_hole: Tensor

    @classmethod
    def of(cls, image: Tensor, mask: Tensor, scale: int, patch: int, trained: int | None = None) -> Canvas:
        """From an image [B, 3, H, W] and a mask [M, H, W] (1 = hole, 0 = keep); `scale` px make a latent's side,
        `patch` latents a token's.

        `trained`: the side in px of the canvases that the model was trained on, if it is to see larger holes smaller
        (`LazyConfig.enlarged_from`).

        Raises ValueError for sizes that do not match, NaN, or an image without a pixel.
        """
        image, mask = check_inputs(image, mask)
        grid = Grid(image.shape[-2], image.shape[-1], scale, patch)
        hole, weight = holes_of(mask)
        grid = replace(grid, downscale=downscale_for(hole, trained))
        # Padding repeats the edge, so it repeats the hole's content wherever the hole touches the edge: it is hole
        # there, too.
        return cls(grid, image, hole, weight, grid.pad(image), grid.pad(hole[:, None])[:, 0])

    def filled(self) -> Tensor:
        """Return the padded image with its holes filled smoothly [B, 3, H', W']: nothing of their content is left."""
        return prefill(self.padded, self.padded_hole)

    def greyed(self) -> Tensor:
        """Return the padded image with mid-grey holes [B, 3, H', W'], as inpainting models want to see it."""
        return torch.where(self.padded_hole[:, None], 0.5, self.padded)
