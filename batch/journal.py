"""What is done, in a file beside the results: a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from pathlib import Path
from typing import Literal

from .stores import Folder, Store

State = Literal["missing", "done", "changed", "foreign"]
"""Of a result: not there or another edit's; as it was written; changed since by somebody; of no run in this folder."""

NAME = ".lazydiffusion-batch"


class Journal:
    """Of the results in `folder`, or in another `store`: which edit's each is, and its SHA-256.

    A file counts once it is whole and written down. Threads of one process may share it. `address` says which store:
    the journals of several lie side by side.
    """

    def __init__(self, folder: Path, store: Store | None = None, address: str = ""):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.store, self.lock = folder, store or Folder(folder), threading.Lock()
        self.name = NAME + (f"-{hashlib.sha256(address.encode()).hexdigest()[:12]}" if address else "")
        self.database = sqlite3.connect(folder / f"{self.name}.sqlite", check_same_thread=False, isolation_level=None)
        self.lock_folder()
        self.database.execute("PRAGMA journal_mode=WAL")
        self.database.execute("PRAGMA synchronous=FULL")
        columns = "output TEXT PRIMARY KEY, key TEXT, sha256 TEXT, seconds REAL, at REAL"
        for table in ("done", "writing"):  # what is being written is known before its file has its name
            self.database.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
        under_way = self.database.execute("SELECT * FROM writing").fetchall()
        for row in under_way:
            if self.sha256(row[0]) == row[2]:
                self.database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?)", row)
        self.database.execute("DELETE FROM writing")
        self.store.clear([row[0] for row in under_way])

    def lock_folder(self) -> None:
        """Take the folder for this run, as long as it lives. Raises BlockingIOError where another one has it."""
        self.owner = sqlite3.connect(
            self.folder / f"{self.name}.lock", isolation_level=None, check_same_thread=False, timeout=0
        )
        try:
            self.owner.execute("PRAGMA journal_mode=MEMORY")
            self.owner.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            self.database.close()
            self.owner.close()
            raise BlockingIOError(f"another run is at work in {self.folder}: wait for it, or end it.") from error

    def state(self, output: str, key: str) -> State:
        """What is there of an edit's result."""
        with self.lock:
            row = self.database.execute("SELECT key, sha256 FROM done WHERE output = ?", (output,)).fetchone()
        found = self.sha256(output)
        if found is None:
            return "missing"
        if row is None:
            return "foreign"
        if found != row[1]:
            return "changed"
        return "done" if row[0] == key else "missing"

    def sha256(self, output: str) -> str | None:
        """Of a result's file; None where there is none."""
        content = self.store.read(output)
        return None if content is None else hashlib.sha256(content).hexdigest()

    def add(self, output: str, key: str, content: bytes, seconds: float) -> None:
        """Write a result, whole or not at all, and write it down. Raises OSError."""
        row = (output, key, hashlib.sha256(content).hexdigest(), seconds, time.time())
        with self.lock:
            self.database.execute("INSERT OR REPLACE INTO writing VALUES (?, ?, ?, ?, ?)", row)
        self.store.write(output, content)
        with self.lock:
            self.database.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?)", row)
            self.database.execute("DELETE FROM writing WHERE output = ?", (output,))

    def close(self) -> None:
        """Close the files, and leave the folder to other runs."""
        self.database.close()
        self.owner.close()
