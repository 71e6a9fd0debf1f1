"""A CONTEXT as a `.safetensors` file: encoded on one machine, decoded on another.

Metadata holds its sizes and what made it, as JSON that is checked before a tensor is read; pictures are bytes where
they came as bytes. A SHA-256 over everything tells a file that is not what was written. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .checkpoint import finite, opened
from .checks.errors import AGAIN, CheckpointError
from .context import Context, Origin, Sketch, StockTerms, View
from .context_notes import NOTES_KEY, check_parts, kinds_of, notes_of, read_notes
from .geometry import Grid
from .tokens import HoleTokens

DIGEST_KEY = "lazydiffusion.sha256"


def to_bytes(context: Context) -> bytes:
    """The file of a context. Raises ValueError for one that is not known what it was made with."""
    if context.origin is None:
        raise ValueError("the CONTEXT does not say what it was made with. Connect our Encode Context node.")
    tensors = parts_of(context)
    notes = json.dumps(notes_of(context))
    metadata = {"format": "pt", NOTES_KEY: notes, DIGEST_KEY: digest(notes, tensors)}
    return save(tensors, metadata)


def parts_of(context: Context) -> dict[str, Tensor]:
    """All tensors of a context by their names in the file."""
    stock, sketch, view, hole = context.stock, context.sketch, context.view, context.hole
    assert context.origin is not None
    image = (context.image * 255).round()
    exact = bool(((image >= 0) & (image <= 255)).all()) and torch.equal(image / 255, context.image)
    found: dict[str, Tensor | None] = {
        "image": image.to(torch.uint8) if exact else context.image,
        "mask": context.mask,
        "latent": context.latent,
        "index": hole.index,
        "valid": hole.valid,
        "owner": hole.owner,
        "tokens": context.tokens,
        "view.index": view and view.index,
        "view.sizes": view and view.sizes,
        "sketch.tokens": sketch and sketch.tokens,
        "sketch.where": sketch and sketch.where,
        "masked": stock and stock.masked,
        "edges": context.edges,
        "negative_offset": context.negative_offset,
        "weight": context.weight,
        "strength": context.strength,
        "alpha": context.alpha if context.alpha is None else context.alpha.expand(len(context.image), -1, -1, -1),
        "texture": context.texture,
        "vae": context.origin.vae,
    }
    return {name: plain(part) for name, part in found.items() if part is not None}


def plain(part: Tensor) -> Tensor:
    """In the one type of number that a file has for its kind: bytes, whole numbers, or float32."""
    if part.dtype == torch.bool:
        part = part.to(torch.uint8)
    return (part.float() if part.is_floating_point() else part).contiguous().cpu()


def read_context(path: Path) -> Context:
    """Read a file of `to_bytes`. Raises CheckpointError, and nothing else: what the file is instead, and what to do."""
    name = path.name
    with opened(path) as file:
        metadata = file.metadata() or {}
        notes = read_notes(metadata, name)
        kinds = kinds_of(notes)
        check_parts(file, kinds, notes, name)
        parts = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if digest(metadata[NOTES_KEY], parts) != metadata.get(DIGEST_KEY):
        raise CheckpointError(name, "content", "not what was saved", "what its SHA-256 says", AGAIN)
    return from_parts(parts, notes, name)


def from_parts(parts: dict[str, Tensor], notes: dict[str, Any], name: str) -> Context:
    """The context of checked tensors and notes. Raises CheckpointError for values that point nowhere."""
    grid, images = Grid(*notes["grid"]), notes["images"]
    for key, part in parts.items():
        if part.is_floating_point():
            finite(part, key, name)
    within(parts, "index", grid.tokens, name)
    if not ascending(parts["index"], parts["valid"] > 0):
        raise CheckpointError(name, "tensor index", "a token twice", "each hole's tokens in order")
    within(parts, "owner", images, name)
    owner = parts.get("owner")
    if owner is None and notes["rows"] != images:
        raise CheckpointError(name, "rows", str(notes["rows"]), f"{images}, one for each image")
    valid = parts["valid"] > 0
    hole = HoleTokens(parts["index"], valid, grid.tokens, owner)
    view = sketch = stock = None
    if notes["view"] is not None:
        view = View(Grid(*notes["view"]), parts["view.index"], parts.get("view.sizes"))
        within(parts, "view.index", view.grid.tokens, name)
        within(parts, "view.sizes", 1 << 16, name)
    if notes["sketch_strength"] is not None:
        where = parts["sketch.where"] > 0 if "sketch.where" in parts else None
        sketch = Sketch(parts["sketch.tokens"], notes["sketch_strength"], where, notes["sketch_black"])
    if notes["reuse"] is not None:
        stock = StockTerms(notes["reuse"], notes["kv_dtype"] or "model", parts.get("masked"), notes["visible"] or "all")
    image = parts["image"]
    return Context(
        notes["model"],
        grid,
        image / 255 if image.dtype == torch.uint8 else image,
        parts["mask"] > 0,
        parts["latent"],
        hole,
        parts["tokens"],
        sketch,
        view,
        stock,
        parts.get("edges"),
        parts.get("negative_offset"),
        parts.get("weight"),
        parts.get("strength"),
        parts.get("alpha"),
        Origin(notes["patches"], parts["vae"], loaded=True),
        texture_in(parts, name),
    )


def texture_in(parts: dict[str, Tensor], name: str) -> Tensor | None:
    """Raises CheckpointError for another number of colours than the mask has pixels."""
    texture = parts.get("texture")
    if texture is not None and len(texture) != (count := int((parts["mask"] > 0).sum())):
        raise CheckpointError(name, "tensor texture", f"{len(texture)} colours", f"{count}, one for each masked pixel")
    return texture


def within(parts: dict[str, Tensor], key: str, end: int, name: str) -> None:
    """Raises CheckpointError for a number below 0 or from `end` on."""
    part = parts.get(key)
    if part is not None and part.numel() and not 0 <= int(part.min()) <= int(part.max()) < end:
        got = f"from {int(part.min())} to {int(part.max())}"
        raise CheckpointError(name, f"tensor {key}", got, f"numbers from 0 to {end - 1}")


def ascending(index: Tensor, valid: Tensor) -> bool:
    """Whether each row's tokens [R, K] that are `valid` come first, and rise."""
    if index.shape[1] < 2:
        return True
    both = valid[:, 1:]
    return bool((valid[:, :-1] | ~both).all()) and bool((index[:, 1:] > index[:, :-1])[both].all())


def digest(notes: str, parts: dict[str, Tensor]) -> str:
    """SHA-256 of notes and tensors."""
    found = hashlib.sha256(notes.encode())
    for name, part in sorted(parts.items()):
        found.update(f"{name} {part.dtype} {tuple(part.shape)}".encode())
        found.update(part.contiguous().view(-1).view(torch.uint8).numpy().data if part.numel() else b"")
    return found.hexdigest()
