"""Images with captioned instance masks, from a folder with COCO annotations or from WebDataset shards.

What cannot be used is never silently lost: `Skipped` counts it and keeps its name and the reason.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Instance:
    """The `number`-th annotation of its picture: an object's `mask` [H, W] bool, and what it is called, one or more captions."""

    number: int
    mask: np.ndarray
    captions: list[str]


@dataclass(frozen=True)
class Picture:
    name: str
    image: Image.Image
    instances: list[Instance]


@dataclass
class Skipped:
    """What was left out: `names` [(name, reason)] in the order they came."""

    names: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, reason: str) -> None:
        self.names.append((name, reason))

    def counts(self) -> dict[str, int]:
        return dict(Counter(reason for _, reason in self.names))


def read_pictures(source: Path, skipped: Skipped, part: tuple[int, int] = (0, 1)) -> Iterator[Picture]:
    """Pictures of `source` in a fixed order: a folder with `annotations.json` (COCO), or one with WebDataset's `*.tar`.

    `part` (i, n) takes every n-th picture from the i-th on, so that many machines can share the work. Raises ValueError.
    """
    shards = sorted(source.glob("*.tar"))
    if shards:
        pairs = (pair for shard in shards for pair in of_shard(shard, skipped))
    elif (source / "annotations.json").exists():
        pairs = of_folder(source)
    else:
        raise ValueError(f"{source} has neither *.tar shards nor an annotations.json. See training/README.md for both layouts.")
    for number, (name, data, found) in enumerate(pairs):
        if number % part[1] == part[0]:
            picture = decode(name, data, found, skipped)
            if picture is not None:
                yield picture


Pair = tuple[str, "bytes | Path", list[dict[str, Any]]]


def of_folder(folder: Path) -> Iterator[Pair]:
    """COCO: `images` [{id, file_name}], `annotations` [{image_id, segmentation, caption or category_id}], `categories` [{id, name}]."""
    content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    category = {entry["id"]: entry["name"] for entry in content.get("categories", [])}
    found: dict[Any, list[dict[str, Any]]] = {}
    for entry in content["annotations"]:
        named = {**entry, "caption": entry.get("caption") or category.get(entry.get("category_id"))}
        found.setdefault(entry["image_id"], []).append(named)
    for image in content["images"]:
        path = folder / "images" / image["file_name"]
        yield image["file_name"], path if path.exists() else folder / image["file_name"], found.get(image["id"], [])


def of_shard(shard: Path, skipped: Skipped) -> Iterator[Pair]:
    """WebDataset: files of a sample share their name up to the first dot and follow each other: a picture, a `.json` with `annotations`."""
    key, files = "", dict[str, bytes]()
    try:
        with tarfile.open(shard) as archive:
            for member in archive:
                if not member.isfile():
                    continue
                folder, _, last = member.name.rpartition("/")
                stem, _, ending = last.partition(".")
                name = f"{shard.name}/{folder}/{stem}" if folder else f"{shard.name}/{stem}"
                if name != key:
                    yield from sample_of(key, files, skipped)
                    key, files = name, {}
                extracted = archive.extractfile(member)
                files["." + ending.lower()] = extracted.read() if extracted else b""
    except (tarfile.TarError, OSError, EOFError) as error:
        skipped.add(shard.name, f"damaged shard ({type(error).__name__})")
    yield from sample_of(key, files, skipped)


def sample_of(name: str, files: dict[str, bytes], skipped: Skipped) -> Iterator[Pair]:
    if not files:
        return
    picture = next((files[ending] for ending in PICTURES if ending in files), None)
    try:
        annotations = json.loads(files[".json"])["annotations"]
        readable = isinstance(annotations, list) and all(isinstance(entry, dict) for entry in annotations)
    except (KeyError, TypeError, ValueError):
        annotations, readable = [], False
    if not readable:
        skipped.add(name, "no readable annotations")
        return
    if picture is None:
        skipped.add(name, "no picture")
        return
    yield name, picture, annotations


def decode(name: str, data: bytes | Path, annotations: list[dict[str, Any]], skipped: Skipped) -> Picture | None:
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        skipped.add(name, "missing image" if isinstance(error, FileNotFoundError) else "broken image")
        return None
    instances = []
    for number, entry in enumerate(annotations):
        reason, mask = mask_of(entry.get("segmentation"), image.height, image.width)
        captions = [text for text in as_list(entry.get("caption")) if isinstance(text, str) and text.strip()]
        if mask is None or not captions:
            skipped.add(f"{name}#{number}", reason or "no caption")
            continue
        instances.append(Instance(number, mask, captions))
    if not annotations:
        skipped.add(name, "no annotations")
    return Picture(name, image, instances) if instances else None


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def mask_of(segmentation: Any, height: int, width: int) -> tuple[str, np.ndarray | None]:
    """COCO's polygons, or its run lengths as numbers or as a string -> (reason why there is none, mask [H, W] bool)."""
    try:
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str):
            rle: Any = segmentation
        else:
            rle = coco.frPyObjects(segmentation, height, width)  # type: ignore[arg-type]
            rle = coco.merge(rle) if isinstance(rle, list) else rle
        if list(rle["size"]) != [height, width]:
            return f"mask is {rle['size'][1]} x {rle['size'][0]} px, not its image's size", None
        mask = coco.decode(rle).astype(bool)
    except Exception:  # pycocotools raises plain Exceptions and TypeErrors of many kinds
        return "malformed mask", None
    return ("", mask) if mask.any() else ("empty mask", None)
