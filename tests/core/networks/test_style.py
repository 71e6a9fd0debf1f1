"""A drawing style that somebody chose, instead of the one that the encoder reads from the canvas."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lazy_core.checkpoint import STYLES_KEY, read_checkpoint, style_number, styles_in
from lazy_core.checks.errors import CheckpointError
from lazy_core.config import PRESETS
from lazy_core.editor import LazyEditor

SHIPPED = "models/fluent-small.safetensors"


@pytest.fixture(scope="module")
def editor():
    return LazyEditor.load(SHIPPED)


@pytest.fixture(scope="module")
def canvas():
    mask = torch.zeros(1, 256, 256)
    mask[:, 96:160, 96:160] = 1
    return torch.full((1, 3, 256, 256), 0.6), mask


def test_the_chosen_style_is_told_and_the_reader_is_not_asked(editor, canvas, monkeypatch):
    encoder = editor.model.transformer.context_encoder
    auto = editor.encode(*canvas)
    monkeypatch.setattr(encoder.naming.reader, "forward", None)  # would fail
    chosen = [editor.encode(*canvas, style=style) for style in editor.styles]
    table = encoder.naming.table.float() * (1 + editor.model.config.style_emphasis)
    for other in (1, 2):
        moved = chosen[other].tokens - chosen[0].tokens
        assert torch.allclose(moved, (table[other] - table[0]).expand_as(moved), atol=1e-5), (
            "the tokens differ by what they are told"
        )
        assert not torch.equal(chosen[other].negative_offset, chosen[0].negative_offset)
    assert any(torch.equal(auto.tokens, one.tokens) for one in chosen), "auto is one of them"


def test_a_chosen_style_changes_the_result_and_outside_nothing(editor, canvas):
    results = [
        editor.decode(editor.encode(*canvas, style=style), "a red apple", seed=1, steps=4) for style in ("3d", "ink")
    ]
    hole = canvas[1] > 0
    assert (results[0] - results[1])[:, :, hole[0]].abs().mean() > 0.05
    assert torch.equal(results[0][:, :, ~hole[0]], canvas[0][:, :, ~hole[0]]) and torch.equal(
        results[1][:, :, ~hole[0]], canvas[0][:, :, ~hole[0]]
    )


def test_styles_have_names_in_the_file_or_by_default(tmp_path):
    assert read_checkpoint(SHIPPED).styles == ("3d", "flat", "ink")
    named = with_styles(tmp_path, '["clay", "paper", "pen"]')
    assert read_checkpoint(named).styles == ("clay", "paper", "pen")
    assert styles_in({}, PRESETS["tiny"], "x") == ()


@pytest.mark.parametrize(
    "text", ['["one"]', "7", '{"a": 1}', '["a", "b", 3]', '["a", "b", ""]', "[" * 10_000, json.dumps(["x" * 50] * 3)]
)
def test_names_of_styles_that_are_none_are_refused(tmp_path, text):
    with pytest.raises(CheckpointError, match=r"named.safetensors: lazydiffusion.styles is .*, expected a"):
        read_checkpoint(with_styles(tmp_path, text))


def with_styles(folder, text: str):
    with safe_open(SHIPPED, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(SHIPPED), folder / "named.safetensors", metadata=metadata | {STYLES_KEY: text})
    return folder / "named.safetensors"


def test_a_style_that_is_not_there_is_refused_in_a_sentence():
    assert style_number(("3d", "flat"), "auto") is None and style_number(("3d", "flat"), "flat") == 1
    with pytest.raises(
        ValueError, match=r"style is 'oil', but this model knows 3d, flat. Choose one of these, or auto\."
    ):
        style_number(("3d", "flat"), "oil")
    with pytest.raises(ValueError, match="knows no styles"):
        style_number((), "3d")
