"""An edit of a manifest: its fields, and what each may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..blend.composite import BLENDS

ALPHA = "alpha"  # as `mask`: what is transparent in the picture is the hole


@dataclass(frozen=True)
class Edit:
    """One edit. The hole is a `mask`, a picture that is white where the hole is (or `ALPHA`), or a `box`: x, y, width,
    height in px.
    """

    image: Path
    mask: Path | str | None = None
    box: tuple[int, int, int, int] | None = None
    prompt: str = ""
    negative: str = ""
    seed: int = 0
    steps: int = 0
    cfg: float = 3.0
    denoise: float = 1.0
    blend: str = "poisson"
    sketch: Path | None = None
    sketch_strength: float = 0.5
    output: str = ""


def in_range(low: float, high: float, kind: type) -> Any:
    """Make a reader of numbers from `low` to `high`, written as numbers or as text; it raises ValueError."""

    def fit(value: Any) -> Any:
        text = value.strip() if isinstance(value, str) else value
        number = kind(text.removesuffix(".0") if isinstance(text, str) else text)
        whole = isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
        if isinstance(value, bool) or not low <= number <= high or (not whole and number != float(value)):
            raise ValueError
        return number

    return fit


def as_box(value: Any) -> tuple[int, int, int, int]:
    """[x, y, width, height], or the same as text."""
    parts = re.split(r"[\s,;]+", value.strip("[]() ")) if isinstance(value, str) else value
    x, y, width, height = (int(each) for each in parts)
    if min(x, y) < 0 or min(width, height) < 1 or [x, y, width, height] != [float(each) for each in parts]:
        raise ValueError
    return x, y, width, height


def as_text(value: Any) -> str:
    """Raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError
    return value


def as_mask(value: Any) -> Path | str:
    """A path, or the word `ALPHA`."""
    return ALPHA if value == ALPHA else Path(as_text(value))


def as_output(value: Any) -> str:
    """A name below the output folder, on any system. Raises ValueError."""
    path = PurePosixPath(as_text(value).replace("\\", "/"))
    odd = (
        any(ord(letter) < 32 or letter in ':*?"<>|' for letter in value) or max(map(len, path.parts), default=0) > 200
    )  # C:, and what Windows does not write
    if path.is_absolute() or ".." in path.parts or not path.name or odd:
        raise ValueError
    return str(path)


FIT: dict[str, Any] = {
    "image": lambda value: Path(as_text(value)),
    "mask": as_mask,
    "box": as_box,
    "prompt": as_text,
    "negative": as_text,
    "seed": in_range(0, 2**64 - 1, int),
    "steps": in_range(0, 1000, int),
    "cfg": in_range(0, 100, float),
    "denoise": in_range(0, 1, float),
    "blend": {name: name for name in BLENDS}.__getitem__,
    "sketch": lambda value: Path(as_text(value)),
    "sketch_strength": in_range(0, 1, float),
    "output": as_output,
}
SAYS = {
    "image": "the path of a picture",
    "mask": f"the path of a picture that is white where the hole is, or '{ALPHA}'",
    "box": "x, y, width and height in px",
    "prompt": "text",
    "negative": "text",
    "seed": "a whole number from 0 on",
    "steps": "a whole number from 0 (what suits the model) to 1000",
    "cfg": "a number from 0 to 100",
    "denoise": "a number from 0 to 1",
    "blend": f"one of {', '.join(BLENDS)}",
    "sketch": "the path of a picture",
    "sketch_strength": "a number from 0 to 1",
    "output": "a name inside the output folder",
}
