"""One `.safetensors` file: weights, config and tokenizer in its metadata. Key maps of foreign checkpoints are data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import LazyConfig
from .layers import Build
from .model import LazyDiffusion, LazyTransformer, initialise

CONFIG_KEY, TOKENIZER_KEY, STYLES_KEY = "lazydiffusion.config", "lazydiffusion.tokenizer", "lazydiffusion.styles"
FIRST_STYLES = ("3d", "flat", "ink")  # of files that do not name theirs


@dataclass(frozen=True)
class Checkpoint:
    """A file's contents; `identity` is a hash that tells models apart."""

    config: LazyConfig
    weights: dict[str, Tensor]
    tokenizer: str | None
    identity: str
    metadata: dict[str, str]

    @property
    def notes(self) -> dict[str, str]:
        """What `save_checkpoint` was given beside the model: licence, provenance, ..."""
        return {key: value for key, value in self.metadata.items() if key not in ("format", CONFIG_KEY, TOKENIZER_KEY)}

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the names of the drawing styles that the model tells apart, in its order; none where it knows one style alone."""
        if STYLES_KEY in self.metadata:
            return tuple(str(name) for name in json.loads(self.metadata[STYLES_KEY]))[: self.config.styles]
        return FIRST_STYLES if self.config.styles == len(FIRST_STYLES) else tuple(f"style {i + 1}" for i in range(self.config.styles))

    def style_number(self, name: str) -> int | None:
        """Return the number of a style, None for "auto". Raises ValueError for a style that the model does not know."""
        return style_number(self.styles, name)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Weights below `prefix`, without it."""
        return {key[len(prefix) :]: value for key, value in self.weights.items() if key.startswith(prefix)}


def style_number(styles: tuple[str, ...], name: str) -> int | None:
    """Return the place of `name` in `styles`, None for "auto". Raises ValueError for a style that is not there."""
    if name == "auto":
        return None
    if name not in styles:
        raise ValueError(f"style is '{name}', but this model knows {', '.join(styles) or 'no styles'}. Choose one of these, or auto.")
    return styles.index(name)


def save_checkpoint(path: Path, model: LazyDiffusion, tokenizer: str | None = None, dtype: torch.dtype | None = None, **notes: str) -> None:
    """Write `model` (in `dtype`, if given) with its config, tokenizer and `notes` (licence, provenance) as metadata."""
    weights = {key: value.detach().to(dtype or value.dtype).contiguous().cpu() for key, value in model.state_dict().items()}
    metadata = {"format": "pt", CONFIG_KEY: model.config.to_json(), **notes}
    if tokenizer is not None:
        metadata[TOKENIZER_KEY] = tokenizer
    save_file(weights, path, metadata=metadata)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of ours. Raises ValueError: what the file is instead, and what to do."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is a {path.suffix or 'file without ending'}, expected .safetensors: pickled checkpoints are never loaded."
        )
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if CONFIG_KEY not in metadata:
                raise ValueError(
                    f"{path.name} is no LazyDiffusion checkpoint: its metadata has no '{CONFIG_KEY}'. "
                    "Choose the model that ships with the pack, or one made by its training."
                )
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except SafetensorError as error:
        raise ValueError(f"{path.name} is damaged or no safetensors file ({error}). Download or copy it again.") from error
    try:
        config = LazyConfig.from_json(metadata[CONFIG_KEY])
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} has a malformed config in its metadata ({error}). Download or copy it again.") from error
    return Checkpoint(config, weights, metadata.get(TOKENIZER_KEY), fingerprint(path), metadata)


def fingerprint(path: Path, chunk: int = 1 << 22) -> str:
    """Hash of the whole file: a fine-tuning may have changed a single tensor of it."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(chunk):
            digest.update(part)
    return digest.hexdigest()


def load_model(path: Path | str, dtype: torch.dtype | None = torch.float32, build: Build | None = None) -> tuple[LazyDiffusion, Checkpoint]:
    """Build on `meta`, assign the file's weights in `dtype` (None keeps the file's). Raises ValueError."""
    checkpoint = read_checkpoint(path)
    given = build or Build()
    model = LazyDiffusion(checkpoint.config, Build(given.ops, dtype, "meta", given.attention))
    assign(model, checkpoint.weights, Path(path).name, dtype)
    return model.eval(), checkpoint


def assign(module: nn.Module, weights: dict[str, Tensor], name: str, dtype: torch.dtype | None = None) -> None:
    """Check keys and shapes, then take `weights` as the module's own. Raises ValueError that lists what does not fit."""
    check_keys({key: tuple(value.shape) for key, value in module.state_dict().items()}, weights, name)
    module.load_state_dict({key: value.to(dtype or value.dtype) for key, value in weights.items()}, assign=True)


def check_keys(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor], name: str) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    wrong = [
        f"{key} is {tuple(weights[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in weights and tuple(weights[key].shape) != shape
    ]
    problems = [
        f"{len(part)} {kind} ({', '.join(part[:3])}{', …' if len(part) > 3 else ''})" for kind, part in named(missing, unexpected, wrong)
    ]
    if problems:
        raise ValueError(f"{name} does not fit its config: {'; '.join(problems)}. Download or copy it again.")


def named(missing: list[str], unexpected: list[str], wrong: list[str]) -> list[tuple[str, list[str]]]:
    kinds = [("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)]
    return [(kind, part) for kind, part in kinds if part]


def as_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a person wants to know of a checkpoint."""
    return {"preset": checkpoint.config.preset, "tensors": len(checkpoint.weights), "identity": checkpoint.identity, **checkpoint.metadata}


# -- PixArt-alpha ------------------------------------------------------------------------------------------------------
PIXART_RENAMED = {
    "x_embedder.proj.": "x_embedder.",
    "y_embedder.y_proj.": "y_embedder.",
}
PIXART_UNUSED = ("pos_embed", "y_embedder.y_embedding")  # computed here; training's empty caption


def from_pixart(weights: dict[str, Tensor], config: LazyConfig) -> LazyTransformer:
    """A LazyTransformer whose decoder starts as PixArt-alpha, as in the paper (section 4); the context encoder starts fresh.

    `weights` is PixArt-alpha's original layout (github.com/PixArt-alpha/PixArt-alpha). The new path for the context starts
    at zero, so that with a full-canvas hole the decoder computes what PixArt does. Raises ValueError that names what does not fit.
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
