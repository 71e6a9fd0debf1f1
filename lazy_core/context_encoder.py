"""The context encoder: reads canvas and mask once, outside the diffusion loop, and keeps the hole's tokens only."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from .config import LazyConfig
from .layers import Block, Build
from .positions import sincos
from .tokens import HoleTokens, patchify


class StyleNaming(nn.Module):
    """Names the canvas's drawing style, one of those of the training data, and tells it to all of the hole's tokens.

    What the context only implies the decoder follows less often than the encoder knows it (measured in training/README.md).
    """

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.head = build.linear(config.encoder_width, config.styles)
        self.table = build.table(config.styles, config.encoder_width)
        self.guidance = config.style_guidance

    def logits(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Tokens [B, K, E] of which `valid` [B, K] count -> [B, styles]."""
        weight = valid[..., None].to(tokens)
        return self.head((tokens * weight).sum(1) / weight.sum(1).clamp_min(1))

    def told(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """The sum of all styles' vectors, weighted by how probable they are [B, E]."""
        return self.logits(tokens, valid).float().softmax(-1).to(tokens) @ self.table.to(tokens)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """-> tokens [B, K, E], each with what is `told`."""
        return tokens + self.told(tokens, valid)[:, None] * valid[..., None].to(tokens)

    def against(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """What the negative prompt's tokens get on top [B, E], so that classifier-free guidance leads towards the named style as well.

        Guidance that shares its context between both prompts strengthens the prompt alone, and the style gives way to it. 0 is that;
        at `style_guidance` 1 the negative branch is told the styles' mean, at 1.5 (of three styles) the other two, further beyond.
        """
        return self.guidance * (self.table.to(tokens).mean(0) - self.told(tokens, valid))


class ContextEncoder(nn.Module):
    """A ViT over all N tokens of the canvas, then token dropping (section 3.1): T_hole [B, K, E] is the compressed context."""

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.patch, self.width = config.patch_size, config.encoder_width
        self.embed = build.linear((config.latent_channels + 1) * config.patch_size**2, self.width)
        self.blocks = nn.ModuleList(Block(build, self.width, config.encoder_heads, config.mlp_ratio) for _ in range(config.encoder_depth))
        self.norm = build.norm(self.width)
        self.naming = StyleNaming(config, build) if config.styles else None

    def forward(self, canvas: Tensor, mask: Tensor, hole: HoleTokens, coordinates: Tensor) -> Tensor:
        """As `read`; a model of several styles then adds the one that it sees (`StyleNaming`)."""
        return self.both(canvas, mask, hole, coordinates)[0]

    def both(self, canvas: Tensor, mask: Tensor, hole: HoleTokens, coordinates: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward`, and what the negative prompt's tokens get on top [B, E], if anything (`StyleNaming.against`)."""
        tokens = self.read(canvas, mask, hole, coordinates)
        if self.naming is None:
            return tokens, None
        against = self.naming.against(tokens, hole.valid) if self.naming.guidance else None
        return self.naming(tokens, hole.valid), against

    def read(self, canvas: Tensor, mask: Tensor, hole: HoleTokens, coordinates: Tensor) -> Tensor:
        """Canvas latent [B, C, h, w], mask [B, 1, h, w] (1 = hole, 0 = keep), coordinates [N, 2] -> context [B, K, E].

        The hole's content is removed before anything is computed from it; the mask is an input channel.
        """
        visible = canvas * (1 - mask)  # [B, C, h, w]
        x = patchify(torch.cat([visible, mask], 1), self.patch)  # [B, N, (C + 1) p p]
        x = self.embed(x) + sincos(coordinates, self.width).to(x)  # [B, N, E]
        for block in self.blocks:
            x = block(x)  # [B, N, E]
        return hole.gather(self.norm(x))  # [B, K, E]
