"""What tells models and VAEs apart, with all that was put on them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...lazy_core.cache import content_key
from .model import transformer_of


def identity_of(model: Any) -> str:
    """Which checkpoint a MODEL of ours came from."""
    transformer_of(model)
    return model.model.lazy_identity


def weights_key(model: Any, vae: Any) -> str:
    """Tells apart whatever changes the encoder's result: checkpoint, weight patches such as LoRA, and the VAE."""
    return f"{identity_of(model)}/{patches_key(model)}/{vae_key(vae)}"


def vae_key(vae: Any) -> str:
    return str(getattr(vae, "lazy_identity", vae.patcher.patches_uuid))


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
