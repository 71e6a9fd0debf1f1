"""What is done, in a file beside the results: a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
import time
import uuid
from pathlib import Path

FILE = ".lazydiffusion-batch.sqlite"
LOCK = ".lazydiffusion-batch.lock"
PARTIAL = ".partial"
OURS = re.compile(r"\.[0-9a-f]{32}\.partial$")


class Journal:
    """Of the results in a folder: which edit's each is, and its SHA-256. A file counts once it is whole and written
    down.

    Threads of one process may share it.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.lock = folder, threading.Lock()
        self.database = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None)
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        self.database.execute(
            "CREATE TABLE IF NOT EXISTS done (output TEXT PRIMARY KEY, key TEXT, sha256 TEXT, seconds REAL, at REAL)"
        )
        self.lock_folder()
        for left in folder.rglob(f".*{PARTIAL}"):
            if OURS.search(left.name) and left.is_file():
                left.unlink(missing_ok=True)  # of a run that was killed while it wrote

    def lock_folder(self) -> None:
        """Take the folder for this run, as long as it lives. Raises BlockingIOError where another one has it."""
        self.owner = sqlite3.connect(self.folder / LOCK, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self.owner.execute("PRAGMA journal_mode=MEMORY")
            self.owner.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            self.database.close()
            self.owner.close()
            raise BlockingIOError(f"another run is at work in {self.folder}: wait for it, or end it.") from error

    def has(self, output: str, key: str) -> bool:
        """Whether the result of this edit is there, to the byte as it was written."""
        with self.lock:
            row = self.database.execute("SELECT key, sha256 FROM done WHERE output = ?", (output,)).fetchone()
        if row is None or row[0] != key:
            return False
        try:
            return hashlib.sha256((self.folder / output).read_bytes()).hexdigest() == row[1]
        except OSError:
            return False

    def add(self, output: str, key: str, content: bytes, seconds: float) -> None:
        """Write a result, whole or not at all, and write it down. Raises OSError."""
        file = self.folder / output
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
        row = (output, key, hashlib.sha256(content).hexdigest(), seconds, time.time())
        with self.lock:
            self.database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the files, and leave the folder to other runs."""
        self.database.close()
        self.owner.close()


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
