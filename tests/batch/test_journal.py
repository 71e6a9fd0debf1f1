"""What the journal says is done: whole files, to the byte."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batch.journal import NAME, Journal


def test_a_result_counts_once_it_is_whole_and_written_down(tmp_path: Path) -> None:
    file = tmp_path / "out" / "a" / "b.png"
    journal = Journal(tmp_path / "out")
    assert journal.state("a/b.png", "key") == "missing"
    journal.add("a/b.png", "key", b"content", 0.5)
    assert journal.state("a/b.png", "key") == "done" and journal.state("a/b.png", "another key") == "missing"
    assert file.read_bytes() == b"content"
    journal.close()
    again = Journal(tmp_path / "out")
    assert again.state("a/b.png", "key") == "done"
    file.write_bytes(b"contenu")
    assert again.state("a/b.png", "key") == again.state("a/b.png", "another key") == "changed"
    file.unlink()
    assert again.state("a/b.png", "key") == "missing"
    again.add("a/b.png", "key", b"content", 0.5)
    assert again.state("a/b.png", "key") == "done"
    (tmp_path / "out" / "mine.png").write_bytes(b"mine")
    assert again.state("mine.png", "key") == "foreign"
    again.close()


def test_a_file_that_has_its_name_before_it_is_written_down_is_no_strangers(tmp_path: Path) -> None:
    """Killed between the two."""
    journal = Journal(tmp_path)
    journal.add("a.png", "key", b"content", 0.5)
    journal.database.execute("INSERT INTO writing SELECT * FROM done")
    journal.database.execute("DELETE FROM done")
    journal.close()
    again = Journal(tmp_path)
    assert again.state("a.png", "key") == "done"
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
    assert journal.state("a.png", "key") == "missing"
    journal.close()
    rows = sqlite3.connect(tmp_path / f"{NAME}.sqlite").execute("SELECT * FROM done").fetchall()
    assert rows == [] and not list(tmp_path.glob("*.partial"))
