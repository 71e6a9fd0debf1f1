"""How a `Run` is tied to a MODEL: a clone with the host's own kinds of patches, all gone with it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..host.attention import attention_for_few, preferred_attention
from ..host.control import attention_layers, control_patches
from ..host.memory import with_room_for
from ..host.patching import compile_key, module_of, pixart_model, wrapper_kinds
from ..host.sampling import inpainting_noise
from .passes import KnownLatents
from .run import Run

KEY = "lazydiffusion"
OVERRIDE = "optimized_attention_override"


class Positions(torch.nn.Module):
    """In the place of a transformer's rotary embedder: ids [B, T, axes] -> [B, 1, T, ...], or tokens along another
    axis.
    """

    def __init__(self, inner: torch.nn.Module, run: Run):
        super().__init__()
        self.inner, self.run = inner, run

    @torch.compiler.disable
    def forward(self, ids: Tensor) -> Tensor:
        return self.run.positions(lambda: self.inner(ids), self.run.family.position_axis, ids.shape[1])


class GridPositions(torch.nn.Module):
    """In the place of an embedder that reads off a grid's size where its tokens are: [B, T, h, w, D] -> [T h w,
    ...].
    """

    def __init__(self, inner: torch.nn.Module, run: Run):
        super().__init__()
        self.inner, self.run = inner, run

    @torch.compiler.disable
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.run.positions(lambda: self.inner(x, **options), 0)


def hooked(model: Any, run: Run, kept_bytes: int) -> Any:
    """A clone of MODEL whose model calls are lazy, and with which the host makes room for `kept_bytes`.

    Functions only: the host deep-copies whatever else lies in a model's options.
    """
    try:
        clone = model.clone(disable_dynamic=True)  # newer hosts: not through their compiler, which captures hooks
    except TypeError:
        clone = model.clone()

    def prepare(executor: Any, patcher: Any, noise_shape: Any, *args: Any, **kwargs: Any) -> Any:
        """What passes over all tokens keep needs memory beside the model's own."""
        return executor(patcher, with_room_for(patcher, noise_shape, kept_bytes), *args, **kwargs)

    wrappers = wrapper_kinds
    # Compiled code drops its guards on options, and would mix up runs.
    clone.remove_wrappers_with_key(wrappers.APPLY_MODEL, compile_key)
    clone.add_wrapper_with_key(wrappers.APPLY_MODEL, KEY, calling(run))
    clone.add_wrapper_with_key(wrappers.PREPARE_SAMPLING, KEY, prepare)
    clone.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, KEY, starting(run))
    if run.family.positions != "pixart":
        clone.add_object_patch(f"diffusion_model.{run.family.positions}", positions_of(model, run))
    return clone


def positions_of(model: Any, run: Run) -> Any:
    """What stands in the place of the transformer's positional embedder while the run's clone is loaded."""
    # The module itself may still hold the patch of the edit before: the host takes it off later.
    original = model.get_model_object(f"diffusion_model.{run.family.positions}")
    if run.family.positions == "pos_embedder":
        return GridPositions(original, run)
    if run.family.positions == "cropped_pos_embed":
        return torch.compiler.disable(lambda hw, device=None: run.positions(lambda: original(hw, device=device), 1))
    return Positions(original, run)


