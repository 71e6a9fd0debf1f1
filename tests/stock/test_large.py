"""What an edit of a large canvas keeps of a whole checkpoint, counted without its weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.stock import SHAPES, for_this_host
from host_graphs import Lazy


@pytest.fixture(scope="module")
def flux() -> Any:
    """Flux.1 at its true width and depth, on the device that holds nothing."""
    import comfy.supported_models

    sizes = {**SHAPES["flux"].transformer, "depth": 19, "depth_single_blocks": 38}
    config = comfy.supported_models.Flux(for_this_host(sizes))
    config.set_inference_dtype(torch.bfloat16, None)
    with torch.device("meta"):
        return config.get_model({}, device=torch.device("meta"))


@pytest.mark.parametrize(
    ("side", "reuse", "kv_dtype", "gigabytes"),
    [
        (1024, "fast", "model", 3.0),
        (2048, "fast", "model", 11.7),
        (2048, "balanced", "fp8", 11.7),
        (2048, "fast", "fp8", 5.8),
    ],
)
def test_keys_and_values_of_flux_fit_a_card_of_12_gb(
    lazy: Lazy, flux: Any, side: int, reuse: str, kv_dtype: str, gigabytes: float
):
    """At 2048 x 2048 px, at 20 steps and CFG 1; what does not fit beside the model lies in main memory."""
    edit, families = lazy.node_module("stock.edit"), lazy.node_module("stock.families")
    model = type("Model", (), {"model": flux, "model_options": {}})()
    image, mask = torch.zeros(1, 3, side, side), torch.zeros(1, side, side)
    mask[:, :64, :64] = 1
    encode = lazy.core("pipeline").encode_canvas
    context = encode(lambda _: torch.zeros(1, 16, side // 8, side // 8), image, mask, "flux", 8, 2, 16, reuse)
    context = context.with_(stock=replace(context.stock, kv_dtype=kv_dtype))
    family = families.family_of(model)
    prompt = [[torch.zeros(1, 256, 4096), {}]]
    settings = lazy.node_module("host.sampling").Settings(0, 20, 1.0, "euler", "simple")
    timing = lazy.node_module("host.timing").Timing()
    job = edit.Job(model, family, family.policies[reuse], prompt, prompt, settings, timing)
    kept = edit.kept_bytes(job, context)
    assert kept / 1e9 == pytest.approx(gigabytes, abs=0.05)
    assert kept < 12e9
