"""2-D sine-cosine positions of any subset of a grid, laid out as in PixArt-alpha so that its weights fit."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..config import LazyConfig
from ..geometry import Grid


def grid_coordinates(grid: Grid, config: LazyConfig, device: torch.device | str | None = None) -> Tensor:
    """Coordinates [N, 2] (row, column) of all tokens, in the units that the positional embedding expects."""
    rows, cols = torch.arange(grid.rows, device=device), torch.arange(grid.cols, device=device)
    scale_y, scale_x = spacing(grid, config)
    y, x = torch.meshgrid(rows.float() * scale_y, cols.float() * scale_x, indexing="ij")
    return torch.stack([y, x], -1).flatten(0, 1)


def window_coordinates(grid: Grid, index: Tensor, config: LazyConfig, sizes: Tensor | None = None) -> Tensor:
    """Coordinates [R, K, 2] of the tokens `index` [R, K] of a grid; `sizes` [R, 2]: each row's own, smaller grid in
    tokens.
    """
    cells = torch.stack([index // grid.cols, index % grid.cols], -1)  # [R, K, 2]
    if sizes is None or config.positions == "unit":
        return cells * torch.tensor(spacing(grid, config), device=index.device)
    side = grid.token_pixels
    own = [replace(grid, height=rows * side, width=cols * side) for rows, cols in sizes.tolist()]
    return cells * torch.tensor([spacing(each, config) for each in own], device=index.device)[:, None]


def spacing(grid: Grid, config: LazyConfig) -> tuple[float, float]:
    """Distance between neighbouring rows and columns.

    `unit`: 1 at any size. `pixart`: PixArt-alpha's rule for its multi-scale models
    (PixArt-alpha/diffusion/model/nets/PixArtMS.py), which squeezes every canvas into the range of its 512 px training
    grid.
    """
    if config.positions == "unit":
        return 1.0, 1.0
    height, width = grid.latent_size
    resolution = (height + width) // 2
    base = max(round(resolution / 64) * 64, 64) // config.patch_size
    interpolation = max(round(resolution / 64.0), 1)
    return base / grid.rows / interpolation, base / grid.cols / interpolation


def sincos(coordinates: Tensor, width: int) -> Tensor:
    """Coordinates [..., 2] (row, column) -> [..., width] float32: first half columns, second half rows; each sines,
    then cosines.
    """
    y, x = coordinates.float().unbind(-1)
    return torch.cat([_sincos(x, width // 2), _sincos(y, width // 2)], -1)


def _sincos(position: Tensor, width: int) -> Tensor:
    frequency = 1.0 / 10000 ** (torch.arange(width // 2, device=position.device, dtype=torch.float32) / (width / 2))
    angle = position[..., None] * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)
