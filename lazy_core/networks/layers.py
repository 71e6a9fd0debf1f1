"""Blocks of the context encoder, the decoder and the text encoder. `ops` supplies Linear, LayerNorm and Embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..attention import Attention, sdpa
from .layout import Padded, TokenLayout


@dataclass(frozen=True)
class Build:
    """How modules are made: layer factory, dtype and device of the weights, and the attention function they call."""

    ops: Any = nn
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    attention: Attention = field(default=sdpa)

    def linear(self, inputs: int, outputs: int) -> nn.Module:
        """Make a linear layer with a bias."""
        return self.ops.Linear(inputs, outputs, bias=True, dtype=self.dtype, device=self.device)

    def norm(self, width: int) -> nn.Module:
        """LayerNorm without weights: what scales and shifts it is the modulation."""
        return self.ops.LayerNorm(width, elementwise_affine=False, eps=1e-6, dtype=self.dtype, device=self.device)

    def embedding(self, count: int, width: int) -> nn.Module:
        """Make a table of `count` vectors."""
        return self.ops.Embedding(count, width, dtype=self.dtype, device=self.device)

    def table(self, *shape: int) -> nn.Parameter:
        """Make a parameter of this shape, empty."""
        return nn.Parameter(torch.empty(*shape, dtype=self.dtype, device=self.device))


NO_PADDING = Padded()
TextKV = tuple[Tensor, Tensor]
"""Keys and values [B, L, D] that one block's cross-attention reads from the text: the same at every step of an edit."""


def norm_modulate(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: norm(x) * (1 + scale) + shift, x [B, K, D], shift and scale [B, 1, D].

    Where these are [1, 1, D] they go into the layer norm as its weight and bias, and `norm` itself is not called.
    """
    if len(shift) > 1:
        return torch.addcmul(shift, norm(x), 1 + scale)
    return F.layer_norm(x, x.shape[-1:], 1 + scale[0, 0], shift[0, 0], norm.eps)  # type: ignore[arg-type]


class Mlp(nn.Module):
    """Two linear layers with a GELU between them (its tanh form, as in DiT)."""

    def __init__(self, build: Build, width: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1, self.act, self.fc2 = (
            build.linear(width, hidden),
            nn.GELU(approximate="tanh"),
            build.linear(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., outputs]."""
        return self.fc2(self.act(self.fc1(x)))


class SelfAttention(nn.Module):
    """Attention between the tokens of one image."""

    def __init__(self, build: Build, width: int, heads: int):
        super().__init__()
        self.heads, self.attention = heads, build.attention
        self.qkv, self.proj = build.linear(width, 3 * width), build.linear(width, width)

    def forward(self, x: Tensor, layout: TokenLayout = NO_PADDING) -> Tensor:
        """Tokens x as `layout` has them -> the same shape."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(layout.self_attention(self.attention, q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Queries from the image's tokens, keys and values from the text's."""

    def __init__(self, build: Build, width: int, heads: int):
        super().__init__()
        self.heads, self.attention = heads, build.attention
        self.q_linear, self.kv_linear, self.proj = (
            build.linear(width, width),
            build.linear(width, 2 * width),
            build.linear(width, width),
        )

    def keys_and_values(self, text: Tensor) -> TextKV:
        """Text [B, L, D] -> keys and values [B, L, D]."""
        k, v = self.kv_linear(text).chunk(2, dim=-1)
        return k, v

    def forward(self, x: Tensor, text: TextKV, layout: TokenLayout = NO_PADDING) -> Tensor:
        """Tokens x as `layout` has them, the text's keys and values [B, L, D] -> the shape of x."""
        k, v = text
        return self.proj(layout.cross_attention(self.attention, self.q_linear(x), k, v, self.heads))


class Block(nn.Module):
    """Pre-norm transformer block (context encoder, text encoder)."""

    def __init__(self, build: Build, width: int, heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.norm1, self.attn = build.norm(width), SelfAttention(build, width, heads)
        self.norm2, self.mlp = build.norm(width), Mlp(build, width, int(width * mlp_ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """PixArt-alpha's block: adaLN-single modulation, self-attention, cross-attention to text, MLP (arXiv 2310.00426,
    section 2.3).
    """

    def __init__(self, build: Build, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1, self.attn = build.norm(width), SelfAttention(build, width, heads)
        self.cross_attn = CrossAttention(build, width, heads)
        self.norm2, self.mlp = build.norm(width), Mlp(build, width, int(width * mlp_ratio), width)
        self.scale_shift_table = build.table(6, width)

    def forward(self, x: Tensor, text: TextKV, modulation: Tensor, layout: TokenLayout = NO_PADDING) -> Tensor:
        """Tokens x as `layout` has them, the text's keys and values [B, L, D], modulation [B, 6, D] of all blocks ->
        the shape of x.

        Modulation is [1, 6, D] where all images are at one timestep, as it must be where they lie in one row.
        """
        parts = (self.scale_shift_table.to(x)[None] + modulation).chunk(6, dim=1)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        x = torch.addcmul(x, gate_attn, self.attn(norm_modulate(self.norm1, x, shift_attn, scale_attn), layout))
        x = x + self.cross_attn(x, text, layout)
        return torch.addcmul(x, gate_mlp, self.mlp(norm_modulate(self.norm2, x, shift_mlp, scale_mlp)))


class FinalLayer(nn.Module):
    """The last layer: adaLN modulation and a projection to what a token holds."""

    def __init__(self, build: Build, width: int, outputs: int):
        super().__init__()
        self.norm_final, self.linear = build.norm(width), build.linear(width, outputs)
        self.scale_shift_table = build.table(2, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Tokens x [B, K, D], the timestep's embedding [B, D] -> [B, K, outputs]."""
        shift, scale = (self.scale_shift_table.to(x)[None] + time[:, None]).chunk(2, dim=1)
        return self.linear(norm_modulate(self.norm_final, x, shift, scale))


class ScalarEmbedder(nn.Module):
    """A number (timestep in 0..1000, or a size in px) [B] -> [B, width] through 256 sines and an MLP."""

    frequencies = 256

    def __init__(self, build: Build, width: int):
        super().__init__()
        self.mlp = nn.Sequential(build.linear(self.frequencies, width), nn.SiLU(), build.linear(width, width))

    def forward(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Numbers [B] -> [B, width] in `dtype`."""
        half = self.frequencies // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=value.device) / half)
        angle = value.float()[:, None] * frequency
        return self.mlp(torch.cat([angle.cos(), angle.sin()], -1).to(dtype))
