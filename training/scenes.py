"""Scenes composed of sprites, in batches and on any device: the paper's training triple (canvas, entity mask, caption).

A scene is a background, up to three other objects with shadows, and one target object in front of them. Its
mask is drawn as a person would: the silhouette grown by a brush, a box, an ellipse, or a loose blob.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

OTHERS = 3


@dataclass(frozen=True)
class Scenes:
    """`image` [B, 3, H, W] in 0..1 with the target object, `empty` the same without it, `mask` [B, 1, H, W] (1 = hole), `label` [B]."""

    image: Tensor
    empty: Tensor
    mask: Tensor
    label: Tensor


@dataclass(frozen=True)
class SpriteSheet:
    """Premultiplied RGBA sprites [S, 4, s, s] in 0..1 and their names."""

    sprites: Tensor
    names: list[dict]

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> SpriteSheet:
        with safe_open(str(path), "pt", device=str(device)) as file:
            return cls(file.get_tensor("sprites").float() / 255, json.loads(file.metadata()["names"]))

    def __len__(self) -> int:
        return len(self.sprites)


def compose(sheet: SpriteSheet, count: int, size: int, generator: torch.Generator) -> Scenes:
    """Draw `count` scenes of `size` x `size` px. The generator's device is the sheet's."""
    draw = Draw(generator)
    image = backgrounds(draw, count, size)
    light = draw.uniform(count, 2, low=-1, high=1) * torch.tensor([1.0, 0.5], device=draw.device) + torch.tensor(
        [0.0, 0.6], device=draw.device
    )
    others = draw.integers(count, high=OTHERS + 2).clamp(max=OTHERS)
    for index in range(OTHERS):
        box = placements(draw, count, low=0.18, high=0.44)
        layer = place(sheet.sprites[draw.integers(count, high=len(sheet))], box, size)
        image = paint(image, layer * (index < others).view(-1, 1, 1, 1), light)
    box, label = placements(draw, count, low=0.24, high=0.44), draw.integers(count, high=len(sheet))
    layer = place(sheet.sprites[label], box, size)
    return Scenes(paint(image, layer, light), image, user_masks(draw, layer[:, 3:], box), label)


class Draw:
    """Random numbers of one generator, on its device."""

    def __init__(self, generator: torch.Generator):
        self.generator, self.device = generator, generator.device

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def integers(self, *shape: int, high: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def placements(draw: Draw, count: int, low: float, high: float) -> Tensor:
    """[B, 3]: centre x, centre y and side of a box inside the unit square."""
    side = draw.uniform(count, 1, low=low, high=high)
    centre = side / 2 + draw.uniform(count, 2) * (1 - side)
    return torch.cat([centre, side], 1)


def place(sprite: Tensor, box: Tensor, size: int) -> Tensor:
    """[B, 4, s, s] and boxes [B, 3] -> layers [B, 4, size, size], empty outside the box."""
    side = box[:, 2]
    theta = sprite.new_zeros(len(box), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / side
    theta[:, :, 2] = -(box[:, :2] * 2 - 1) / side[:, None]
    grid = F.affine_grid(theta, [len(box), 4, size, size], align_corners=False)
    return F.grid_sample(sprite, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def paint(image: Tensor, layer: Tensor, light: Tensor) -> Tensor:
    """Premultiplied `layer` over `image` with a soft shadow that falls in the scene's light direction [B, 2]."""
    size = image.shape[-1]
    coarse = F.avg_pool2d(layer[:, 3:], 4)
    for _ in range(2):
        coarse = F.avg_pool2d(coarse, 5, 1, 2)
    theta = torch.eye(2, 3, device=image.device).repeat(len(image), 1, 1)
    theta[:, :, 2] = -light * 0.06
    grid = F.affine_grid(theta, [len(image), 1, size, size], align_corners=False)
    shadow = F.grid_sample(coarse, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    image = image * (1 - 0.45 * shadow)
    return (image * (1 - layer[:, 3:]) + layer[:, :3]).clamp(0, 1)


def backgrounds(draw: Draw, count: int, size: int) -> Tensor:
    """Plain colours, gradients, horizons, soft patterns and cloudy noise, [B, 3, size, size]."""
    device = draw.device
    y, x = torch.meshgrid(*[torch.linspace(0, 1, size, device=device)] * 2, indexing="ij")
    a, b, c = (draw.uniform(count, 3, 1, 1, low=0.1) * 0.65 + draw.uniform(count, 1, 1, 1, high=0.33) for _ in range(3))
    b = a + (b - a) * draw.uniform(count, 1, 1, 1, high=0.6)
    angle, where = draw.uniform(count, 1, 1, 1, high=6.2832), draw.uniform(count, 1, 1, 1, low=0.35, high=0.75)
    along = ((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin()) * 0.7 + 0.5
    gradient = a + (b - a) * along
    floor = c * (0.75 + 0.35 * (y - where)) * (y > where) + gradient * (y <= where)
    frequency = draw.uniform(count, 1, 1, 1, low=3, high=8)
    across = (y - 0.5) * angle.cos() - (x - 0.5) * angle.sin()
    stripes = ((along * frequency * 6.2832).sin() * 4).clamp(-1, 1)
    checks = stripes * ((across * frequency * 6.2832).sin() * 4).clamp(-1, 1)
    clouds = F.interpolate(draw.uniform(count, 3, 5, 5, low=-1, high=1), size=(size, size), mode="bicubic", align_corners=True)
    strength = draw.uniform(count, 1, 1, 1, low=0.02, high=0.08)
    plain = a.expand_as(gradient)
    kinds = torch.stack(
        [plain, gradient, floor, floor, gradient + stripes * strength, gradient + checks * strength, gradient + clouds * 0.15]
    )
    kind = draw.integers(count, high=len(kinds))
    return kinds[kind, torch.arange(count, device=device)].clamp(0, 1)


def user_masks(draw: Draw, alpha: Tensor, box: Tensor) -> Tensor:
    """Masks [B, 1, H, W] that cover the object `alpha`: grown silhouettes, boxes, ellipses, loose blobs, now and then everything."""
    count, _, size, _ = alpha.shape
    y, x = torch.meshgrid(*[(torch.arange(size, device=draw.device) + 0.5) / size] * 2, indexing="ij")
    solid = (alpha > 0.02).float()
    brushes = torch.stack([grow(solid, radius) for radius in (size // 64, size // 32, size // 16)])
    grown = brushes[draw.integers(count, high=len(brushes)), torch.arange(count, device=draw.device)]
    margin = 1 + draw.uniform(count, 2, 1, 1, high=0.6) ** 2
    dx, dy = ((p - box[:, i, None, None]) / box[:, 2, None, None] * 2 / margin[:, i] for i, p in enumerate((x, y)))
    square = ((dx.abs() < 1) & (dy.abs() < 1)).float()[:, None]
    ellipse = (dx**2 + dy**2 < 1.35).float()[:, None]
    blob = F.interpolate(draw.uniform(count, 1, 6, 6), size=(size, size), mode="bicubic", align_corners=True)
    loose = torch.maximum(ellipse, (blob > 0.75).float() * (dx**2 + dy**2 < 4).float()[:, None])
    choice = draw.uniform(count, 1, 1, 1)
    mask = torch.where(choice < 0.45, grown, torch.where(choice < 0.68, square, torch.where(choice < 0.9, ellipse, loose)))
    everything = draw.uniform(count, 1, 1, 1) < 0.02
    return torch.where(everything, torch.ones_like(mask), torch.maximum(mask, solid))


def grow(mask: Tensor, radius: int) -> Tensor:
    """Square dilation, one axis after the other: the cost follows the radius, not its square."""
    wide = F.max_pool2d(mask, (1, 2 * radius + 1), 1, (0, radius))
    return F.max_pool2d(wide, (2 * radius + 1, 1), 1, (radius, 0))
