"""From edits to work: a key for what each one depends on, and packs of edits that are made together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lazy_core.context_pack import packs_of_kinds
from lazy_core.manifest.edits import size_of
from lazy_core.manifest.fields import Edit


@dataclass(frozen=True)
class Task:
    """An edit and its `key`: a hash of all that its result depends on, the contents of its pictures included."""

    edit: Edit
    key: str


@dataclass(frozen=True)
class Pack:
    """Edits that one call makes: of canvases of one size, with the same settings."""

    tasks: tuple[Task, ...]


def tasks_of(edits: list[Edit], made_by: str) -> list[Task]:
    """A task for each edit; `made_by` names model and version of what makes it. Raises OSError."""
    return [Task(edit, key_of(edit, made_by)) for edit in edits]


def key_of(edit: Edit, made_by: str) -> str:
    values = {
        name: content(value) if isinstance(value, Path) else value
        for name, value in vars(edit).items()
        if name != "output"
    }
    return hashlib.sha256(json.dumps([made_by, values], sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=1 << 16)
def content(path: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


def packs_of(tasks: list[Task]) -> list[Pack]:
    """Edits of the same size and settings side by side, in the order of the manifest: the same packs each time, so that
    a resumed run makes what an uninterrupted one makes.
    """
    sizes = [size_of(task.edit.image) for task in tasks]
    kinds = [kind_of(task.edit, size) for task, size in zip(tasks, sizes, strict=True)]
    packs = packs_of_kinds(kinds, [width * height for width, height in sizes])
    return [Pack(tuple(tasks[number] for number in pack)) for pack in packs]


def kind_of(edit: Edit, size: tuple[int, int]) -> tuple:
    """What edits of one call have in common."""
    same = (size, edit.steps, edit.cfg, edit.denoise, edit.blend, edit.negative)
    return (*same, edit.sketch is not None, edit.sketch_strength)
