"""Where results go: a folder, or a place that fsspec knows (s3://, gs://, sftp://). A result is whole or not there."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any, Protocol

PARTIAL = ".partial"
OURS = re.compile(r"\.[0-9a-f]{32}\.partial$")


class Store(Protocol):
    """Files by name, folders included."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, at once. Raises OSError."""
        ...

    def clear(self) -> None:
        """Take away what runs left that were killed while they wrote."""
        ...


class Folder:
    """A folder on this machine; files are on the disk when they are written."""

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, at once. Raises OSError."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            with partial.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(file.parent)

    def clear(self) -> None:
        """Take away what runs left that were killed while they wrote."""
        for left in self.folder.rglob(f".*{PARTIAL}"):
            if OURS.search(left.name) and left.is_file():
                left.unlink(missing_ok=True)


class Remote:
    """A place that fsspec knows, by its address. Raises ValueError for one that it does not know."""

    def __init__(self, address: str):
        try:
            import fsspec
        except ImportError as error:
            raise ValueError(f"{address} needs fsspec: pip install fsspec, with ComfyUI's Python.") from error
        try:
            found: tuple[Any, str] = fsspec.url_to_fs(address)
        except ImportError as error:
            raise ValueError(f"{address}: {error}") from error
        self.files, self.root = found[0], found[1].rstrip("/")

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none. Raises OSError where the place does not answer."""
        try:
            return self.files.cat_file(f"{self.root}/{name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, at once. Raises OSError."""
        path = f"{self.root}/{name}"
        folder, _, last = path.rpartition("/")
        self.files.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{last}.{uuid.uuid4().hex}{PARTIAL}"
        self.files.pipe_file(partial, content)
        self.files.mv(partial, path)

    def clear(self) -> None:
        """Take away what runs left that were killed while they wrote."""
        try:
            left = [name for name in self.files.find(self.root) if OURS.search(name)]
        except FileNotFoundError:
            return
        for name in left:
            self.files.rm_file(name)


def sync_folder(folder: Path) -> None:
    """Have the folder's names on the disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
