"""What a GPU gets, on the CPU: 16-bit weights that no layer casts. Every node has to hand the model numbers of its own kind."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas


@pytest.fixture(scope="module")
def lazy16(pack: ModuleType) -> Iterator[Lazy]:
    """The pack's nodes with the shipped model in bfloat16, as the host loads it for a GPU."""
    mm = importlib.import_module("comfy.model_management")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mm, "unet_dtype", lambda *_, **__: torch.bfloat16)
        patch.setattr(mm, "unet_manual_cast", lambda *_, **__: None)
        yield Lazy(pack)


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvases, and a hole of another size in each."""
    rng = np.random.default_rng(0)
    canvases = [random_canvas(rng, 256, 256) for _ in range(count)]
    return image_of(*canvases), mask_of(*[box_mask(256, 256, 40, 60, 90 + 40 * i, 150) for i in range(count)])


def test_the_model_is_what_it_should_be(lazy16):
    assert lazy16.model.model.manual_cast_dtype is None
    assert {p.dtype for p in lazy16.model.model.diffusion_model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("count", [1, 2])
def test_edits(lazy16, lazy, count):
    """They are what float32 gives, as near as bfloat16 is; outside the masks every pixel is the canvas's."""
    image, mask = pictures(count)
    hole = (mask > 0.5)[..., None].expand_as(image)
    got, expected = (nodes.edit(image, mask, seed=3, steps=4, blend="none") for nodes in (lazy16, lazy))
    assert torch.equal(got[~hole], image[~hole])
    error = float((got - expected)[hole].square().mean())
    assert error < 0.005, f"{-10 * np.log10(error):.1f} dB"


@pytest.mark.parametrize("kind", ["colour", "edges"])
def test_sketches(lazy16, kind):
    image, mask = pictures(1)
    sketch = torch.ones_like(image)
    sketch[:, 60:80, 80:120] = torch.tensor([0.9, 0.2, 0.1])
    context, _ = lazy16.encode(image, mask)
    context = lazy16.call("LazySketchCondition", context=context, vae=lazy16.vae, sketch=sketch, strength=0.6, kind=kind).args[0]
    assert torch.isfinite(lazy16.decode(context)[0]).all()


def test_denoising_in_part(lazy16):
    image, mask = pictures(1)
    assert torch.isfinite(lazy16.edit(image, mask, denoise=0.5)).all()
