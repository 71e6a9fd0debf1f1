"""The header of a saved CONTEXT: what its notes may say, and which tensors then belong to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .checks.errors import CheckpointError, shown
from .checks.plain_json import parse
from .checks.rules import TRUTH, Rule, choice, integer, number, or_none
from .context import Context
from .geometry import Grid
from .kv.policy import REUSES
from .kv.split import VISIBLE
from .kv.store import KV_DTYPES

NOTES_KEY, FORMAT = "lazydiffusion.context", 2  # 1: no canvas that is seen smaller
MOST_NOTES = 1 << 16
SIDE, COUNT = integer(1, 1 << 16), integer(0, 1 << 24)
NAME = Rule(lambda value: type(value) is str and len(value) <= 300, "a name of at most 300 letters")


def _is_grid(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) in (4, 5) and all(SIDE.fits(each) for each in value)):
        return False
    height, width, scale, patch, *downscale = value
    side = scale * patch * math.prod(downscale)
    small = max(scale, patch, *downscale) <= MOST_SCALE and side <= MOST_SCALE**2
    return small and height * width <= MOST_PIXELS


MOST_SCALE, MOST_PIXELS = 64, 1 << 29
GRID = Rule(_is_grid, "height, width (at most 512 megapixels), scale, patch and downscale, if any (at most 64 each)")
RULES: dict[str, Rule] = {
    "format": integer(1, FORMAT),
    "model": NAME,
    "patches": NAME,
    "grid": GRID,
    "view": or_none(GRID),
    "images": COUNT,
    "rows": COUNT,
    "count": COUNT,
    "width": COUNT,
    "channels": integer(1, 1 << 16),
    "reuse": or_none(choice(*REUSES)),
    "kv_dtype": or_none(choice(*KV_DTYPES)),
    "visible": or_none(choice(*VISIBLE)),
    "sketch_strength": or_none(number(0, 1)),
    "sketch_black": TRUTH,
}
OPTIONAL = ("owner", "view.sizes", "sketch.tokens", "sketch.where", "masked", "edges", "negative_offset", "weight")
OPTIONAL += ("strength", "alpha", "texture")


def notes_of(context: Context) -> dict[str, Any]:
    """What a file says of a context beside its tensors."""
    stock, sketch, origin = context.stock, context.sketch, context.origin
    return {
        "format": 1 if context.grid.downscale == 1 else FORMAT,
        "model": context.model,
        "patches": origin and origin.patches,
        "grid": list_of(context.grid),
        "view": context.view and list_of(context.view.grid),
        "images": len(context.image),
        "rows": len(context.hole.index),
        "count": context.hole.count,
        "width": context.tokens.shape[-1],
        "channels": context.latent.shape[1],
        "reuse": stock and stock.reuse,
        "kv_dtype": stock and stock.kv_dtype,
        "visible": stock and stock.visible,
        "sketch_strength": sketch and sketch.strength,
        "sketch_black": sketch is not None and sketch.black,
    }


def list_of(grid: Grid) -> list[int]:
    """Return a grid as its four numbers, or five where a model sees it smaller."""
    return [grid.height, grid.width, grid.scale, grid.patch, *([grid.downscale] if grid.downscale > 1 else [])]


@dataclass(frozen=True)
class Kind:
    """What numbers a tensor holds, and its shape; None stands for any length."""

    dtypes: tuple[str, ...]
    shape: tuple[int | None, ...]


FLOAT, BYTES, WHOLE = ("F32",), ("U8",), ("I64",)


def kinds_of(notes: dict[str, Any]) -> dict[str, Kind]:
    """What each tensor of a file is, by its checked notes."""
    grid, images, rows, count = Grid(*notes["grid"]), notes["images"], notes["rows"], notes["count"]
    pixels, latents = (grid.height, grid.width), (images, notes["channels"], *grid.latent_size)
    cells = notes["channels"] * grid.patch**2
    kinds = {
        "image": Kind(BYTES + FLOAT, (images, 3, *pixels)),
        "mask": Kind(BYTES, (images, *pixels)),
        "latent": Kind(FLOAT, latents),
        "index": Kind(WHOLE, (rows, count)),
        "valid": Kind(BYTES, (rows, count)),
        "owner": Kind(WHOLE, (rows,)),
        "tokens": Kind(FLOAT, (rows, count, notes["width"])),
        "view.index": Kind(WHOLE, (rows, count)),
        "view.sizes": Kind(WHOLE, (rows, 2)),
        "sketch.tokens": Kind(FLOAT, (rows, count, cells)),
        "sketch.where": Kind(BYTES, (images, *pixels)),
        "masked": Kind(FLOAT, latents),
        "edges": Kind(FLOAT, (rows, count, (grid.scale * grid.patch) ** 2)),
        "negative_offset": Kind(FLOAT, (rows, notes["width"])),
        "weight": Kind(FLOAT, (images, *pixels)),
        "strength": Kind(FLOAT, (rows, count)),
        "alpha": Kind(FLOAT, (images, 1, *pixels)),
        "texture": Kind(FLOAT, (None, 4)),
        "vae": Kind(FLOAT, (None,)),
    }
    if notes["view"] is None:
        del kinds["view.index"], kinds["view.sizes"]
    if notes["sketch_strength"] is None:
        del kinds["sketch.tokens"], kinds["sketch.where"]
    if notes["reuse"] is None:
        del kinds["masked"]
    return kinds


def read_notes(metadata: dict[str, str], name: str) -> dict[str, Any]:
    """The checked notes of a file. Raises CheckpointError."""
    if NOTES_KEY not in metadata:
        sentence = f"{name} is no saved CONTEXT: its metadata has no '{NOTES_KEY}'. Choose a file of Save Context."
        raise CheckpointError(name, NOTES_KEY, "missing", "a CONTEXT", sentence=sentence)
    try:
        notes = parse(metadata[NOTES_KEY], MOST_NOTES)
    except ValueError as error:
        raise CheckpointError(name, NOTES_KEY, str(error), "JSON") from error
    if not isinstance(notes, dict):
        raise CheckpointError(name, NOTES_KEY, shown(notes), "an object of fields")
    made = notes.get("format")
    if type(made) is int and made > FORMAT:
        sentence = f"{name}: context format {made} is newer than this pack's {FORMAT}: update ComfyUI-LazyDiffusion."
        raise CheckpointError(name, "format", str(made), f"at most {FORMAT}", sentence=sentence)
    if notes.keys() != RULES.keys():
        odd = sorted(str(key) for key in notes.keys() ^ RULES.keys())
        raise CheckpointError(name, "fields", shown(odd), "those of a saved CONTEXT")
    for key, rule in RULES.items():
        if not rule.fits(notes[key]):
            raise CheckpointError(name, key, shown(notes[key]), rule.says)
    if notes["count"] > (tokens := Grid(*notes["grid"]).tokens):
        raise CheckpointError(name, "count", str(notes["count"]), f"at most {tokens}, the tokens of its grid")
    return notes


def check_parts(file: Any, kinds: dict[str, Kind], notes: dict[str, Any], name: str) -> None:
    """Names, kinds of numbers and shapes, by the header alone. Raises CheckpointError."""
    keys = set(file.keys())
    odd = keys - kinds.keys() or {key for key in kinds.keys() - keys if key not in OPTIONAL}
    if notes["sketch_strength"] is not None and "sketch.tokens" not in keys:
        odd = {"sketch.tokens"}
    if odd:
        got = "missing" if not odd & keys else "unknown"
        raise CheckpointError(name, f"tensor {shown(min(odd))[1:-1]}", got, "the tensors of a saved CONTEXT")
    for key in keys:
        part, kind = file.get_slice(key), kinds[key]
        shape = tuple(part.get_shape())
        fits = len(shape) == len(kind.shape) and all(w in (None, g) for g, w in zip(shape, kind.shape, strict=True))
        if part.get_dtype() not in kind.dtypes or not fits:
            wanted = f"{' or '.join(kind.dtypes)} {kind.shape}"
            raise CheckpointError(name, f"tensor {key}", f"{part.get_dtype()} {shape}", wanted)
