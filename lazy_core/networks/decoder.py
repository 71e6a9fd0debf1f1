"""The diffusion decoder: PixArt-alpha on the hole's tokens only, once per step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from ..config import LazyConfig
from .layers import Build, DecoderBlock, FinalLayer, Mlp, ScalarEmbedder, TextKV
from .layout import Packed, Padded, TokenLayout
from .positions import sincos
from .text_encoder import same_length

PACK_BELOW = 0.9  # share of a batch's tokens that are no padding


@dataclass(frozen=True)
class Conditioning:
    """What a hole is denoised by.

    `context` [B, K, E] is the encoder's, `coordinates` [B, K, 2] where its tokens lie, `caption` [B, L, T] the text.
    `token_mask` [B, K] and `caption_mask` [B, L], both bool, mark what is no padding; None: all of it. `image_size`
    (height, width) px of what the encoder read feeds PixArt's micro-conditioning. `edges` [B, K, P P] in 0..1 are lines
    to follow, for each token its P x P px.
    """

    context: Tensor
    coordinates: Tensor
    caption: Tensor
    token_mask: Tensor | None = None
    image_size: tuple[int, int] | None = None
    edges: Tensor | None = None
    caption_mask: Tensor | None = None

    def beside(self, other: Conditioning) -> Conditioning:
        """Return both as one batch, [2 B, ...]: the two branches of guidance, on the same hole.

        What one of them has, the other has, too: a mask, edges.
        """
        captions = same_length([self.caption, other.caption])
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("token_mask", "edges", "caption_mask"))
        token_mask, edges, caption_mask = (
            None if first is None else torch.cat([first, second]) for first, second in pairs
        )
        return replace(
            self,
            context=torch.cat([self.context, other.context]),
            coordinates=torch.cat([self.coordinates, other.coordinates]),
            caption=torch.cat(captions),
            token_mask=token_mask,
            edges=edges,
            caption_mask=caption_mask,
        )


@dataclass(frozen=True)
class PreparedInputs:
    """The part of a decoder pass that no step changes.

    `context` [B, K, E] and `pos_embed` [B, K, D] lie as `layout` has them, [1, T, ..] where it packs; `text_kv` are the
    text's keys and values [B, L, D] of each block, `micro_cond` PixArt's micro-conditioning [1, D], or 0.
    `shared_timestep`: at every step all images are at one timestep.
    """

    context: Tensor
    pos_embed: Tensor
    text_kv: tuple[TextKV, ...]
    micro_cond: Tensor | float
    layout: TokenLayout
    shared_timestep: bool = False


class LazyDecoder(nn.Module):
    """X_hole^(t-1) = D(X_hole^t (+) T_hole; t, c) with (+) along the hidden dimension: K tokens in, K tokens out.

    LazyDiffusion (arXiv 2404.12382), section 3.2.
    """

    def __init__(self, config: LazyConfig, build: Build):
        super().__init__()
        self.config, width = config, config.width
        token = config.patch_size**2
        self.x_embedder = build.linear(config.latent_channels * token, width)
        self.context_embedder = build.linear(width + config.encoder_width, width)
        self.edge_embedder = build.linear(config.token_pixels**2, config.encoder_width) if config.edges else None
        self.t_embedder = ScalarEmbedder(build, width)
        self.t_block = nn.Sequential(nn.SiLU(), build.linear(width, 6 * width))
        self.y_embedder = Mlp(build, config.caption_width, width, width)
        if config.micro_conditioning:
            self.csize_embedder, self.ar_embedder = ScalarEmbedder(build, width // 3), ScalarEmbedder(build, width // 3)
        self.blocks = nn.ModuleList(
            DecoderBlock(build, width, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(build, width, config.out_channels * token)

    def forward(self, tokens: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """Noisy tokens [B, K, C p p] at timestep [B] in 0..1000 -> [B, K, C p p], which means what `config.prediction`
        says.

        A learned variance is dropped. Raises ValueError for edges where the model takes none.
        """
        return self.step(tokens, timestep, self.prepare(conditioning))

    def prepare(self, conditioning: Conditioning, shared_timestep: bool = False) -> PreparedInputs:
        """Compute what `forward` does from everything but tokens and timestep: once per edit instead of once per step.

        `shared_timestep`: all images will be at one timestep, as they are in sampling. Steps then modulate them alike,
        and leave out a batch's padding where it is a tenth of the tokens or more. Raises ValueError like `forward`.
        """
        context, token_mask, edges = conditioning.context, conditioning.token_mask, conditioning.edges
        if edges is not None or self.edge_embedder is not None:
            context = context + self.embed_edges(context, edges)
        layout: TokenLayout = Padded(token_mask, conditioning.caption_mask)
        if (
            shared_timestep
            and token_mask is not None
            and layout.caption_mask is None
            and float(token_mask.float().mean()) < PACK_BELOW
        ):
            layout = Packed.of(token_mask)
        context, coordinates = layout.pack(context), layout.pack(conditioning.coordinates)
        pos_embed = sincos(coordinates, self.config.width).to(context)  # [B, K, D]
        text = self.y_embedder(conditioning.caption.to(context))  # [B, L, D]
        text_kv = tuple(block.cross_attn.keys_and_values(text) for block in self.blocks)  # type: ignore[operator, union-attr]
        micro_cond = self.micro_conditioning(conditioning.image_size, context)
        return PreparedInputs(context, pos_embed, text_kv, micro_cond, layout, shared_timestep)

    def step(self, tokens: Tensor, timestep: Tensor, prepared: PreparedInputs) -> Tensor:
        """`forward` for tokens [B, K, C p p] at timestep [B]."""
        timestep = timestep[:1] if prepared.shared_timestep else timestep
        return prepared.layout.unpack(self.run_blocks(prepared.layout.pack(tokens), timestep, prepared), tokens)

    def run_blocks(self, tokens: Tensor, timestep: Tensor, prepared: PreparedInputs) -> Tensor:
        """`step` for tokens that lie as `prepared.layout` has them, [B, K, C p p] or [1, T, C p p]."""
        x = self.x_embedder(tokens) + prepared.pos_embed  # [B, K, D]
        x = self.context_embedder(torch.cat([x, prepared.context.to(x)], -1))  # [B, K, D + E] -> [B, K, D]
        time = self.t_embedder(timestep, x.dtype) + prepared.micro_cond  # [B, D]
        modulation = self.t_block(time).unflatten(1, (6, -1))  # [B, 6, D]
        for block, text in zip(self.blocks, prepared.text_kv, strict=True):
            x = block(x, text, modulation, prepared.layout)  # [B, K, D]
        x = self.final_layer(x, time)  # [B, K, (2) C p p]
        return x[..., : tokens.shape[-1]]  # [B, K, C p p]

    def embed_edges(self, context: Tensor, edges: Tensor | None) -> Tensor:
        """Edges [B, K, P P] -> [B, K, E]; None -> [1, 1, E], that of an empty map. Raises ValueError where the model
        takes none.
        """
        if self.edge_embedder is None:
            raise ValueError(
                "this model was not trained with edge maps. Draw a colour sketch instead, or take a model that was."
            )
        nothing = context.new_zeros(1, 1, self.config.token_pixels**2)
        return self.edge_embedder(nothing if edges is None else edges.to(context))

    def micro_conditioning(self, image_size: tuple[int, int] | None, x: Tensor) -> Tensor | float:
        """Original size and aspect ratio, as PixArt-alpha was trained with at 1024 px (as in SDXL's
        micro-conditioning).
        """
        if not self.config.micro_conditioning or image_size is None:
            return 0.0
        height, width = (x.new_tensor([float(side)]) for side in image_size)
        parts = [
            self.csize_embedder(height, x.dtype),
            self.csize_embedder(width, x.dtype),
            self.ar_embedder(height / width, x.dtype),
        ]
        return torch.cat(parts, -1)
