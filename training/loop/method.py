"""LazyDiffusion and the paper's two baselines: the same networks, the same recipe, other tokens.

lazy: the decoder gets the hole's tokens. image (RegenerateImage): all tokens of the canvas. crop (RegenerateCrop): all
tokens of a tight square around the mask, brought to half the canvas's side. Canvas and mask go through the same context
encoder each time, so parameters are equal to the last one. Both baselines start from noise everywhere and keep the
hole.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lazy_core.tokens import HoleTokens

Method = Literal["lazy", "image", "crop"]
METHODS: tuple[Method, ...] = get_args(Method)
METHOD_KEY, SIZE_KEY = (
    "lazydiffusion.method",
    "lazydiffusion.canvas",
)  # in a checkpoint's metadata; absent: lazy, 256 px


def everything(mask: Tensor) -> HoleTokens:
    """All tokens of a grid [B, N] as if they were the hole's."""
    return HoleTokens.of(torch.ones_like(mask, dtype=torch.bool), mask.shape[1])
