"""Soft masks, canvases of any range and size, in plain Python with the shipped model.

See tests/nodes/test_soft.py for the host's samplers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lazy_core.diffusion.differential import joined, relative
from lazy_core.editor import LazyEditor
from lazy_core.masks import FLOOR
from lazy_core.pipeline import fill_hole, lazy_decode, soft_start

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "fluent-small.safetensors"
BLENDS = ("none", "feather", "poisson")


@pytest.fixture(scope="module")
def editor() -> LazyEditor:
    return LazyEditor.load(SHIPPED)


def box(height: int = 48, width: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, 10:40, 10:40] = 1
    return mask


def test_a_blurred_edge_blends(editor):
    """Bit-identical where the mask is 0, and nowhere is more moved than its weight."""
    image, hard = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    hard[:, 16:48, 16:48] = 1
    mask = F.avg_pool2d(hard[None], 9, 1, 4)[0]
    context = editor.encode(image, mask)
    assert context.weight is not None and context.strength is not None
    result = editor.decode(context, "panda", steps=2, cfg=1.0)
    outside = (mask <= FLOOR)[0]
    assert torch.equal(result[..., outside], image[..., outside])
    moved = (result - image).abs().amax(1)
    assert (moved <= mask + FLOOR + 1e-5).all() and moved.max() > 0.1


def test_grey_all_over_weakens_once(editor):
    image, mask = torch.rand(1, 3, 48, 48), torch.zeros(1, 48, 48)
    mask[:, 5:40, 5:40] = 0.3
    soft, full = (editor.decode(editor.encode(image, each), "panda", steps=2, cfg=1.0) for each in (mask, mask.ceil()))
    assert torch.allclose(soft, torch.lerp(image, full, mask[:, None]), atol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 16])
@torch.no_grad()
def test_all_of_eight_strengths_take_part(editor, steps):
    side = 8 * 16
    mask = ((torch.arange(side) * 8 // side + 1) / 8).expand(1, 32, side).clone()
    context = editor.encode(torch.rand(1, 3, 32, side), mask)
    assert sorted(set(context.strength.flatten().tolist())) == [(i + 1) / 8 for i in range(8)]
    sample = editor.sampler(context, "panda", steps, 1.0)
    _, latent = lazy_decode(context, sample, editor.to_latent, editor.to_image, 0)
    kept = fill_hole(context, soft_start(context, editor.to_latent))
    moved = [float((a - b).abs().mean()) for a, b in zip(latent.chunk(8, -1), kept.chunk(8, -1), strict=True)]
    assert min(moved) > 0.05


def test_who_joined():
    strength = torch.tensor([[0.25, 0.5, 1.0]])
    for time, expected in ((1000.0, [False, False, True]), (500.0, [False, True, True]), (250.0, [True, True, True])):
        assert joined(strength, time, 1000.0, 0.0, False).tolist() == [expected]
    assert joined(strength, 900.0, 1000.0, 0.0, True).all()
    assert torch.equal(relative(torch.tensor([[0.1, 0.2], [0.0, 1.0]])), torch.tensor([[0.5, 1.0], [0.0, 1.0]]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (15, 64), (64, 3)])
def test_canvases_smaller_than_a_token_are_padded(editor, height, width):
    image, mask = torch.rand(1, 3, height, width), torch.ones(1, height, width)
    mask[:, 0, 0] = 0 if height > 1 else 1
    for blend in BLENDS:
        result = editor.decode(editor.encode(image, mask), "panda", steps=1, cfg=1.0, blend=blend)
        assert torch.isfinite(result).all() and torch.equal(result[..., mask[0] == 0], image[..., mask[0] == 0])


def test_a_batch_of_none(editor):
    context = editor.encode(torch.rand(0, 3, 48, 48), torch.zeros(0, 48, 48))
    assert editor.decode(context, "panda", steps=1).shape == (0, 3, 48, 48)


def test_hdr_is_kept_outside_and_denoise_0_is_the_canvas(editor):
    image, mask = torch.rand(1, 3, 48, 64) * 6 - 1, box()
    context = editor.encode(image, mask)
    assert torch.equal(editor.decode(context, "panda", denoise=0.0), image)
    for blend in BLENDS:
        result = editor.decode(context, "panda", steps=1, cfg=1.0, blend=blend)
        assert torch.equal(result[..., mask[0] == 0], image[..., mask[0] == 0])
        assert result.min() >= image.min() and result.max() <= image.max()


def test_old_content_is_seen_below_full_denoising_alone(editor):
    image, mask = torch.rand(1, 3, 48, 64), box()
    black = torch.where(mask[:, None] > 0, 0.0, image)
    first, second = (editor.decode(editor.encode(each, mask), "panda", steps=1, cfg=1.0) for each in (image, black))
    assert torch.equal(first[..., mask[0] > 0], second[..., mask[0] > 0])
    first, second = (
        editor.decode(editor.encode(each, mask), "panda", steps=2, cfg=1.0, denoise=0.5) for each in (image, black)
    )
    assert not torch.equal(first[..., mask[0] > 0], second[..., mask[0] > 0])
