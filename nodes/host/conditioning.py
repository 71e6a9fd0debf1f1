"""CONDITIONING: what it may carry, and the hole's tokens in it."""

from __future__ import annotations

from typing import Any

import node_helpers
import torch
from torch import Tensor

from ...lazy_core.context import Context
from .model import PreparedPerBatch

SAME_AT_EVERY_STEP = {
    "denoise_mask_function",
    "transformer_options",
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "disable_cfg1_optimization",
}


def check_prompt(name: str, conditioning: list) -> None:
    """Raises ValueError for text that holds NaN, as a prompt weight like (word:nan) makes it."""
    if not all(bool(torch.isfinite(text).all()) for text, _ in conditioning):
        raise ValueError(f"{name} holds NaN or infinite numbers. Check the weights in its prompt, such as (word:1.2).")


def check_conditioning(name: str, conditioning: list, width: int) -> None:
    """Raises ValueError for text that another model's CLIP encoded."""
    for text, _ in conditioning:
        if text.shape[-1] != width:
            raise ValueError(
                f"{name} is {text.shape[-1]} wide, expected {width}: another CLIP encoded it. "
                "Connect the CLIP of Load Lazy Model to its prompt."
            )


def same_every_step(model: Any, conditioning: list) -> bool:
    """False where a node may hand the model other conditionings from step to step: wrappers, hooks, samplers'
    replacements.
    """
    options = model.model_options
    wrapped = options.get("transformer_options", {}).get("wrappers") or any(model.wrappers.values())
    known = options.keys() <= SAME_AT_EVERY_STEP
    return known and not wrapped and not any(values.get("hooks") for _, values in conditioning)


def with_context(conditioning: list, context: Context, tokens: Tensor, prepared: PreparedPerBatch | None) -> list:
    """Conditioning that carries the hole's `tokens` to the model. Raises ValueError for what only makes sense on a
    whole image.
    """
    check_whole_image_conditions(conditioning)
    conditioning = [[of_rows(text, context), values] for text, values in conditioning]
    keys = context.hole.token_mask
    values = {
        "lazy_tokens": tokens,
        "lazy_index": context.seen.index,
        "lazy_token_mask": None if keys is None else keys.long(),
        "lazy_edges": context.edges,
        "lazy_grid": context.seen.grid,
        "lazy_sizes": context.seen.sizes,
        "lazy_prepared": prepared,
        "width": context.grid.width,
        "height": context.grid.height,
    }
    return node_helpers.conditioning_set_values(conditioning, values)


def of_rows(text: Tensor, context: Context) -> Tensor:
    """A batch of prompts [T, L, W], which the host repeats for the images, as one for each hole [R, L, W]; one prompt
    stays one.
    """
    return text if len(text) == 1 else text[context.owner % len(text)]


def check_whole_image_conditions(conditioning: list) -> None:
    for _, values in conditioning:
        if found := [name for name in ("area", "mask", "control", "gligen") if values.get(name) is not None]:
            raise ValueError(
                f"the conditioning has {found[0]}, which Lazy Decode cannot apply to hole tokens. Remove that node."
            )
