"""A file of ours as MODEL, CLIP and VAE, and the encoder on its device."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ...lazy_core.checkpoint import read_checkpoint
from .clip import make_clip
from .model import LazyDiffusionModel, make_model, transformer_of
from .model_files import model_path
from .vae import make_vae


def load_for_encoding(model: Any, tokens: int) -> tuple[LazyDiffusionModel, torch.device, torch.dtype]:
    """Make room for the context encoder and bring the model to its device -> it, where it is, and what it computes in.

    `tokens` counts batch * N.
    """
    transformer = transformer_of(model)
    width = transformer.config.encoder_width
    mm.load_models_gpu([model], memory_required=tokens * width * 4 * 16)
    return transformer, model.load_device, model.model.manual_cast_dtype or model.model.get_dtype()


def object_in(model: Any, image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """`ObjectMatte` of a model that has one, on its device; its answers are on the CPU."""
    transformer, device, dtype = load_for_encoding(
        model, hole.numel() // transformer_of(model).config.token_pixels ** 2
    )
    assert transformer.matte is not None
    alpha, light = transformer.matte(image.to(device, dtype), fill.to(device, dtype), hole.to(device))
    return alpha.float().cpu(), light.float().cpu()


def load_all(name: str) -> tuple[Any, Any, Any]:
    checkpoint = read_checkpoint(model_path(name))
    return make_model(checkpoint), make_clip(checkpoint), make_vae(checkpoint)
