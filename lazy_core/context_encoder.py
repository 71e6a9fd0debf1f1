"""The context encoder: reads canvas and mask once, outside the diffusion loop, and keeps the hole's tokens only."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .config import LazyConfig
from .layers import Block, Build
from .positions import sincos
from .tokens import HoleTokens, patchify


class ContextEncoder(nn.Module):
    """A ViT over all N tokens of the canvas, then token dropping (section 3.1): T_hole [B, K, E] is the compressed context."""

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.patch, self.width = config.patch_size, config.encoder_width
        self.embed = build.linear((config.latent_channels + 1) * config.patch_size**2, self.width)
        self.blocks = nn.ModuleList(Block(build, self.width, config.encoder_heads, config.mlp_ratio) for _ in range(config.encoder_depth))
        self.norm = build.norm(self.width)

    def forward(self, canvas: Tensor, mask: Tensor, hole: HoleTokens, coordinates: Tensor) -> Tensor:
        """Canvas latent [B, C, h, w], mask [B, 1, h, w] (1 = hole, 0 = keep), coordinates [N, 2] -> context [B, K, E].

        The hole's content is removed before anything is computed from it; the mask is an input channel.
        """
        visible = canvas * (1 - mask)  # [B, C, h, w]
        x = patchify(torch.cat([visible, mask], 1), self.patch)  # [B, N, (C + 1) p p]
        x = self.embed(x) + sincos(coordinates, self.width).to(x)  # [B, N, E]
        for block in self.blocks:
            x = block(x)  # [B, N, E]
        return hole.gather(self.norm(x))  # [B, K, E]
