"""How a `Run` is tied to a MODEL: a clone with the host's own kinds of patches, all gone with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import comfy.ldm.pixart.blocks
import comfy.ldm.pixart.pixartms
import comfy.patcher_extension
import torch
from torch import Tensor

from .. import host
from .run import Run

KEY = "lazydiffusion"


class Positions(torch.nn.Module):
    """In the place of a transformer's rotary embedder: ids [B, T, axes] -> [B, 1, T, ...]."""

    def __init__(self, inner: torch.nn.Module, run: Run):
        super().__init__()
        self.inner, self.run = inner, run

    def forward(self, ids: Tensor) -> Tensor:
        return self.run.positions(lambda: self.inner(ids), 2, ids.shape[1])


def hooked(model: Any, run: Run, kept_bytes: int) -> Any:
    """A clone of MODEL whose samplers see strips, and with which the host makes room for `kept_bytes`.

    Functions only: the host deep-copies whatever else lies in a model's options.
    """
    try:
        clone = model.clone(disable_dynamic=True)  # newer hosts: not through their compiler, which captures what hooks do
    except TypeError:
        clone = model.clone()
    options = clone.model_options["transformer_options"] = dict(clone.model_options.get("transformer_options", {}))
    before: Callable[..., Tensor] = options.get("optimized_attention_override", lambda function, *a, **k: function(*a, **k))

    def attention(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        chosen = host.attention_for_few(function, args[0]) if run.is_sparse else function
        return run.attend(lambda *a, **k: before(chosen, *a, **k), *args, **kwargs)

    def apply(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        with pixart_hooks(run, attention) if run.family.positions == "pixart" else nullcontext():
            return run.apply(executor, *args, **kwargs)

    def prepare(executor: Any, patcher: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """Full passes need the memory of the whole latent, not of a strip; what they keep needs more."""
        shape = [*noise_shape[:-2], *run.canvas.latent.shape[-2:]]
        return executor(patcher, host.with_room_for(patcher, shape, kept_bytes), *args, **kwargs)

    options["optimized_attention_override"] = attention
    wrappers = comfy.patcher_extension.WrappersMP
    clone.add_wrapper_with_key(wrappers.APPLY_MODEL, KEY, apply)
    clone.add_wrapper_with_key(wrappers.PREPARE_SAMPLING, KEY, prepare)
    if run.family.positions == "pixart":
        return clone
    name = f"diffusion_model.{run.family.positions}"
    original = model.get_model_object(name)  # the module itself may still hold the patch of the edit before: the host takes it off later
    if run.family.positions == "cropped_pos_embed":
        clone.add_object_patch(name, lambda hw, device=None: run.positions(lambda: original(hw, device=device), 1))
    else:
        clone.add_object_patch(name, Positions(original, run))
    return clone


@contextmanager
def pixart_hooks(run: Run, attention: Callable[..., Tensor]) -> Iterator[None]:
    """PixArt hands its attention no options, and makes positions in a module's function: both are replaced while its model runs."""
    blocks, model = comfy.ldm.pixart.blocks, comfy.ldm.pixart.pixartms
    attend, embed = blocks.optimized_attention, model.get_2d_sincos_pos_embed_torch
    blocks.optimized_attention = lambda *args, **kwargs: attention(attend, *args, **kwargs)
    model.get_2d_sincos_pos_embed_torch = lambda *args, **kwargs: run.positions(lambda: embed(*args, **kwargs), 0)
    try:
        yield
    finally:
        blocks.optimized_attention, model.get_2d_sincos_pos_embed_torch = attend, embed
