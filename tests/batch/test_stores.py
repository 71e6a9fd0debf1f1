"""Results go to a folder or to any place that fsspec knows: whole or not at all, and nothing half is left."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from PIL import Image

from batch.__main__ import main
from batch.journal import Journal
from batch.stores import Folder, Remote, Store

NO_FSSPEC = pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="fsspec is not there")


@pytest.fixture(params=["folder", pytest.param("remote", marks=NO_FSSPEC)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Folder(tmp_path / "out") if request.param == "folder" else Remote(f"file://{tmp_path}/out")


@NO_FSSPEC
def test_a_store_of_objects_takes_any_name() -> None:
    store = Remote("memory://bucket/out")
    for content in (b"one", b"two"):
        store.write("a photo [1].png", content)
        assert store.read("a photo [1].png") == content
    assert store.files.find("/bucket/out") == ["/bucket/out/a photo [1].png"]


def test_what_is_written_is_read_and_replaced(store: Store, tmp_path: Path) -> None:
    assert store.read("a/b.png") is None
    store.write("a/b.png", b"one")
    store.write("a/b.png", b"two")
    assert store.read("a/b.png") == b"two"
    assert [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()] == ["b.png"]


def test_what_a_killed_run_left_goes_and_nothing_else(store: Store, tmp_path: Path) -> None:
    store.clear(["b.png"])
    store.write("b.png", b"one")
    (tmp_path / "out" / f".b.png.{'0' * 32}.partial").write_bytes(b"o")
    (tmp_path / "out" / ".mine.partial").write_bytes(b"mine")
    store.clear(["b.png"])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [".mine.partial", "b.png"]


@NO_FSSPEC
def test_a_run_puts_its_results_there_and_its_journal_beside_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64), (200, 180, 160)).save(tmp_path / "room.png")
    row = {"image": "room.png", "box": [16, 16, 32, 32], "output": "deep/apple"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(row))
    places = [f"memory://{tmp_path.name}/{name}" for name in ("one", "two")]
    for place, prompt in ((places[0], "red apple"), (places[1], "panda")):
        command = ["run", str(tmp_path / "edits.jsonl"), "--steps", "1", "--prompt", prompt, "--output", place]
        assert main(command) == 0
        assert "1 made, 0 were there, 0 failed, in" in (told := capsys.readouterr().out) and place in told
    assert {file.suffix for file in (tmp_path / "edits_edits").iterdir()} == {".sqlite", ".lock"}  # one for each place
    again = ["run", str(tmp_path / "edits.jsonl"), "--steps", "1", "--prompt", "red apple", "--output", places[0]]
    assert main(again) == 0
    assert "0 made, 1 were there" in capsys.readouterr().out
    Remote(places[0]).files.rm_file(f"/{tmp_path.name}/one/deep/apple.png")
    assert main(again) == 0
    assert "1 made, 0 were there" in capsys.readouterr().out


def test_an_address_of_this_machine_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "room.png")
    row = {"image": "room.png", "box": [16, 16, 32, 32], "prompt": "red apple", "output": "room"}
    (tmp_path / "edits.jsonl").write_text(json.dumps(row))
    assert main(["run", str(tmp_path / "edits.jsonl"), "--force", "--output", f"file://{tmp_path}"]) == 2
    assert "room.png would be written over a picture of the manifest" in capsys.readouterr().err


@NO_FSSPEC
def test_a_place_that_nobody_knows_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "room.png")
    (tmp_path / "edits.jsonl").write_text(json.dumps({"image": "room.png", "box": [16, 16, 32, 32], "prompt": "x"}))
    assert main(["run", str(tmp_path / "edits.jsonl"), "--output", "nowhere://x"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_journal_of_a_folder_counts_what_was_whole_when_it_was_killed(tmp_path: Path) -> None:
    """The file has its name, and the journal only knows that it was being written."""
    journal = Journal(tmp_path)
    journal.add("a.png", "key", b"content", 1.0)
    row = journal.database.execute("SELECT * FROM done").fetchone()
    journal.database.execute("DELETE FROM done")
    journal.database.execute("INSERT INTO writing VALUES (?, ?, ?, ?, ?)", row)
    journal.close()
    again = Journal(tmp_path)
    assert again.state("a.png", "key") == "done"
    again.close()
