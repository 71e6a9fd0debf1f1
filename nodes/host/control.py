"""The host's control patches (`comfy_extras/nodes_model_patch.py`), which add to a picture's tokens after a block: on a
strip of some of them.

DiffSynth's adds to each token by itself. Z-Image Fun's, of newer hosts, has blocks of its own, in which the picture's
tokens attend to each other (`comfy/ldm/lumina/controlnet.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from comfy.ldm.lumina.model import JointAttention
from torch import Tensor

from ...lazy_core.kv.policy import HoleInLatent

KINDS = ("DiffSynthCnetPatch", "ZImageControlPatch")
FILE = "nodes_model_patch"  # the host loads it by itself, under a name of its own: its classes are not those we import
PARTS = ("encoded_image", "encoded_image_size", "model_patch", "vae")


def follows_tokens(patch: Any) -> bool:
    """Whether a patch is one of these."""
    kind = type(patch)
    there = kind.__name__ in KINDS and kind.__module__.endswith(FILE)
    return there and all(hasattr(patch, part) for part in PARTS)


def control_patches(options: dict[str, Any]) -> list[Any]:
    """Those in a MODEL's `transformer_options`, each once: one may be called after blocks of two kinds."""
    found = (patch for patches in options.get("patches", {}).values() for patch in patches if follows_tokens(patch))
    return list({id(patch): patch for patch in found}.values())


def on_hole(
    options: dict[str, Any], hole: HoleInLatent, rows: list[int] | None, total: int, known: list[Any]
) -> dict[str, Any]:
    """A model call's options for a strip of the hole's tokens, of these `rows` of `total` (None: all): with a copy of
    each control patch that knows of those alone. A pass over all tokens came before.

    Raises ValueError for a patch with attention of its own that is none of those `known` when the run began.
    """
    found = control_patches(options)
    if not found:
        return options
    for patch in found:
        if all(patch is not each for each in known) and any(True for _ in attention_layers(patch.model_patch.model)):
            raise ValueError(
                f"{type(patch).__name__} came to the model while it ran, which steps on the hole alone cannot follow."
                " Set reuse to exact on Encode Context, or put it on MODEL itself."
            )
    patches = {id(patch): strip_of(patch, hole, rows, total) for patch in found}
    every = options["patches"].items()
    return {**options, "patches": {kind: [patches.get(id(each), each) for each in found] for kind, found in every}}


def strip_of(patch: Any, hole: HoleInLatent, rows: list[int] | None, total: int) -> Any:
    """A copy of a patch, its picture cut to the hole's tokens; the patch itself where the model did not call it in the
    pass over all tokens, and so calls it in none.
    """
    encoded, side = patch.encoded_image, hole.patch * patch.vae.spacial_compression_encode()
    if encoded is None or tuple(patch.encoded_image_size) != (hole.rows * side, hole.cols * side):
        return patch
    if rows is not None and len(encoded) == total:
        encoded = encoded[rows]
    strip = copy.copy(patch)
    strip.encoded_image, strip.encoded_image_size = cut(encoded, hole), (len(hole.index) * side, side)
    strip.temp_data = None  # what Fun's hands on from block to block
    return strip


def cut(encoded: Tensor, hole: HoleInLatent) -> Tensor:
    """Tokens [B, N, D], or latents [B, C, h, w] -> those of the hole [B, K, D], [B, C, K p, p]."""
    hole = replace(hole, index=hole.index.to(encoded.device))
    return encoded.index_select(1, hole.index) if encoded.dim() == 3 else hole.take(encoded)


def attention_layers(network: torch.nn.Module) -> Iterator[Any]:
    """Where a control network's own tokens attend to each other."""
    return (layer for layer in network.modules() if isinstance(layer, JointAttention))


def kept_numbers(options: dict[str, Any], image: int) -> int:
    """How many numbers the keys and values of these patches are, for so many tokens of the picture."""
    return sum(2 * image * numbers_of(patch.model_patch.model) for patch in control_patches(options))


def numbers_of(network: Any) -> int:
    """Of one token's keys in all of a control network's attention calls."""
    twice = getattr(network, "broken", False)  # Fun's files with an empty refiner: the host runs all other blocks twice
    blocks = attention_layers(network.control_layers if twice else network)
    return (1 + twice) * sum(layer.n_local_heads * layer.head_dim for layer in blocks)
