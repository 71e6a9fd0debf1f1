"""Random numbers on the training device, and what scenes stand on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class Draw:
    """Random numbers of one generator, on its device."""

    def __init__(self, generator: torch.Generator):
        self.generator, self.device = generator, generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def integers(self, *shape: int, high: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def backgrounds(draw: Draw, count: int, size: int) -> Tensor:
    """Plain colours, gradients, horizons, tables of planks, tiles, soft patterns and clouds, [B, 3, size, size] in
    0..1.
    """
    device = draw.device
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size, device=device)] * 2, indexing="ij")
    a, b, c = (draw.uniform(count, 3, 1, 1, low=0.1) * 0.65 + draw.uniform(count, 1, 1, 1, high=0.33) for _ in range(3))
    b = a + (b - a) * draw.uniform(count, 1, 1, 1, high=0.6)
    angle, where = draw.uniform(count, 1, 1, 1, high=6.2832), draw.uniform(count, 1, 1, 1, low=0.35, high=0.75)
    along = ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin()) * 0.7 + 0.5
    gradient = a + (b - a) * along
    frequency = draw.uniform(count, 1, 1, 1, low=3, high=8)
    across = (y - 0.5) * angle.cos() - (x - 0.5) * angle.sin()
    stripes = ((along * frequency * 6.2832).sin() * 4).clamp(-1, 1)
    checks = stripes * ((across * frequency * 6.2832).sin() * 4).clamp(-1, 1)
    dots = (((along * frequency * 9).sin() * (across * frequency * 9).sin() - 0.5) * 6).clamp(-1, 1)
    strength = draw.uniform(count, 1, 1, 1, low=0.02, high=0.08)
    kind = draw.integers(count, 1, 1, 1, high=9)
    pattern = torch.where(kind == 5, stripes, torch.where(kind == 6, checks, torch.where(kind == 7, dots, 0.0)))
    clouds = F.interpolate(
        draw.uniform(count, 3, 5, 5, low=-0.15, high=0.15), size=(size, size), mode="bicubic", align_corners=True
    )
    image = torch.where(kind == 0, a, gradient + pattern * strength + clouds * (kind == 8))
    floor = torch.where(kind == 2, c * (0.75 + 0.35 * (y - where)), planks(draw, count, size, y, where, c))
    return torch.where((kind >= 2) & (kind <= 4) & (y > where), floor, image).clamp(0, 1)


def planks(draw: Draw, count: int, size: int, y: Tensor, edge: Tensor, colour: Tensor) -> Tensor:
    """A table's top [B, 3, size, size] below `edge` [B, 1, 1, 1]: boards in perspective, warmer than `colour` [B, 3, 1,
    1].
    """
    warm = colour * torch.tensor([1.0, 0.78, 0.55], device=draw.device).view(3, 1, 1) + 0.08
    depth = ((y - edge) / (1 - edge)).clamp(0, 1)
    board = (depth.sqrt() * draw.uniform(count, 1, 1, 1, low=2, high=6)) % 8  # nearer boards look broader
    shade = draw.uniform(count, 1, 8, 1, low=-0.06, high=0.06).expand(-1, -1, -1, size)
    tone = shade.gather(2, board.floor().long().clamp(max=7).expand(-1, -1, -1, size))
    gap = ((board - board.round()).abs() < 0.04) & (depth > 0.02)
    return (warm + tone) * (1 - 0.18 * gap)