def attention_of(
    run: Run, override: Callable[..., Tensor] | None, preferred: Callable[..., Tensor] | None
) -> Callable[..., Tensor]:
    """The run's attention, over the one that MODEL was given by a node, if any, or that its checkpoint prefers.

    Put into a model call's own options, so that it lies on top of what is installed anew at every step, as core's
    block-sparse attention is.
    """

    @torch.compiler.disable
    def attention(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        chosen = attention_for_few(function, args[0]) if run.is_sparse else function
        if override is not None:
            return run.attend(lambda *a, **k: override(chosen, *a, **k), *args, **kwargs)  # type: ignore
        return run.attend(preferred if preferred is not None and not run.is_sparse else chosen, *args, **kwargs)

    return attention  # type: ignore


def calling(run: Run) -> Callable[..., Tensor]:
    """Around the host's `apply_model`: the run, with its attention and its count of blocks in the call's options."""
    preferred = preferred_attention(run.transformer)

    def apply(
        executor: Any,
        x: Any,
        t: Any,
        concat: Any = None,
        text: Any = None,
        control: Any = None,
        options: Any = None,
        **conds: Any,
    ) -> Tensor:
        options = {**(options if options is not None else conds.pop("transformer_options", {})), **run.family.options}
        attention = options[OVERRIDE] = attention_of(run, options.get(OVERRIDE), preferred)
        if dit := options.get("patches_replace", {}).get("dit"):
            counted = {name: in_block(run, name, patch) for name, patch in dit.items()}
            options["patches_replace"] = {**options["patches_replace"], "dit": counted}
        with hidden_hooks(run, attention):
            return run.apply(executor, x, t, concat, text, control, options, conds)

    return apply


@contextmanager
def control_hooks(run: Run, model: Any) -> Iterator[None]:
    """While a run lasts, the control patches on MODEL attend through it: the host gives their blocks no options."""

    @torch.compiler.disable
    def attention(function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return run.attend_control(attention_for_few(function, args[0]) if run.is_sparse else function, *args, **kwargs)

    def given(layer: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        options = {**kwargs.get("transformer_options", {}), OVERRIDE: attention}
        return None if run.here_and_now is None else (args, {**kwargs, "transformer_options": options})

    run.control_patches = control_patches(model.model_options.get("transformer_options", {}))
    layers = [layer for patch in run.control_patches for layer in attention_layers(patch.model_patch.model)]
    handles = [layer.register_forward_pre_hook(given, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def in_block(run: Run, name: tuple[str, int], patch: Callable[..., Any]) -> Callable[..., Any]:
    """Count on from the next block after a `patch` in a block's place, which may leave out the block's attention."""

    @functools.wraps(patch)
    def block(*args: Any, **kwargs: Any) -> Any:
        now = run.here_and_now
        first_calls = {} if now is None else run.family.first_calls(run.transformer, now.prefix)
        if now is None or name not in first_calls:
            return patch(*args, **kwargs)
        now.attention_calls, now.limit = first_calls[name]
        try:
            return patch(*args, **kwargs)
        finally:
            now.attention_calls, now.limit = now.limit, None

    return torch.compiler.disable(block)


def starting(run: Run) -> Callable[..., Any]:
    """Tells the run what the sampler was given: latents and noise in the model's units, and the mask of the holes."""

    def sample(
        executor: Any,
        guider: Any,
        sigmas: Any,
        extra: Any,
        callback: Any,
        noise: Tensor,
        latent: Tensor,
        mask: Tensor,
        *args: Any,
    ) -> Any:
        known = inpainting_noise(executor.class_obj, noise, extra)
        run.start(KnownLatents(latent, known, mask[:, :1] > 0))
        return executor(guider, sigmas, extra, callback, noise, latent, mask, *args)

    return sample


@contextmanager
def hidden_hooks(run: Run, attention: Callable[..., Tensor]) -> Iterator[None]:
    """While the model runs: attention of families that hand it no options, and PixArt's positions, which are made in a
    module's function.
    """
    with ExitStack() as stack:
        if run.family.hidden_attention is not None:
            module = module_of(run.transformer.get_submodule(run.family.hidden_attention))
            attend = module.optimized_attention

            def own(*args: Any, **kwargs: Any) -> Tensor:
                # A host that hands its options on after all, or another thread's run
                others = OVERRIDE in kwargs.get("transformer_options", {}) or run.here_and_now is None
                return attend(*args, **kwargs) if others else attention(attend, *args, **kwargs)

            stack.enter_context(swap(module, "optimized_attention", own))
        if run.family.positions == "pixart":
            embed = pixart_model.get_2d_sincos_pos_embed_torch

            def positions(*args: Any, **kwargs: Any) -> Tensor:
                return run.positions(lambda: embed(*args, **kwargs), 0)

            stack.enter_context(swap(pixart_model, "get_2d_sincos_pos_embed_torch", positions))
        yield


@contextmanager
def swap(module: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module another attribute for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
