"""Edits of tiny stock models, and the host's own run of the same on all tokens."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SEED, STEPS = 7, 3


def canvas_and_holes(height: int, width: int) -> tuple[Tensor, Tensor]:
    """IMAGE of soft noise, MASK with two holes that do not touch."""
    rng = torch.Generator().manual_seed(1)
    image = F.interpolate(torch.rand(1, 3, 10, 14, generator=rng), size=(height, width), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(1, height, width)
    mask[:, 20:60, 16:70] = 1
    mask[:, height - 50 : height - 10, width - 44 : width - 12] = 1
    return image.movedim(1, -1), mask


def host_run(model: Any, context: Any, positive: list, negative: list, cfg: float, extra: dict[str, Any]) -> Tensor:
    """The host's KSampler on all tokens, with the hole's tokens as its noise mask -> latent [B, C, h, w]."""
    import comfy.sample
    import node_helpers

    grid = context.grid
    hole = torch.zeros(1, grid.tokens)
    hole[:, context.hole.index[0]] = 1
    mask = hole.view(1, 1, grid.rows, grid.cols).repeat_interleave(grid.patch, 2).repeat_interleave(grid.patch, 3)
    latent = context.latent
    timed = model.model.latent_format.latent_dimensions == 3
    latent, mask = (latent.unsqueeze(2), mask.unsqueeze(2)) if timed else (latent, mask)
    noise = comfy.sample.prepare_noise(latent, SEED)
    values = {"width": grid.width, "height": grid.height, **extra}
    conds = [node_helpers.conditioning_set_values(each, values) for each in (positive, negative)]
    out = comfy.sample.sample(
        model, noise, STEPS, cfg, "euler", "simple", *conds, latent, noise_mask=mask, disable_pbar=True, seed=SEED
    )
    return out.squeeze(2) if timed else out


def filling(context: Any, positive: list) -> dict[str, Tensor]:
    """What the host's own run gets to concatenate, unless the prompt brought it."""
    if context.stock.masked is None or "concat_latent_image" in positive[0][1]:
        return {}
    return {"concat_latent_image": context.stock.masked, "concat_mask": context.grid.pad(context.mask[:, None].float())}


def hole_of(latent: Tensor, context: Any) -> Tensor:
    from lazy_core.tokens import patchify

    return patchify(latent, context.grid.patch)[:, context.hole.index[0]]
