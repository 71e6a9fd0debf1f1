"""The rows of a manifest: JSON Lines, CSV, Parquet, or a folder of pictures with masks of the same stem."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ENDINGS = (".jsonl", ".ndjson", ".csv", ".parquet")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
    """Rows by their names in small letters; empty values are left out."""
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
    """Raises ValueError where pyarrow is not there."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ValueError(f"{path.name} needs pyarrow: pip install pyarrow, or write the manifest as .jsonl.") from error
    return parquet.read_table(path).to_pylist()
