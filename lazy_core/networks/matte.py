"""What of a generated hole is the object: the rest of it the picture's own texture can show better
(`blend.texture`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..vae.tiny import ConvBlock, conv
from .layers import Build

CELL = 16  # px of the coarsest level's cells: sides are padded to whole ones
LEVELS = 3  # cells of 4, 8 and 16 px
DARKEST = 0.5  # how much of the background's light a shadow leaves at least


class ObjectMatte(nn.Module):
    """A small U-Net that tells the object in a hole from its background.

    `channels` at a quarter of the resolution, twice and three times as many below it. Space-to-depth at both ends, as
    in `TinyVAE`; no normalisation, so that a window with a halo is read like the whole.
    """

    def __init__(self, channels: int, build: Build | None = None):
        super().__init__()
        build = build or Build()
        factory = {"dtype": build.dtype, "device": build.device}
        widths = [channels * (level + 1) for level in range(LEVELS)]
        self.first = conv(7 * 16, channels, build.ops, factory)
        self.down = nn.ModuleList(conv(fine, coarse, build.ops, factory, stride=2) for fine, coarse in pairwise(widths))
        self.up = nn.ModuleList(conv(coarse, fine, build.ops, factory) for fine, coarse in pairwise(widths))
        self.before = nn.ModuleList(ConvBlock(width, build.ops, factory) for width in widths)
        self.after = nn.ModuleList(ConvBlock(width, build.ops, factory) for width in widths)
        self.last = conv(channels, 2 * 16, build.ops, factory)

    def forward(self, image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """Edited image and the canvas with its hole filled smoothly [B, 3, H, W] in 0..1, hole [B, H, W] bool -> how
        much of each pixel is the object's, 0..1, and how much light its shadow leaves, `DARKEST`..1: both [B, 1, H, W].

        Right inside the hole alone.
        """
        height, width = image.shape[-2:]
        seen = torch.cat([image * 2 - 1, image - fill, hole[:, None].to(image)], 1)
        seen = F.pad(seen, (0, -width % CELL, 0, -height % CELL), mode="replicate").contiguous()
        x = self.before[0](self.first(F.pixel_unshuffle(seen, 4)))
        skipped = []
        for down, block in zip(self.down, self.before[1:], strict=True):
            skipped.append(x)
            x = block(down(F.relu(x)))
        x = self.after[-1](x)
        for up, block in zip(reversed(self.up), reversed(self.after[:-1]), strict=True):
            x = block(skipped.pop() + F.interpolate(up(F.relu(x)), scale_factor=2))
        told = F.pixel_shuffle(self.last(F.relu(x)), 4)[..., :height, :width].sigmoid()
        return told[:, :1], 1 - (1 - DARKEST) * told[:, 1:]
