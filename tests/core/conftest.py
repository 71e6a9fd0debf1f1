"""A tiny checkpoint with random weights, which all tests of the core share."""

from __future__ import annotations

import pytest
import torch

from lazy_core.checkpoint import save_checkpoint
from lazy_core.config import PRESETS
from lazy_core.editor import LazyEditor
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.text.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = LazyDiffusion(PRESETS["tiny"])
    initialise(model)
    with torch.no_grad():  # away from the zero start, or the result would depend on nothing
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_checkpoint(path, model, build_tokenizer(["red", "apple", "苹", "果"], 16), licence="MIT")
    return path


@pytest.fixture(scope="module")
def editor(checkpoint) -> LazyEditor:
    return LazyEditor.load(checkpoint)
