"""Scenes as latents, and batches of those whose holes are of similar size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lazy_core.blend.prefill import prefill
from lazy_core.config import LazyConfig
from lazy_core.geometry import Grid
from lazy_core.masks import hole_token_mask, latent_mask, threshold
from lazy_core.vae.tiny import TinyVAE

from ..scenery.crop import crop_boxes, cut
from ..scenery.rows import Rows
from ..scenery.scenes import Recipe, SpriteSheet, compose
from .method import Method
from .precision import mixed_precision


@dataclass(frozen=True)
class Encoded(Rows):
    """Latents of B scenes with and without the hole's content [B, C, h, w], mask [B, 1, h, w], hole tokens [B, N],
    labels, looks and styles [B].

    `lines` [B, 1, H, W] in 0..255: edges to follow, as strong as they are exact; all 0 where none are drawn.
    """

    target: Tensor
    canvas: Tensor
    mask: Tensor
    hole: Tensor
    label: Tensor
    look: Tensor
    style: Tensor
    lines: Tensor | None = None


@torch.no_grad()
def encode_scenes(
    sheet: SpriteSheet,
    vae: TinyVAE | None,
    config: LazyConfig,
    count: int,
    size: int,
    generator: torch.Generator,
    method: Method = "lazy",
    recipe: Recipe | None = None,
) -> Encoded:
    """Compose and encode; without a VAE the latent is the image in -1..1. Half precision, as it is stored.

    For `crop` what is encoded is the square around each mask, brought to half the canvas's side.
    """
    scenes = compose(sheet, count, size, generator, recipe)
    image, mask, lines = scenes.image, scenes.mask, scenes.lines * scenes.binding.view(-1, 1, 1, 1)
    if method == "crop":
        size //= 2
        boxes = crop_boxes(mask)
        image, mask, lines = cut(image, boxes, size), cut(mask, boxes, size, grow=True), cut(lines, boxes, size)
    grid = Grid(size, size, config.latent_scale, config.patch_size)
    hole = threshold(mask[:, 0])
    target, canvas = to_latent(vae, torch.cat([image, prefill(image, hole)])).half().chunk(2)
    lines = (lines * 255).round().byte()
    return Encoded(
        target,
        canvas,
        latent_mask(hole, grid).half(),
        hole_token_mask(hole, grid),
        scenes.label,
        scenes.look,
        scenes.style,
        lines,
    )


def to_latent(vae: TinyVAE | None, image: Tensor) -> Tensor:
    """[B, 3, H, W] in 0..1 -> latent."""
    if vae is None:
        return image * 2 - 1
    with mixed_precision(image.device):
        return vae.encode((image * 2 - 1).contiguous(memory_format=torch.channels_last)).float()


def bucketed(hole_sizes: Tensor, batch: int, window: int, generator: torch.Generator) -> list[tuple[Tensor, int]]:
    """`window` batches of indices, and each one's largest hole; samples of similar hole size share a batch: padding
    costs what tokens do.

    Reads the device once.
    """
    count = batch * window
    index = torch.randint(len(hole_sizes), (count,), generator=generator, device=hole_sizes.device)
    ordered = index[hole_sizes[index].argsort()].view(window, batch)
    order = torch.randperm(window, generator=generator, device=hole_sizes.device)
    ordered = ordered[order]
    return list(zip(ordered, hole_sizes[ordered].amax(1).tolist(), strict=True))
