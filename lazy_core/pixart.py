"""PixArt-alpha's weights as the decoder's: its map of keys is data."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .checks.keys import assign
from .config import LazyConfig
from .model import initialise
from .networks.transformer import LazyTransformer

PIXART_RENAMED = {
    "x_embedder.proj.": "x_embedder.",
    "y_embedder.y_proj.": "y_embedder.",
}
PIXART_UNUSED = ("pos_embed", "y_embedder.y_embedding")  # computed here; training's empty caption


def from_pixart(weights: dict[str, Tensor], config: LazyConfig) -> LazyTransformer:
    """A LazyTransformer whose decoder starts as PixArt-alpha, as in the paper (section 4); the context encoder starts
    fresh.

    `weights` is PixArt-alpha's original layout (github.com/PixArt-alpha/PixArt-alpha). The new path for the context
    starts at zero, so that with a full-canvas hole the decoder computes what PixArt does. Raises ValueError that names
    what does not fit.
    """
    model = LazyTransformer(config)
    initialise(model)
    width = config.width
    converted = convert_pixart(weights, config)
    converted["context_embedder.weight"] = torch.cat([torch.eye(width), torch.zeros(width, config.encoder_width)], 1)
    converted["context_embedder.bias"] = torch.zeros(width)
    if config.edges:
        converted["edge_embedder.weight"] = torch.zeros(config.encoder_width, config.token_pixels**2)
        converted["edge_embedder.bias"] = torch.zeros(config.encoder_width)
    assign(model.decoder, converted, "the PixArt checkpoint")
    return model


def convert_pixart(weights: dict[str, Tensor], config: LazyConfig) -> dict[str, Tensor]:
    """Rename PixArt's keys to the decoder's and lay its patches out as our tokens (channel, row, column)."""
    result = {}
    for key, value in weights.items():
        if key in PIXART_UNUSED:
            continue
        for old, new in PIXART_RENAMED.items():
            key = key.replace(old, new) if key.startswith(old) else key
        result[key] = value
    if "x_embedder.weight" in result:
        result["x_embedder.weight"] = result["x_embedder.weight"].flatten(1)
    p = config.patch_size
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        if key in result and len(result[key]) == p * p * config.out_channels:
            result[key] = rearrange(result[key], "(p q c) ... -> (c p q) ...", p=p, q=p)
    return result
