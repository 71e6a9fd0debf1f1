"""Images with captioned instance masks, from a folder with COCO annotations or from WebDataset shards.

What cannot be used is never silently lost: `Skipped` counts it and keeps its name and the reason.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .decoding import FILE, Decoder, Instance, Picture, Skipped, is_caption, printable, regular

__all__ = ["Instance", "Picture", "Skipped", "read_pictures"]

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
AT_ONCE = 64 << 20  # bytes that a shard's headers may ask for at once


def read_pictures(source: Path, skipped: Skipped, part: tuple[int, int] = (0, 1)) -> Iterator[Picture]:
    """Pictures of `source` in a fixed order: a folder with `annotations.json` (COCO), or one with WebDataset's `*.tar`.

    `part` (i, n) takes every n-th picture from the i-th on, so that many machines can share the work. Raises
    ValueError.
    """
    shards = sorted(source.glob("*.tar"))
    if shards:
        pairs = (pair for shard in shards for pair in of_shard(shard, skipped))
    elif (source / "annotations.json").exists():
        pairs = of_folder(source, skipped)
    else:
        raise ValueError(
            f"{source} has neither *.tar shards nor an annotations.json. See training/README.md for both layouts."
        )
    with Decoder() as decoder:
        for number, (name, data, found) in enumerate(pairs):
            if number % part[1] == part[0]:
                picture = decoder.decode(name, data, found, skipped)
                if picture is not None:
                    yield picture


Pair = tuple[str, "bytes | Path", list[Any]]


def of_folder(folder: Path, skipped: Skipped) -> Iterator[Pair]:
    """COCO: `images` [{id, file_name}], `annotations` [{image_id, segmentation, caption or category_id}], `categories`
    [{id, name}]."""
    content = content_of(folder / "annotations.json")
    category = {
        entry["id"]: entry["name"]
        for entry in entries(content, "categories")
        if is_id(entry.get("id")) and "name" in entry
    }
    found: dict[Any, list[dict[str, Any]]] = {}
    for number, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict) or not is_id(entry.get("image_id")):
            skipped.add(f"annotations.json: annotation {number}", "malformed annotation")
            continue
        of = entry.get("category_id")
        named = {**entry, "caption": entry.get("caption") or (category.get(of) if is_id(of) else None)}
        found.setdefault(entry["image_id"], []).append(named)
    for number, image in enumerate(content["images"]):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not is_id(image.get("id")):
            skipped.add(f"annotations.json: image {number}", "malformed entry")
        elif not stays_below(name):
            skipped.add(name, "file_name leads out of the folder")
        else:
            yield name, place_of(folder, name), found.get(image["id"], [])


def content_of(path: Path) -> dict[str, Any]:
    """Raises ValueError for what is not COCO's layout."""
    remedy = "See training/README.md for the layout."
    if not regular(path):
        raise ValueError(f"{path} is a folder, a pipe or a device, expected a file. {remedy}")
    try:
        content = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for an annotation file. {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}). {remedy}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(f"{path} has no lists 'images' and 'annotations'. {remedy}")
    return content


def entries(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = content.get(key)
    return [entry for entry in values if isinstance(entry, dict)] if isinstance(values, list) else []


def is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def stays_below(name: str) -> bool:
    """Whether a relative path leads nowhere but down, on any system."""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return is_caption(name) and "\0" not in name and not any(p.anchor or ".." in p.parts for p in paths)


def place_of(folder: Path, name: str) -> Path:
    try:
        path = folder / "images" / name
        return path if path.exists() else folder / name
    except OSError:  # a name too long for the system
        return folder / "missing"


class Bounded(io.RawIOBase):
    """A shard's file for tarfile, which reads as much as a header claims: never more than `AT_ONCE`, unless it is a
    wanted member's."""

    def __init__(self, file: Any):
        self.file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= max(AT_ONCE, FILE):
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def tell(self) -> int:
        return self.file.tell()


def of_shard(shard: Path, skipped: Skipped) -> Iterator[Pair]:
    """WebDataset: files of a sample share their name up to the first dot and follow each other: a picture, a `.json`
    with `annotations`."""
    key, files = "", dict[str, bytes]()
    try:
        if not regular(shard):
            skipped.add(shard.name, "no file, but a folder, a pipe or a device")
            return
        with shard.open("rb") as file, tarfile.open(fileobj=Bounded(file), mode="r:") as archive:  # type: ignore[arg-type]
            for name, ending, member in members(shard, archive):
                if name != key:
                    yield from sample_of(key, files, skipped)
                    key, files = name, {}
                if ending not in (*PICTURES, ".json"):
                    files.setdefault("", b"")
                elif member.size > FILE:
                    skipped.add(f"{name}{ending}", f"larger than {FILE >> 20} MB")
                else:
                    extracted = archive.extractfile(member)
                    files[ending] = extracted.read() if extracted else b""
    except (
        Exception
    ) as error:  # tarfile's own, and what it lets through of damaged headers: ValueError, OverflowError, RecursionError
        skipped.add(shard.name, f"damaged shard ({type(error).__name__})")
    yield from sample_of(key, files, skipped)


def members(shard: Path, archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """A shard's files -> (its sample's name, ending, member). Raises ReadError for a header that leads backwards,
    again and again."""
    place = -1
    for member in archive:
        if member.offset <= place or member.size < 0:
            raise tarfile.ReadError("a header that leads backwards")
        place = member.offset
        archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
        if member.isfile():
            folder, _, last = member.name.rpartition("/")
            stem, _, ending = last.partition(".")
            name = f"{shard.name}/{folder}/{stem}" if folder else f"{shard.name}/{stem}"
            yield printable(name) if not is_caption(name) else name, "." + ending.lower(), member


def sample_of(name: str, files: dict[str, bytes], skipped: Skipped) -> Iterator[Pair]:
    if not files:
        return
    picture = next((files[ending] for ending in PICTURES if ending in files), None)
    try:
        annotations = json.loads(files[".json"])["annotations"]
        readable = isinstance(annotations, list) and all(isinstance(entry, dict) for entry in annotations)
    except (KeyError, TypeError, ValueError, RecursionError):
        annotations, readable = [], False
    if not readable:
        skipped.add(name, "no readable annotations")
    elif picture is None:
        skipped.add(name, "no picture")
    else:
        yield name, picture, annotations
