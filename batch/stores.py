"""Where results go: a folder, or a place that fsspec knows (s3://, gs://, sftp://). A result is whole or not there."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable
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

    def clear(self, names: Iterable[str]) -> None:
        """Take away what is left of these files by a run that was killed while it wrote them."""
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

    def clear(self, names: Iterable[str]) -> None:
        """Take away what is left by runs that were killed while they wrote, of whichever files."""
        for left in self.folder.rglob(f".*{PARTIAL}"):
            if OURS.search(left.name) and left.is_file():
                left.unlink(missing_ok=True)


class Remote:
    """A place that fsspec knows, by its address. Raises ValueError for one that it does not know.

    Object stores show an upload when it is whole; elsewhere a file gets its name when it is.
    """

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
        names = self.files.protocol
        self.renames = not RENAMES.isdisjoint((names,) if isinstance(names, str) else names)

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
        if not self.renames:
            self.files.pipe_file(path, content)
            return
        partial = f"{folder}/.{last}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            self.files.pipe_file(partial, content)
            if self.files.exists(path):
                self.files.rm_file(path)  # not every place renames onto a file; the journal knows what is under way
            self.files.mv(partial, path)
        finally:
            if self.files.exists(partial):
                self.files.rm_file(partial)

    def clear(self, names: Iterable[str]) -> None:
        """Take away what is left of these files by a run that was killed while it wrote them."""
        if not self.renames:
            return
        for name in names:
            folder, _, last = f"{self.root}/{name}".rpartition("/")
            try:
                beside = self.files.ls(folder, detail=False)
            except FileNotFoundError:
                continue
            for path in beside:
                if OURS.search(path) and path.rpartition("/")[2].startswith(f".{last}."):
                    self.files.rm_file(path)


RENAMES = {"file", "local", "sftp", "ssh", "smb", "ftp", "hdfs", "arrow_hdfs", "webhdfs"}


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
