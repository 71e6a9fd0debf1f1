"""From edits to work: a key for what each one depends on, and packs of edits that are made together."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lazy_core.manifest.edits import size_of
from lazy_core.manifest.fields import Edit

EDITS = 16  # in a pack, at most
PIXELS = 4 << 20  # of a pack's canvases together, or one that is larger


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


def packs_of(tasks: list[Task], most: int = EDITS) -> list[Pack]:
    """Edits of the same size and settings side by side, in the order of the manifest: the same packs each time, so that
    a resumed run makes what an uninterrupted one makes.
    """
    groups: dict[tuple, list[Task]] = {}
    for task in tasks:
        edit = task.edit
        same = (size_of(edit.image), edit.steps, edit.cfg, edit.denoise, edit.blend, edit.negative)
        groups.setdefault((*same, edit.sketch is not None, edit.sketch_strength), []).append(task)
    packs = []
    for ((width, height), *_), group in groups.items():
        count = max(min(most, PIXELS // (width * height)), 1)
        packs += [Pack(tuple(group[first : first + count])) for first in range(0, len(group), count)]
    return packs
