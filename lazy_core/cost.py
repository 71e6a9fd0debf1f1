"""Counted operations of a decoder step and of the encoder: what a hole costs against the whole canvas."""

from __future__ import annotations

from .config import LazyConfig


def step_flops(config: LazyConfig, tokens: int, text_tokens: int, batch: int = 1, kept_text: bool = False) -> int:
    """Multiplications and additions of one decoder pass over `tokens` tokens and `text_tokens` text tokens (matrix
    products only).

    `kept_text`: the text's keys and values are there already, as in every step but an edit's first.
    """
    width, token = config.width, config.patch_size**2
    linear = (
        tokens * width * (config.latent_channels * token + width + config.encoder_width + config.out_channels * token)
    )
    block = tokens * width * width * (4 + 2 + 2 * config.mlp_ratio)
    attention = 2 * tokens * width * (tokens + text_tokens)
    text = 0 if kept_text else text_tokens * width * (config.caption_width + width + 2 * width * config.depth)
    return int(2 * batch * (linear + config.depth * (block + attention) + text))


def encoder_flops(config: LazyConfig, tokens: int, batch: int = 1) -> int:
    """The same of one pass of the context encoder over a canvas of `tokens` tokens."""
    width, token = config.encoder_width, config.patch_size**2
    linear = tokens * width * (config.latent_channels + 1) * token
    block = tokens * width * width * (4 + 2 * config.mlp_ratio)
    return int(2 * batch * (linear + config.encoder_depth * (block + 2 * tokens * tokens * width)))
