"""A manifest of edits: JSON Lines, CSV, Parquet, or a folder of pictures with masks of the same stem.

A row is an edit, or several where `mask`, `box`, `prompt` or `seed` is a list: all combinations of them. Paths are
relative to the manifest. What rows and the headers of pictures show to be wrong is said, line by line, before anything
is computed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from lazy_core.blend.composite import BLENDS

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
NOTE = "note"  # a field for whoever writes the manifest
ALPHA = "alpha"  # as `mask`: what is transparent in the picture is the hole
MOST = 10_000  # edits that one row stands for
LISTS = ("mask", "box", "prompt", "seed")


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


@dataclass
class Manifest:
    """The `edits` of a manifest, and its `problems`: a sentence each, with the line."""

    edits: list[Edit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_manifest(path: Path, defaults: dict[str, Any]) -> Manifest:
    """Read a manifest; `defaults` are values for the rows that do not have them. Raises OSError, and ValueError for a
    file of another kind.
    """
    found, names = Manifest(), set()
    folder = path if path.is_dir() else path.parent
    for line, row in rows_of(path):
        if isinstance(row, str):
            found.problems.append(f"{line}: {row}")
            continue
        edits, problems = edits_of({**defaults, **row}, folder)
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


def rows_of(path: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """-> what a row is called, and its values, or what is wrong with it."""
    if path.is_dir():
        yield from folder_rows(path)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        for number, text in enumerate(text_of(path).split("\n"), 1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield f"line {number}", f"no JSON ({error})"
                continue
            yield f"line {number}", row if isinstance(row, dict) else "no JSON object"
    elif path.suffix.lower() == ".csv":
        text = text_of(path)
        mark = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets of many countries write semicolons
        yield from csv_rows(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark))
    elif path.suffix.lower() == ".parquet":
        for number, row in enumerate(parquet_rows(path), 1):
            yield f"row {number}", {key: value for key, value in row.items() if value is not None}
    else:
        raise ValueError(f"{path.name} is no manifest: expected .jsonl, .csv, .parquet or a folder of pictures.")


def text_of(path: Path) -> str:
    """Raises ValueError for a file that is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 ({error.reason}): save it as UTF-8.") from error


def csv_rows(reader: csv.DictReader) -> Iterator[tuple[str, dict[str, Any] | str]]:
    try:
        for row in reader:
            line = f"line {reader.line_num}"
            if not any(row.values()):
                continue
            if None in row:
                yield line, "more values than names: a text with a comma needs quotes"
            else:
                yield line, {key.strip().lower(): value for key, value in row.items() if value not in (None, "")}
    except csv.Error as error:
        yield f"line {reader.line_num}", f"no CSV ({error})"


def folder_rows(folder: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """Pictures of a folder, each with `NAME_mask.*` beside it, or with a picture of its stem in `masks/`."""
    pictures = (file for file in folder.iterdir() if file.suffix.lower() in PICTURES and file.is_file())
    files = sorted(file for file in pictures if not file.name.startswith("."))
    beside = {file.stem.removesuffix("_mask"): file for file in files if file.stem.endswith("_mask")}
    inside = folder / "masks"
    if inside.is_dir():
        beside |= {file.stem: file for file in sorted(inside.iterdir()) if file.suffix.lower() in PICTURES}
    for file in files:
        if file.stem.endswith("_mask"):
            continue
        if file.stem not in beside:
            yield file.name, f"no mask: expected {file.stem}_mask.png beside it, or masks/{file.stem}.png"
        else:
            yield file.name, {"image": file.name, "mask": str(beside[file.stem].relative_to(folder))}


def parquet_rows(path: Path) -> Iterable[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f"{path.name} needs pyarrow: pip install pyarrow, or write the manifest as .jsonl.") from error
    return parquet.read_table(path).to_pylist()


def edits_of(row: dict[str, Any], folder: Path) -> tuple[list[Edit], list[str]]:
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
        fitted, wrong = fitted_values(values, folder)
        problems += [each for each in wrong if each not in problems]
        if not wrong:
            edits.append(Edit(**fitted))
    return edits, problems


def is_list(name: str, value: Any) -> bool:
    """Whether a value stands for several. A box is itself a list, of four numbers."""
    return isinstance(value, list) and (name != "box" or any(isinstance(each, list) for each in value))


def fitted_values(values: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
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
            if not is_there(file):
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


@lru_cache(maxsize=1 << 16)
def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture as it is shown, by its header alone."""
    with Image.open(path) as picture:
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return picture.size[::-1] if turned else picture.size


def in_range(low: float, high: float, kind: type) -> Any:
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
    if not isinstance(value, str):
        raise TypeError
    return value


def as_mask(value: Any) -> Path | str:
    return ALPHA if value == ALPHA else Path(as_text(value))


def as_output(value: Any) -> str:
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
