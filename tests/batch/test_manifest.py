"""Manifests of every kind: what they become, and what is said of what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batch.plan import packs_of, tasks_of
from lazy_core.manifest.edits import read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures `a` and `b` of 32 x 24 px, masks of both, `odd_mask` of another size, and a text."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
        Image.new("L", (32, 24), 255).save(tmp_path / f"{name}_mask.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "odd.png")
    Image.new("RGBA", (32, 24), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    (tmp_path / "text.txt").write_text("no picture")
    return tmp_path


def written(folder: Path, *rows: Any) -> Path:
    (path := folder / "edits.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return path


def problems(folder: Path, *rows: Any, **defaults: Any) -> list[str]:
    return read_manifest(written(folder, *rows), defaults).problems


def test_a_row_is_an_edit_with_paths_beside_the_manifest(folder: Path) -> None:
    found = read_manifest(written(folder, {"image": "a.png", "mask": "a_mask.png", "prompt": "panda"}), {"seed": "7"})
    [edit] = found.edits
    assert not found.problems
    assert (edit.image, edit.mask, edit.prompt, edit.seed) == (folder / "a.png", folder / "a_mask.png", "panda", 7)
    assert edit.output == "a_panda_7.png"


def test_lists_are_all_combinations(folder: Path) -> None:
    row = {"image": "a.png", "mask": ["a_mask.png", "b_mask.png"], "prompt": ["panda", "pizza"], "seed": [1, 2, 3]}
    found = read_manifest(written(folder, row, {**row, "output": "x/y"}), {})
    assert not found.problems and len(found.edits) == 24
    assert len({edit.output for edit in found.edits}) == 24
    assert found.edits[12].output == "x/y_1.png"
    named = [edit.output for edit in read_manifest(written(folder, {**row, "prompt": "A red apple, 小熊!"}), {}).edits]
    assert named[:2] == ["a_A-red-apple-小熊_1.png", "a_A-red-apple-小熊_2.png"] and named[3].endswith("小熊_1_2.png")
    more = read_manifest(written(folder, {**row, "prompt": "new"}, {**row, "prompt": "A red apple, 小熊!"}), {}).edits
    assert [edit.output for edit in more[6:]] == named, "a line before it changes no name"
    boxes = {"image": "a.png", "box": [[0, 0, 8, 8], [8, 8, 8, 8]], "prompt": "panda"}
    assert [edit.box for edit in read_manifest(written(folder, boxes), {}).edits] == [(0, 0, 8, 8), (8, 8, 8, 8)]


def test_csv_and_folders_are_manifests_too(folder: Path) -> None:
    (folder / "semi.CSV").write_text("Image;Box;prompt;seed;Note\r\na.png;[1, 2, 8, 8];panda;3.0;mine\r\n;;;;\r\n")
    [semi] = read_manifest(folder / "semi.CSV", {}).edits
    assert (semi.box, semi.seed, semi.prompt) == ((1, 2, 8, 8), 3, "panda")
    (folder / "semi.CSV").unlink()
    (folder / "edits.csv").write_text("image,mask,box,prompt,seed\na.png,a_mask.png,,panda,3\nb.png,,1 2 8 8,pizza,\n")
    one, two = read_manifest(folder / "edits.csv", {"seed": 9}).edits
    assert (one.prompt, one.seed, two.box, two.seed) == ("panda", 3, (1, 2, 8, 8), 9)
    for name in ("odd.png", "edits.csv", "clear.png"):
        (folder / name).unlink()
    found = read_manifest(folder, {"prompt": "panda"})
    assert [edit.image.name for edit in found.edits] == ["a.png", "b.png"] and not found.problems
    (folder / "masks").mkdir()
    (folder / "a_mask.png").rename(folder / "masks" / "a.png")
    (folder / "b_mask.png").unlink()
    found = read_manifest(folder, {})
    assert [edit.image.name for edit in found.edits] == ["a.png"]
    assert found.problems == ["b.png: no mask: expected b_mask.png beside it, or masks/b.png"]


def test_a_folder_may_be_named_from_where_one_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "odd.png").unlink()
    (folder / "clear.png").unlink()
    (folder / "._a.png").write_text("a Mac's")
    monkeypatch.chdir(folder.parent)
    found = read_manifest(Path(folder.name), {"prompt": "panda"})
    assert not found.problems and len(found.edits) == 2


def test_parquet_is_read_where_pyarrow_is(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    rows = [{"image": "a.png", "mask": "a_mask.png", "prompt": "panda", "seed": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "edits.parquet")
    [edit] = read_manifest(folder / "edits.parquet", {"seed": 4}).edits
    assert (edit.prompt, edit.seed) == ("panda", 4)


GOOD = {"image": "a.png", "mask": "a_mask.png"}
WRONG = {
    "line 1: image: 'gone.png' is not there": {**GOOD, "image": "gone.png"},
    "line 1: no image": {"mask": "a_mask.png"},
    "line 1: no mask: expected a mask, a box, or mask 'alpha', one of them": {"image": "a.png"},
    "line 1: mask and box: expected a mask, a box, or mask 'alpha', one of them": {**GOOD, "box": [0, 0, 1, 1]},
    "line 1: mask is 8 x 8 px, expected 32 x 24 as its image": {**GOOD, "mask": "odd.png"},
    "line 1: box [30, 0, 8, 8] leads out of its image of 32 x 24 px": {"image": "a.png", "box": [30, 0, 8, 8]},
    "line 1: box is '[1, 2, 3]', expected x, y, width and height in px": {"image": "a.png", "box": [1, 2, 3]},
    "line 1: seed is '-1', expected a whole number from 0 on": {**GOOD, "seed": -1},
    "line 1: seed is 'True', expected a whole number from 0 on": {**GOOD, "seed": True},
    "line 1: steps is '1.5', expected a whole number from 0 (what suits the model) to 1000": {**GOOD, "steps": 1.5},
    "line 1: cfg is 'nan', expected a number from 0 to 100": {**GOOD, "cfg": "nan"},
    "line 1: denoise is '2', expected a number from 0 to 1": {**GOOD, "denoise": 2},
    "line 1: blend is 'glue', expected one of none, feather, poisson": {**GOOD, "blend": "glue"},
    "line 1: prompt is '5', expected text": {**GOOD, "prompt": 5},
    "line 1: output is '../x', expected a name inside the output folder": {**GOOD, "output": "../x"},
    "line 1: no JSON object": ["a.png"],
    "line 1: 1,000,000 edits in one row, expected at most 10,000": {**GOOD, "prompt": ["x"] * 1000, "seed": [1] * 1000},
    "line 1: box is '[0.5, 0, 8, 8]', expected x, y, width and height in px": {"image": "a.png", "box": [0.5, 0, 8, 8]},
    "line 1: mask has transparency, which may mean either: save it without, white where the hole is": {
        **GOOD,
        "mask": "clear.png",
    },
    "line 1: prompt is an empty list": {**GOOD, "prompt": []},
    "line 1: output is 'C:/x', expected a name inside the output folder": {**GOOD, "output": "C:/x"},
    "line 1: sketch is 8 x 8 px, expected 32 x 24 as its image": {**GOOD, "sketch": "odd.png"},
    "line 1: mask is 'alpha', but a.png has no transparency": {"image": "a.png", "mask": "alpha"},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_is_wrong_is_said_with_its_line(sentence: str, folder: Path) -> None:
    assert problems(folder, WRONG[sentence]) == [sentence]


def test_other_rows_are_read_all_the_same(folder: Path) -> None:
    path = written(folder, GOOD, {**GOOD, "colour": "red"}, {**GOOD, "output": "x"}, {**GOOD, "output": "x.png"})
    path.write_text(path.read_text() + "\n{\n\n")
    found = read_manifest(path, {})
    assert len(found.edits) == 4
    assert found.problems[0].startswith("line 2: unknown field 'colour', expected one of blend, box")
    assert found.problems[1] == "line 4: output 'x.png' is another edit's, too"
    assert problems(folder) == ["no edits in it"]
    assert found.problems[2].startswith("line 5: no JSON (")
    same = [{**GOOD, "output": name, "seed": [1, 2]} for name in ("v1.5", "v1.6")]
    assert not problems(folder, *same) and problems(folder, {**GOOD, "output": "A"}, {**GOOD, "output": "a"})
    assert not problems(folder, {**GOOD, "seed": 2**64 - 1, "prompt": "one\u2028two"})
    (folder / "wide.csv").write_text("image,mask,prompt\na.png,a_mask.png,a red apple, shiny\n")
    [told] = read_manifest(folder / "wide.csv", {}).problems
    assert told == "line 2: more values than names: a text with a comma needs quotes"
    (folder / "text.png").write_text("no picture")
    assert problems(folder, {**GOOD, "image": "text.png"})[0].startswith("line 1: no picture: cannot identify")
    with pytest.raises(ValueError, match=r"text.txt is no manifest: expected .jsonl, .csv, .parquet or a folder"):
        read_manifest(folder / "text.txt", {})


def test_a_key_follows_contents_and_settings_and_no_names(folder: Path) -> None:
    rows = [GOOD, {**GOOD, "output": "other"}, {**GOOD, "image": "b.png"}, {**GOOD, "seed": 1}]
    one, same, other, seed = (task.key for task in tasks_of(read_manifest(written(folder, *rows), {}).edits, "model"))
    assert one == same and len({one, other, seed}) == 3
    assert tasks_of(read_manifest(written(folder, GOOD), {}).edits, "another model")[0].key != one


def test_packs_are_of_one_size_and_not_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (16, 16)).save(folder / "c.png")
    rows = [{**GOOD, "seed": n} for n in range(20)] + [{"image": "c.png", "box": [0, 0, 8, 8]}, {**GOOD, "cfg": 1}]
    tasks = tasks_of(read_manifest(written(folder, *rows), {}).edits, "model")
    assert [len(pack.tasks) for pack in packs_of(tasks)] == [16, 4, 1, 1]
    monkeypatch.setattr("lazy_core.context_pack.PIXELS", 3 * 32 * 24)
    assert [len(pack.tasks) for pack in packs_of(tasks)] == [3] * 6 + [2, 1, 1], "three of these canvases"
