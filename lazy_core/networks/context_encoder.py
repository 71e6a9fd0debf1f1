"""The context encoder: reads canvas and mask once, outside the diffusion loop, and keeps the hole's tokens only."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn as nn
from torch import Tensor

from ..config import LazyConfig
from ..tokens import HoleTokens, patchify
from .layers import Block, Build
from .positions import sincos


class CanvasViT(nn.Module):
    """A ViT over all N tokens of the canvas, `depth` blocks of the encoder's width."""

    def __init__(self, config: LazyConfig, build: Build, depth: int):
        super().__init__()
        self.width = config.encoder_width
        self.embed = build.linear((config.latent_channels + 1) * config.patch_size**2, self.width)
        self.blocks = nn.ModuleList(
            Block(build, self.width, config.encoder_heads, config.mlp_ratio) for _ in range(depth)
        )
        self.norm = build.norm(self.width)

    def tokens(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """Masked input [B, N, (C + 1) p p] (`ContextEncoder.masked_input`), coordinates [N, 2] -> [B, N, E]."""
        x = self.embed(x) + sincos(coordinates, self.width).to(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class StyleReader(CanvasViT):
    """Tells what style is drawn where something is drawn.

    The hole's context has other things to carry: what its mean tells of the style is less than what can be seen
    (training/README.md).
    """

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__(config, build, config.style_depth)
        self.head = build.linear(self.width, config.styles + 1)

    def forward(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """Masked input [B, N, (C + 1) p p], coordinates [N, 2] -> logits [B, styles]: each token's, averaged by a
        softmax over tokens.
        """
        named = self.head(self.tokens(x, coordinates)).float()  # [B, N, styles + 1]
        return (named[..., :-1] * named[..., -1:].softmax(1)).sum(1)


class StyleEmbedder(nn.Module):
    """Names the canvas's drawing style, one of those of the training data, and tells it to all of the hole's tokens.

    What the context only implies the decoder follows less often than the encoder knows it (measured in
    training/README.md).
    """

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.reader = StyleReader(config, build) if config.style_depth else None
        self.head = build.linear(config.encoder_width, config.styles) if self.reader is None else None
        self.table = build.table(config.styles, config.encoder_width)
        self.guidance, self.decisive = config.style_guidance, config.style_decisive
        self.emphasis = config.style_emphasis

    def logits(self, x: Tensor, coordinates: Tensor, tokens: Tensor, valid: Tensor) -> Tensor:
        """[B, styles], by the reader from the masked input x [B, N, (C + 1) p p]; else from the context [B, K, E] where
        `valid` [B, K].
        """
        if self.reader is not None:
            return self.reader(x, coordinates)
        assert self.head is not None
        weight = valid[..., None].to(tokens)
        return self.head((tokens * weight).sum(1) / weight.sum(1).clamp_min(1))

    def chosen_logits(self, style: int, x: Tensor) -> Tensor:
        """Return the logits [B, styles] of a style that somebody chose, for the images of x [B, ...]: all of the
        probability is its own.
        """
        logits = x.new_full((len(x), self.table.shape[0]), -1e4, dtype=torch.float32)
        logits[:, style] = 0
        return logits

    def style_embedding(self, logits: Tensor) -> Tensor:
        """Logits [B, styles] -> the mean of the styles' vectors weighted by their probability [B, E].

        A `decisive` model takes the most probable one's, except in training: where in doubt, on an empty canvas above
        all, the mean is a style that no scene had.
        """
        if self.decisive and not self.training:
            return self.table.float().to(logits.device)[logits.argmax(-1)]
        return logits.float().softmax(-1) @ self.table.float().to(logits.device)

    def forward(self, tokens: Tensor, valid: Tensor, logits: Tensor) -> Tensor:
        """-> tokens [B, K, E], each with `style_embedding`, and once trained `style_emphasis` times what sets it apart
        from the styles' mean.
        """
        told = self.style_embedding(logits)
        if self.emphasis and not self.training:
            told = torch.lerp(told, self.table.float().mean(0).to(told), -self.emphasis)
        return tokens + told[:, None].to(tokens) * valid[..., None].to(tokens)

    def negative_offset(self, logits: Tensor) -> Tensor:
        """What the negative prompt's tokens get on top [B, E], so that classifier-free guidance leads towards the named
        style as well.

        Guidance that shares its context between both prompts strengthens the prompt alone, and the style gives way to
        it. 0 is that; at `style_guidance` 1 the negative branch is told the styles' mean, at 1.5 (of three styles) the
        other two, further beyond.
        """
        return self.guidance * (self.table.float().mean(0).to(logits.device) - self.style_embedding(logits))


class EncodedHole(NamedTuple):
    """What the encoder keeps of a canvas: `tokens` [B, K, E], the compressed context of its hole.

    Of a model that knows several drawing styles, `style_logits` [B, styles] are of the one that `tokens` follow, and
    `negative_offset` [B, E] is what the negative prompt's tokens get on top, if anything
    (`StyleEmbedder.negative_offset`).
    """

    tokens: Tensor
    style_logits: Tensor | None = None
    negative_offset: Tensor | None = None


class ContextEncoder(CanvasViT):
    """A ViT over all N tokens of the window that it is given, then token dropping: T_hole [B, K, E] is the compressed
    context.

    LazyDiffusion (arXiv 2404.12382), section 3.1.
    """

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__(config, build, config.encoder_depth)
        self.patch = config.patch_size
        self.naming = StyleEmbedder(config, build) if config.styles else None
        self.fill_embedder = (
            build.linear((config.latent_channels + 1) * self.patch**2, self.width) if config.fill else None
        )

    def forward(
        self, canvas: Tensor, mask: Tensor, hole: HoleTokens, coordinates: Tensor, style: int | None = None
    ) -> EncodedHole:
        """Canvas latent [B, C, h, w], mask [B, 1, h, w] (1 = hole, 0 = keep), coordinates [N, 2] -> tokens [B, K, E].

        Under the mask the canvas is its smooth fill, never the old content; the ViT sees zeros there, and a
        `config.fill` model is told the fill token by token, as attention carries colours roughly. `style` is the number
        of the drawing style to follow instead of the one that is read; the reader does not run then.
        """
        x = self.masked_input(canvas, mask)
        tokens = hole.gather(self.tokens(x, coordinates))
        if self.fill_embedder is not None:
            fill = hole.gather(patchify(torch.cat([canvas, mask], 1), self.patch))
            tokens = tokens + self.fill_embedder(fill) * hole.valid[..., None].to(tokens)
        if self.naming is None:
            return EncodedHole(tokens)
        if style is None:
            logits = self.naming.logits(x, coordinates, tokens, hole.valid)
        else:
            logits = self.naming.chosen_logits(style, x)
        negative_offset = self.naming.negative_offset(logits).to(tokens) if self.naming.guidance else None
        return EncodedHole(self.naming(tokens, hole.valid, logits), logits, negative_offset)

    def masked_input(self, canvas: Tensor, mask: Tensor) -> Tensor:
        """Return all N tokens of what is read [B, N, (C + 1) p p]: latents with the hole zeroed, and the mask as a
        channel.
        """
        return patchify(torch.cat([canvas * (1 - mask), mask], 1), self.patch)
