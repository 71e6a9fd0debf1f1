"""What the journal says is done: whole files, to the byte."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batch.journal import FILE, Journal


def test_a_result_counts_once_it_is_whole_and_written_down(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out")
    assert not journal.has("a/b.png", "key")
    journal.add("a/b.png", "key", b"content", 0.5)
    assert journal.has("a/b.png", "key") and not journal.has("a/b.png", "another key")
    assert (tmp_path / "out" / "a" / "b.png").read_bytes() == b"content"
    journal.close()
    again = Journal(tmp_path / "out")
    assert again.has("a/b.png", "key")
    (tmp_path / "out" / "a" / "b.png").write_bytes(b"contenu")
    assert not again.has("a/b.png", "key"), "somebody changed it"
    (tmp_path / "out" / "a" / "b.png").unlink()
    assert not again.has("a/b.png", "key")
    again.add("a/b.png", "key", b"content", 0.5)
    assert again.has("a/b.png", "key")
    again.close()


def test_halves_that_a_killed_run_left_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / f".a.png.{'0' * 32}.partial").write_bytes(b"half")
    (tmp_path / "movie.mkv.partial").write_bytes(b"somebody else's")
    (tmp_path / f".folder.{'0' * 32}.partial").mkdir()
    Journal(tmp_path).close()
    left = {file.name for file in tmp_path.iterdir() if not file.name.startswith(".lazydiffusion")}
    assert left == {"movie.mkv.partial", f".folder.{'0' * 32}.partial"}


def test_two_runs_are_not_at_work_in_one_folder(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(BlockingIOError, match="another run is at work in"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_what_cannot_be_written_is_not_written_down(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError):
        journal.add("a.png", "key", b"content", 0.5)
    assert not journal.has("a.png", "key")
    journal.close()
    rows = sqlite3.connect(tmp_path / FILE).execute("SELECT * FROM done").fetchall()
    assert rows == [] and not list(tmp_path.glob("*.partial"))
