"""A manifest's rows as edits.

A row is an edit, or several where `mask`, `box`, `prompt` or `seed` is a list: all combinations of them. Paths are
relative to the manifest. What rows and the headers of pictures show to be wrong is said, line by line, before anything
is computed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from .fields import ALPHA, FIT, SAYS, Edit
from .rows import PICTURES, rows_of

NOTE = "note"  # a field for whoever writes the manifest
MOST = 10_000  # edits that one row stands for
LISTS = ("mask", "box", "prompt", "seed")


@dataclass
class Manifest:
    """The `edits` of a manifest, and its `problems`: a sentence each, with the line."""

    edits: list[Edit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_manifest(path: Path, defaults: dict[str, Any], home: Path | None = None) -> Manifest:
    """Read a manifest; `defaults` are values for the rows that do not have them. Raises OSError, and ValueError for a
    file of another kind.

    `home`: the folder that no picture may lie outside of; those that do are not looked at.
    """
    found, names = Manifest(), set()
    folder = path if path.is_dir() else path.parent
    for line, row in rows_of(path):
        if isinstance(row, str):
            found.problems.append(f"{line}: {row}")
            continue
        edits, problems = edits_of({**defaults, **row}, folder, home)
        for number, edit in enumerate(edits):
            name = without_ending(edit.output) or "_".join(
                filter(None, (edit.image.stem, slug(edit.prompt), str(edit.seed)))
            )
            if edit.output and len(edits) > 1:
                name += f"_{number + 1}"
            elif not edit.output:  # alike but for box or mask
                name = free_name(name, names)
            if name.casefold() in names:
                problems.append(f"output '{name}.png' is another edit's, too")
            names.add(name.casefold())
            name += ".png"
            found.edits.append(replace(edit, output=name))
        found.problems += [f"{line}: {problem}" for problem in problems]
    if not found.edits and not found.problems:
        found.problems.append("no edits in it")
    return found


def without_ending(name: str) -> str:
    """A result's name without the ending of a picture: results are PNG."""
    path = PurePosixPath(name)
    return name.removesuffix(path.suffix) if path.suffix.lower() in PICTURES else name


def free_name(name: str, taken: set[str]) -> str:
    """A name, with a number where it is taken."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def slug(prompt: str) -> str:
    """The beginning of a prompt as a part of a file's name."""
    return re.sub(r"[^\w]+", "-", prompt).strip("-")[:40].strip("-")


def edits_of(row: dict[str, Any], folder: Path, home: Path | None = None) -> tuple[list[Edit], list[str]]:
    """All edits of a row, and what is wrong with it."""
    known = {each.name for each in fields(Edit)}
    odd = sorted(name for name in row.keys() - known if name != NOTE)
    problems = [f"unknown field '{name}', expected one of {', '.join(sorted(known))}" for name in odd]
    given = {name: value for name, value in row.items() if name in known}
    many = {name: value for name, value in given.items() if name in LISTS and is_list(name, value)}
    problems += [f"{name} is an empty list" for name, value in many.items() if not value]
    edits: list[Edit] = []
    if (total := math.prod(map(len, many.values()))) > MOST:
        return [], [*problems, f"{total:,} edits in one row, expected at most {MOST:,}"]
    for chosen in product(*many.values()):
        values = {**given, **dict(zip(many, chosen, strict=True))}
        fitted, wrong = fitted_values(values, folder, home)
        problems += [each for each in wrong if each not in problems]
        if not wrong:
            edits.append(Edit(**fitted))
    return edits, problems


def is_list(name: str, value: Any) -> bool:
    """Whether a value stands for several. A box is itself a list, of four numbers."""
    return isinstance(value, list) and (name != "box" or any(isinstance(each, list) for each in value))


def fitted_values(values: dict[str, Any], folder: Path, home: Path | None) -> tuple[dict[str, Any], list[str]]:
    """A row's values as an `Edit` has them, and what is wrong with them."""
    fitted: dict[str, Any] = {}
    problems: list[str] = []
    for name, value in values.items():
        try:
            fitted[name] = FIT[name](value)
        except (TypeError, ValueError, KeyError, OverflowError):
            problems.append(f"{name} is {str(value)[:60]!r}, expected {SAYS[name]}")
    for name in ("image", "mask", "sketch"):
        if isinstance(file := fitted.get(name), Path):
            fitted[name] = file = folder / file
            if home is not None and not lies_in(file, home):
                problems.append(f"{name}: '{values[name]}' lies outside {home.name}/")
            elif not is_there(file):
                problems.append(f"{name}: '{values[name]}' is not there")
    image, mask, box = (fitted.get(name) for name in ("image", "mask", "box"))
    if not problems and isinstance(image, Path):
        problems += wrong_sizes(image, mask, fitted.get("sketch"), box)
    if "image" not in values:
        problems.append("no image")
    holes = [name for name in ("mask", "box") if values.get(name) not in (None, "")]
    if len(holes) != 1:
        problems.append(f"{' and '.join(holes) or 'no mask'}: expected a mask, a box, or mask '{ALPHA}', one of them")
    return fitted, problems


def lies_in(file: Path, home: Path) -> bool:
    """Whether a path, links followed, leads into a folder. Nothing is opened."""
    try:
        return file.resolve().is_relative_to(home.resolve())
    except (OSError, ValueError, RuntimeError):
        return False


def is_there(file: Path) -> bool:
    """Whether a path is a file; one that no system could have is none."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


def wrong_sizes(
    image: Path, mask: Path | str | None, sketch: Path | None, box: tuple[int, int, int, int] | None
) -> list[str]:
    """What does not fit the picture, by the files' headers."""
    try:
        width, height = size_of(image)
        for name, file in (("mask", mask), ("sketch", sketch)):
            if isinstance(file, Path) and size_of(file) != (width, height):
                got = " x ".join(map(str, size_of(file)))
                return [f"{name} is {got} px, expected {width} x {height} as its image"]
        if isinstance(mask, Path) and is_transparent(mask) and lowest_alpha(mask) < 255:
            return ["mask has transparency, which may mean either: save it without, white where the hole is"]
        if mask == ALPHA and not is_transparent(image):
            return [f"mask is '{ALPHA}', but {image.name} has no transparency"]
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return [f"no picture: {error}"]
    if box is not None and (box[0] + box[2] > width or box[1] + box[3] > height):
        return [f"box {list(box)} leads out of its image of {width} x {height} px"]
    return []


def is_transparent(path: Path) -> bool:
    """Whether a picture can have transparent pixels."""
    with Image.open(path) as picture:
        return "A" in picture.getbands() or picture.mode == "PA" or "transparency" in picture.info


def lowest_alpha(path: Path) -> int:
    """Of a picture's pixels."""
    with Image.open(path) as picture:
        return picture.convert("RGBA").getchannel("A").getextrema()[0]  # type: ignore[return-value]


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, by its header alone. Raises OSError and what Pillow raises."""
    state = path.stat()
    return _size_of(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1 << 14)
def _size_of(path: Path, *_: int) -> tuple[int, int]:
    with Image.open(path) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size
