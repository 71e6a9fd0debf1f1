"""Checkpoints of strangers: refused in a sentence, quickly and in little memory, before anything is built; or read for
their words alone."""

from __future__ import annotations

import os
import re
import resource
import time
from pathlib import Path

import pytest
import torch

import hostile_files
from hostile_files import LIBRARY_ATTACKS, REFUSED, good, library
from lazy_core.checkpoint import load_model, read_checkpoint
from lazy_core.checks.errors import CheckpointError
from lazy_core.editor import LazyEditor

SECONDS, MEMORY = 2.0, 500 << 20


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "good.safetensors"
    good().write(path)
    load_model(path)  # what libraries do once is not the next file's time
    return path


def refuse(path: Path) -> CheckpointError:
    start, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < MEMORY
    return caught.value


@pytest.mark.parametrize("name", REFUSED)
def test_a_spoiled_checkpoint_is_refused_in_a_sentence(normal: Path, tmp_path: Path, name: str):
    spoil, says = REFUSED[name]
    made = good()
    spoil(made)
    made.write(path := tmp_path / "bad.safetensors")
    error = refuse(path)
    assert re.search(says, str(error)), str(error)
    assert str(error).startswith("bad.safetensors") and len(str(error)) < 600
    assert error.file == "bad.safetensors" and error.key and error.got and error.expected


@pytest.mark.parametrize("name", LIBRARY_ATTACKS)
def test_of_an_old_tokenizer_only_the_vocabulary_is_read(normal: Path, tmp_path: Path, name: str):
    made = good()
    library(**LIBRARY_ATTACKS[name])(made)
    made.write(path := tmp_path / "old.safetensors")
    start = time.process_time()
    editor = LazyEditor.load(path)
    assert editor.tokenizer.ids("a red apple") == [2, 1, 3, 4, *[0] * 12] and editor.caption(
        ["a" * 5000 + "!"]
    ).shape == (1, 16, 32)
    assert time.process_time() - start < SECONDS
    assert editor.tokenizer == read_checkpoint(normal).tokenizer


def test_what_is_no_file_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "nowhere.safetensors").symlink_to(tmp_path / "missing")
    (tmp_path / "long.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    for name, says in (
        ("pipe", "pipe.safetensors: file is a folder, a pipe or a device, expected a file"),
        ("folder", "folder.safetensors: file is a folder, a pipe or a device, expected a file"),
        ("nowhere", "nowhere.safetensors cannot be read (No such file or directory)"),
        ("missing", "missing.safetensors cannot be read (No such file or directory)"),
        ("long", "long.safetensors is damaged or no safetensors file"),
    ):
        assert str(refuse(tmp_path / f"{name}.safetensors")).startswith(says)


def test_half_precision_nan_is_seen_too(tmp_path: Path):
    from lazy_core.checkpoint import save_checkpoint

    model, _ = load_model(saved(tmp_path))
    with torch.no_grad():
        model.get_parameter("transformer.decoder.x_embedder.weight")[3, 2:4] = torch.tensor(
            [float("nan"), float("inf")]
        )
    save_checkpoint(tmp_path / "half.safetensors", model, dtype=torch.float16)
    with pytest.raises(
        CheckpointError,
        match=r"half\.safetensors: transformer\.decoder\.x_embedder\.weight is NaN or infinite in 2 of 768",
    ):
        read_checkpoint(tmp_path / "half.safetensors")


def test_numbers_that_float32_cannot_hold_are_seen(tmp_path: Path):
    from lazy_core.checkpoint import save_checkpoint

    model, _ = load_model(saved(tmp_path), torch.float64)
    with torch.no_grad():
        model.get_parameter(hostile_files.WEIGHT)[0] = 1e300
    save_checkpoint(tmp_path / "double.safetensors", model)
    with pytest.raises(CheckpointError, match=r"x_embedder\.bias is NaN or infinite in 1 of 48 values"):
        read_checkpoint(tmp_path / "double.safetensors")


def saved(folder: Path) -> Path:
    good().write(folder / "good.safetensors")
    return folder / "good.safetensors"
