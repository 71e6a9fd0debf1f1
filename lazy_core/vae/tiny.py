"""A tiny convolutional autoencoder: 8x down, no normalisation layers, so that a crop with a halo decodes exactly like
the whole.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..config import VAEConfig
from ..geometry import Box

MARGINS = (
    4,
    3,
)  # cells around what is wanted that the layers after each upsampling need: all that they see, but for half a latent


class TinyVAE(nn.Module):
    """Images [B, 3, H, W] in -1..1 <-> latents [B, C, H/8, W/8] of about zero mean and unit variance.

    Space-to-depth at both ends keeps convolutions off the full resolution, where a CPU would spend nearly all its
    time. No GroupNorm: each output pixel depends on a bounded neighbourhood only (compare SIGE, Li et al. 2022).
    """

    mean: Tensor  # buffers [1, C, 1, 1]
    std: Tensor

    def __init__(
        self,
        config: VAEConfig,
        ops: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ):
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device}
        narrow, wide = config.channels, config.channels * 2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            conv(48, narrow, ops, factory),
            *[ConvBlock(narrow, ops, factory) for _ in range(config.blocks - 1)],
            conv(narrow, wide, ops, factory, stride=2),
            *[ConvBlock(wide, ops, factory) for _ in range(config.blocks)],
            conv(wide, config.latent_channels, ops, factory),
        )
        self.decoder = nn.Sequential(
            SoftClamp(),
            conv(config.latent_channels, wide, ops, factory),
            *[ConvBlock(wide, ops, factory) for _ in range(config.blocks)],
            nn.Upsample(scale_factor=2),
            conv(wide, narrow, ops, factory),
            *[ConvBlock(narrow, ops, factory) for _ in range(config.blocks)],
            nn.Upsample(scale_factor=2),
            conv(narrow, narrow // 2, ops, factory),
            *[ConvBlock(narrow // 2, ops, factory) for _ in range(config.blocks - 2)],
            conv(narrow // 2, 12, ops, factory),
            nn.PixelShuffle(2),
        )
        self.register_buffer("mean", torch.zeros(1, config.latent_channels, 1, 1, **factory))
        self.register_buffer("std", torch.ones(1, config.latent_channels, 1, 1, **factory))

    def encode(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in -1..1 -> [B, C, H/8, W/8], normalised. H and W are multiples of 8."""
        return (self.encoder(image) - self.mean.to(image)) / self.std.to(image)

    def decode(self, latent: Tensor, wanted: Box | None = None) -> Tensor:
        """[B, C, h, w] -> [B, 3, 8h, 8w], about -1..1 (not clamped).

        `wanted`: the latents [h', w'] whose pixels [B, 3, 8h', 8w'] alone are wanted. The finer the layers, the less
        they see beyond these, so that what lies around them is left behind on the way up.
        """
        x = latent * self.std.to(latent) + self.mean.to(latent)
        if wanted is None:
            return self.decoder(x)
        margins = iter(MARGINS)
        for layer in self.decoder:
            if isinstance(layer, nn.Upsample):
                kept = wanted.grown(next(margins)).within(Box(0, 0, *x.shape[-2:]))
                x, wanted = kept.cut(x), wanted.moved(-kept.top, -kept.left).times(2)
            x = layer(x)
        return wanted.times(2).cut(x)


class SoftClamp(nn.Module):
    """Bounds what the decoder sees, so that an outlier in a generated latent stays local and finite."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same, within -3..3."""
        return torch.tanh(x / 3) * 3


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, without normalisation."""

    def __init__(self, channels: int, ops: Any, factory: dict[str, Any]):
        super().__init__()
        self.conv1, self.conv2 = conv(channels, channels, ops, factory), conv(channels, channels, ops, factory)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def conv(inputs: int, outputs: int, ops: Any, factory: dict[str, Any], stride: int = 1) -> nn.Module:
    """Make a 3 x 3 convolution that keeps the size, or halves it with `stride` 2."""
    return ops.Conv2d(inputs, outputs, 3, stride, 1, **factory)
