"""The small text encoder of the shipped model."""

from __future__ import annotations

import math

import torch
import torch.nn as nn
from torch import Tensor

from ..config import TextConfig
from .layers import Block, Build


class TextEncoder(nn.Module):
    """Token ids [B, L] -> caption [B, L, T]. Padding is attended like any token: every prompt has the same length per
    16 words."""

    def __init__(self, config: TextConfig, build: Build):
        super().__init__()
        self.config = config
        self.token = build.embedding(config.vocabulary, config.width)
        self.position = build.table(config.length, config.width)
        self.blocks = nn.ModuleList(Block(build, config.width, config.heads) for _ in range(config.depth))
        self.norm = build.norm(config.width)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [B, L] -> caption [B, L, T]."""
        x = self.token(ids)  # [B, L, T]
        x = x + self.position.to(x)[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def same_length(captions: list[Tensor]) -> list[Tensor]:
    """Captions [..., L, T] of any lengths, each repeated along L until all have one: attention to all of L gives what
    it gave.

    ComfyUI does so with the two prompts of guidance.
    """
    most = math.lcm(*(caption.shape[-2] for caption in captions))
    return [
        torch.cat([caption] * (most // caption.shape[-2]), -2) if caption.shape[-2] < most else caption
        for caption in captions
    ]
