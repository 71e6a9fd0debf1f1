"""The host's choice of attention, and whether steps may run as CUDA graphs."""

from __future__ import annotations

import os
from typing import Any

import torch
from comfy.cli_args import args as host_args
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor

from ...lazy_core.attention import sdpa

ATTENTION_FLAGS = ("split_cross", "quad_cross", "pytorch_cross", "sage", "flash")


def chosen_attention(*but: str) -> bool:
    """Whether the user asked the host for an attention of their own (`--use-sage-attention` and so on), for another one
    than `but`.
    """
    return any(getattr(host_args, f"use_{name}_attention", False) for name in ATTENTION_FLAGS if name not in but)


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, key_mask: Tensor | None = None) -> Tensor:
    """The host's own choice of attention (sage, flash, xformers, SDPA); see `lazy_core.attention.Attention`.

    On a CPU the host's default splits into chunks to save memory; hole tokens need no saving, so PyTorch's own is used
    there. It is used for padded batches, too: 0.3.75's kinds read a mask of booleans in different ways, and sage
    ignores it.
    """
    if key_mask is not None or (q.device.type == "cpu" and not chosen_attention()):
        return sdpa(q, k, v, heads, key_mask)
    return optimized_attention(q, k, v, heads)


def attention_for_few(function: Any, q: Tensor) -> Any:
    """The attention for few queries, instead of the host's `function`: on a CPU its default saves memory that they do
    not need.
    """
    return attention_pytorch if q.device.type == "cpu" and not chosen_attention() else function


def preferred_attention(transformer: torch.nn.Module) -> Any:
    """The attention that a checkpoint asks for, in newer hosts (int8), which any override makes them drop; None where
    layers differ.
    """
    found = {getattr(getattr(layer, "comfy_attention", None), "function", None) for layer in transformer.modules()} - {
        None
    }
    return found.pop() if len(found) == 1 else None


def graphs_wanted() -> bool:
    """Whether steps may run as CUDA graphs, which have an attention of their own for holes that differ in size.

    Not where the user chose another one, and not with the allocator that the host takes by default
    (`--disable-cuda-malloc` takes PyTorch's own): what a failed capture does to that one's memory nobody has tried.
    LAZYDIFFUSION_CUDA_GRAPHS=1 or 0 overrules both.
    """
    said = os.environ.get("LAZYDIFFUSION_CUDA_GRAPHS")
    if said is not None:
        return said != "0"
    return not chosen_attention("pytorch_cross") and torch.cuda.get_allocator_backend() == "native"
