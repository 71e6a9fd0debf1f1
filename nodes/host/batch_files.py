"""Manifests in the host's input folder: files and folders of pictures with masks. What leads out of it is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths

from ...lazy_core.manifest.edits import read_manifest
from ...lazy_core.manifest.fields import Edit
from ...lazy_core.manifest.rows import ENDINGS, PICTURES

DEEPEST = 2  # folders below the input folder in which manifests are looked for


def folder() -> Path:
    return Path(folder_paths.get_input_directory())


def names() -> list[str]:
    """Manifests below the input folder, with `/` between folders: files, and folders that hold masks, with `/` at their
    end.
    """
    found: list[str] = []
    for where, inside, files in os.walk(folder()):
        path = Path(where).relative_to(folder())
        if len(path.parts) >= DEEPEST:
            inside.clear()
        found += [(path / file).as_posix() for file in files if Path(file).suffix.lower() in ENDINGS]
        masks = any(Path(file).suffix.lower() in PICTURES and Path(file).stem.endswith("_mask") for file in files)
        if path.parts and (masks or "masks" in inside):
            found.append(f"{path.as_posix()}/")
    return sorted(found)


def path_of(name: str) -> Path:
    """Where a manifest of `names` is. Raises ValueError for any other name."""
    if name not in names():
        raise ValueError(
            f"manifest is {name!r}, which is no manifest in ComfyUI's input folder. Press R to read the list again, or"
            " copy it there: .jsonl, .csv, .parquet, or a folder of pictures with masks."
        )
    path = folder() / name
    if not path.resolve().is_relative_to(folder().resolve()):
        raise ValueError(f"manifest is {name!r}, a link that leads out of ComfyUI's input folder. Copy the file there.")
    return path


def edits_of(name: str) -> list[Edit]:
    """The edits of a manifest. Raises ValueError: what is wrong with it, pictures outside the input folder included."""
    return edits_in(path_of(name), name)


def edits_in(path: Path, name: str) -> list[Edit]:
    manifest = read_manifest(path, {}, folder())
    if manifest.problems:
        more = f"; and {len(manifest.problems) - MOST} more" * (len(manifest.problems) > MOST)
        raise ValueError(f"{name}: {'; '.join(manifest.problems[:MOST])}{more}. Mend the manifest.")
    return manifest.edits


MOST = 5  # problems in one sentence


def pictures_of(edit: Edit) -> list[Path]:
    return [file for file in (edit.image, edit.mask, edit.sketch) if isinstance(file, Path)]


def fingerprint(name: str) -> str:
    """Says whether a manifest or one of its pictures changed."""
    found = hashlib.sha256(name.encode())
    path = path_of(name)
    files = {file for edit in edits_in(path, name) for file in pictures_of(edit)}
    for file in sorted({path, *files}):
        state = file.stat()
        found.update(f"{file} {state.st_size} {state.st_mtime_ns}\n".encode())
    return found.hexdigest()
