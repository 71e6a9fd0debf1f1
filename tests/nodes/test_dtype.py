"""What a GPU gets, on the CPU: 16-bit weights that no layer casts. Every node has to hand the model numbers of its own
kind.
"""

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
    assert_near(got[hole], expected[hole])


def assert_near(got: torch.Tensor, expected: torch.Tensor) -> None:
    error = float((got - expected).square().mean())
    assert error < 0.005, f"{-10 * np.log10(error):.1f} dB"


@pytest.mark.parametrize("kind", ["colour", "edges"])
def test_sketches(lazy16, lazy, kind):
    image, mask = pictures(1)
    hole, sketch = (mask > 0.5)[..., None].expand_as(image), torch.ones_like(image)
    sketch[:, 60:80, 80:120] = torch.tensor([0.9, 0.2, 0.1])
    results = []
    for nodes in (lazy16, lazy):
        context, _ = nodes.encode(image, mask)
        context = nodes.call(
            "LazySketchCondition", context=context, vae=nodes.vae, sketch=sketch, strength=0.6, kind=kind
        ).args[0]
        results.append(nodes.decode(context, seed=3, steps=4, blend="none")[0])
    assert_near(results[0][hole], results[1][hole])
    plain = lazy16.edit(image, mask, seed=3, steps=4, blend="none")
    assert (results[0] - plain)[hole].square().mean() > 2 * (results[0] - results[1])[hole].square().mean(), (
        "the sketch counts"
    )


def test_denoising_in_part(lazy16, lazy):
    image, mask = pictures(1)
    hole = (mask > 0.5)[..., None].expand_as(image)
    got, expected = (nodes.edit(image, mask, seed=3, steps=4, denoise=0.5, blend="none") for nodes in (lazy16, lazy))
    assert_near(got[hole], expected[hole])
