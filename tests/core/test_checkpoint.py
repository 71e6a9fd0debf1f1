"""A checkpoint's way to a file and back, and what is said of a damaged one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lazy_core.checkpoint import CONFIG_KEY, load_model, read_checkpoint, save_checkpoint
from lazy_core.config import PRESETS, LazyConfig
from lazy_core.editor import LazyEditor


def test_checkpoint_round_trip(checkpoint):
    model, read = load_model(checkpoint)
    again = checkpoint.with_name("again.safetensors")
    save_checkpoint(again, model, read.tokenizer, licence="MIT")
    other, second = load_model(again)
    assert second.config == read.config and second.metadata["licence"] == "MIT"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_damaged_checkpoints_are_explained(checkpoint, tmp_path):
    weights, metadata = load_file(checkpoint), read_checkpoint(checkpoint).metadata
    missing = {k: v for k, v in weights.items() if k != "transformer.decoder.x_embedder.weight"} | {
        "stranger": torch.zeros(1)
    }
    wrong = weights | {"transformer.decoder.x_embedder.bias": torch.zeros(3)}
    cases = {
        "missing": (
            missing,
            metadata,
            r"1 missing \(transformer\.decoder\.x_embedder\.weight\); 1 unexpected \(stranger\)",
        ),
        "wrong": (wrong, metadata, r"x_embedder\.bias is \(3,\), expected \(48,\)"),
        "stock": (weights, {"format": "pt"}, "is no LazyDiffusion checkpoint"),
        "newer": (weights, metadata | {CONFIG_KEY: json.dumps({"format": 99})}, "newer than this pack's"),
        "field": (
            weights,
            metadata | {CONFIG_KEY: json.dumps({"format": 1, "wings": 2})},
            "config field wings is unknown",
        ),
        "config": (weights, metadata | {CONFIG_KEY: "{"}, "malformed config"),
    }
    for name, (tensors, notes, message) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata=notes)
        with pytest.raises(ValueError, match=message):
            load_model(path)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_model(truncated)
    pickled = tmp_path / "model.ckpt"
    torch.save(weights, pickled)
    with pytest.raises(ValueError, match="pickled checkpoints are never loaded"):
        load_model(pickled)


def test_config_json_round_trip():
    for config in PRESETS.values():
        assert LazyConfig.from_json(config.to_json()) == config


def test_a_checkpoint_brings_its_shift(checkpoint, tmp_path):
    """The config's shift is what `decode` uses unless told otherwise; a file without the field, as older ones are, has
    none.
    """
    model, read = load_model(checkpoint)
    config = json.loads(read.config.to_json())
    del config["shift"]
    assert LazyConfig.from_json(json.dumps(config)).shift == 1.0
    model.config = replace(model.config, shift=2.5)
    save_checkpoint(tmp_path / "shifted.safetensors", model, read.tokenizer)
    plain, moved = (LazyEditor.load(path) for path in (checkpoint, tmp_path / "shifted.safetensors"))
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    context = plain.encode(image, mask)
    moves, stays = plain.decode(context, "red apple", 3, shift=2.5), plain.decode(context, "red apple", 3)
    assert torch.equal(moved.decode(context, "red apple", 3), moves) and not torch.equal(moves, stays)
    assert torch.equal(moved.decode(context, "red apple", 3, shift=1.0), stays)
