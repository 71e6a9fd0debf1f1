"""The diffusion decoder: PixArt-alpha on the hole's tokens only, once per step."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .config import LazyConfig
from .layers import Build, DecoderBlock, FinalLayer, Mlp, ScalarEmbedder
from .positions import sincos


class LazyDecoder(nn.Module):
    """X_hole^(t-1) = D(X_hole^t (+) T_hole; t, c) with (+) along the hidden dimension (section 3.2): K tokens in, K tokens out."""

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.config, width = config, config.width
        token = config.patch_size**2
        self.x_embedder = build.linear(config.latent_channels * token, width)
        self.context_embedder = build.linear(width + config.encoder_width, width)
        self.t_embedder = ScalarEmbedder(build, width)
        self.t_block = nn.Sequential(nn.SiLU(), build.linear(width, 6 * width))
        self.y_embedder = Mlp(build, config.caption_width, width, width)
        if config.micro_conditioning:
            self.csize_embedder, self.ar_embedder = ScalarEmbedder(build, width // 3), ScalarEmbedder(build, width // 3)
        self.blocks = nn.ModuleList(DecoderBlock(build, width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.final_layer = FinalLayer(build, width, config.out_channels * token)

    def forward(
        self,
        tokens: Tensor,
        context: Tensor,
        coordinates: Tensor,
        timestep: Tensor,
        caption: Tensor,
        keys: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Noisy tokens [B, K, C p p], context [B, K, E], coordinates [B, K, 2], timestep [B] 0..1000, caption [B, L, T] -> [B, K, C p p].

        `keys` [B, K] bool marks the tokens that are no padding; `size` (height, width) px feeds PixArt's micro-conditioning.
        The result means what `config.prediction` says; a learned variance is dropped.
        """
        x = self.x_embedder(tokens)  # [B, K, D]
        x = x + sincos(coordinates, self.config.width).to(x)  # [B, K, D]
        x = self.context_embedder(torch.cat([x, context.to(x)], -1))  # [B, K, D + E] -> [B, K, D]
        time = self.t_embedder(timestep, x.dtype) + self.size_embedding(size, x)  # [B, D]
        modulation = self.t_block(time).unflatten(1, (6, -1))  # [B, 6, D]
        text = self.y_embedder(caption.to(x))  # [B, L, D]
        for block in self.blocks:
            x = block(x, text, modulation, keys)  # [B, K, D]
        x = self.final_layer(x, time)  # [B, K, (2) C p p]
        return x[..., : tokens.shape[-1]]  # [B, K, C p p]

    def size_embedding(self, size: tuple[int, int] | None, x: Tensor) -> Tensor | float:
        """Original size and aspect ratio, as PixArt-alpha was trained with at 1024 px (as in SDXL's micro-conditioning)."""
        if not self.config.micro_conditioning or size is None:
            return 0.0
        height, width = (x.new_tensor([float(side)]) for side in size)
        parts = [self.csize_embedder(height, x.dtype), self.csize_embedder(width, x.dtype), self.ar_embedder(height / width, x.dtype)]
        return torch.cat(parts, -1)
