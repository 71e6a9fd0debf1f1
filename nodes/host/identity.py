"""What tells models and VAEs apart, with all that was put on them."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ...lazy_core.cache import content_key
from ...lazy_core.context import Context, Origin
from .model import transformer_of


def identity_of(model: Any) -> str:
    """Which checkpoint a MODEL of ours came from."""
    transformer_of(model)
    return model.model.lazy_identity


def vae_key(vae: Any) -> str:
    return str(getattr(vae, "lazy_identity", vae.patcher.patches_uuid))


def origin_of(model: Any, vae: Any) -> Origin:
    """What a CONTEXT is made with, told by content: it holds on another machine and after a restart."""
    return Origin(patches_key(model), vae_magnitudes(vae))


def check_origin(context: Context, model: Any, vae: Any) -> Context:
    """Return a CONTEXT; one out of a file only where it was made with the same weight patches and the same VAE.

    `model` None: patches do not matter. Raises ValueError.
    """
    made = context.origin
    if made is None or not made.loaded:
        return context
    if model is not None and made.patches != patches_key(model):
        raise ValueError(
            "the saved CONTEXT was made with other weight patches (LoRA) on MODEL than those connected here. Connect"
            " the same ones, or encode the canvas again."
        )
    if not made.same_vae(Origin("", vae_magnitudes(vae))):
        raise ValueError(
            "the saved CONTEXT was made with another VAE than the one connected here. Connect that one, or encode the"
            " canvas again."
        )
    return context


MAGNITUDES: WeakKeyDictionary[Any, Tensor] = WeakKeyDictionary()


def vae_magnitudes(vae: Any) -> Tensor:
    """The mean magnitude of each of the VAE's tensors [n]: the same in any type of number, up to rounding."""
    module = vae.first_stage_model
    if not isinstance(module, torch.nn.Module):
        return torch.zeros(0)
    if module not in MAGNITUDES:
        weights = [part for _, part in sorted(module.state_dict().items()) if part.is_floating_point() and part.numel()]
        MAGNITUDES[module] = torch.tensor([float(part.detach().float().abs().mean()) for part in weights])
    return MAGNITUDES[module]


def patches_key(model: Any) -> str:
    """Content hash of weight patches, so that the same LoRA loaded anew (--cache-none) is the same model."""
    parts: list[Tensor | str] = []

    def add(value: Any) -> bool:
        if isinstance(value, Tensor):
            parts.append(value)
        elif isinstance(value, (list, tuple)):
            parts.append(f"[{len(value)}")
            return all(add(item) for item in value)
        elif value is None or isinstance(value, (str, int, float)):
            parts.append(repr(value))
        elif hasattr(value, "weights"):  # the host's LoRA, LoKr, ... adapters
            parts.append(type(value).__name__)
            return add(value.weights)
        else:
            return False
        return True

    known = [add([name, patches]) for name, patches in sorted(model.patches.items())]
    return content_key(*parts) if all(known) else str(model.patches_uuid)
