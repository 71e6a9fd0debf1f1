"""What was ever released goes on working: the shipped model's file of each past form, and workflows as they were."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from comfy_client import ComfyClient
from lazy_core.editor import LazyEditor

UPGRADE = Path(__file__).resolve().parents[1] / "data" / "upgrade"
FILES: dict[str, Any] = json.loads(gzip.decompress((UPGRADE / "shipped_files.json.gz").read_bytes()))
"""By date and commit: metadata, names, kinds and shapes of the tensors of a file that was shipped."""
KINDS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
PROMPTS = sorted(UPGRADE.glob("*/*.api.json"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_shipped_loads_and_edits(name: str, tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: (torch.randn(shape, generator=generator) * 0.02).to(KINDS[kind])
        for key, (kind, shape) in FILES[name]["tensors"].items()
    }
    save_file(weights, tmp_path / "old.safetensors", metadata=FILES[name]["metadata"])
    editor = LazyEditor.load(tmp_path / "old.safetensors")
    image, mask = torch.rand(1, 3, 64, 80, generator=generator), torch.zeros(1, 64, 80)
    mask[:, 16:40, 24:56] = 1
    result = editor.decode(editor.encode(image, mask), "a red apple", steps=2)
    outside = mask[0] == 0
    assert torch.equal(result[0][:, outside], image[0][:, outside])
    assert result.isfinite().all() and not torch.equal(result, image)


@pytest.mark.host
@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: f"{path.parent.name} {path.name.partition('.')[0]}")
def test_a_workflow_of_an_earlier_version_runs(path: Path, server: ComfyClient):
    """As an API caller saved it: newer inputs are optional. One step, for the sake of time."""
    prompt = json.loads(path.read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "LazyDecode":
            node["inputs"]["steps"] = 1
    result = server.queue(prompt)
    assert result.error is None, result.error
    assert any("images" in output for output in result.outputs.values())
