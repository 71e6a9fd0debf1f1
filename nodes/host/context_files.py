"""The folder of saved contexts, `lazydiffusion/contexts/` in the host's output folder."""

from __future__ import annotations

from pathlib import Path

import folder_paths

FOLDER = Path("lazydiffusion") / "contexts"
ENDING = ".safetensors"


def folder() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def names() -> list[str]:
    """Files below the folder, the newest first, with `/` between folders; links are not followed."""
    found = [file for file in folder().rglob(f"*{ENDING}") if file.is_file() and not linked(file)]
    found.sort(key=lambda file: (-file.stat().st_mtime, str(file)))
    return [file.relative_to(folder()).as_posix() for file in found]


def linked(file: Path) -> bool:
    """Whether the file, or a folder on the way to it, is a link."""
    return any(
        part.is_symlink() for part in (file, *file.parents) if part.is_relative_to(folder()) and part != folder()
    )


def new_path(prefix: str) -> Path:
    """A file that is not there yet, below the folder, as the host numbers pictures. Raises ValueError for a prefix that
    leads out of it.
    """
    parts = Path(prefix).parts
    if (
        not prefix.strip()
        or not parts
        or Path(prefix).is_absolute()
        or ".." in parts
        or any(ord(letter) < 32 for letter in prefix)
    ):
        raise ValueError(f"filename_prefix is {prefix!r}, expected a name like 'room' or 'tuesday/room'.")
    output = str(folder_paths.get_output_directory())
    if linked(folder() / prefix):
        raise ValueError(
            f"filename_prefix is {prefix!r}, which a link leads out of {FOLDER.as_posix()}. Choose another."
        )
    where, name, counter, _, _ = folder_paths.get_save_image_path(str(FOLDER / prefix), output)
    return Path(where) / f"{name}_{counter:05}_{ENDING}"


def path_of(name: str) -> Path:
    """Where a file of `names` is. Raises ValueError for any other name."""
    if name not in names():
        raise ValueError(
            f"context_name is {name!r}, which is no file in output/{FOLDER.as_posix()}. Press R to read the list again,"
            " or copy the file there."
        )
    return folder() / name
