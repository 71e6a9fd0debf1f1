"""Masks grow as drawn, prefill leaks nothing, compositing leaves the rest bit-identical."""

from __future__ import annotations

import random

import pytest
import torch
from scipy import ndimage

from lazy_core import masks
from lazy_core.composite import composite, feather_weight, membrane
from lazy_core.geometry import Box
from lazy_core.masks import boxes_of, dilate, prefill, threshold


def disc(size: int, radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(*[torch.arange(size) - size // 2] * 2, indexing="ij")
    return ((x**2 + y**2) <= radius**2).float()[None]


def test_dilate_circle_is_a_disc():
    point = torch.zeros(1, 41, 41)
    point[0, 20, 20] = 1
    assert torch.equal(dilate(point, 7, "circle"), disc(41, 7))
    assert int(dilate(point, 7, "square").sum()) == 15 * 15
    assert torch.equal(dilate(point, 0, "circle"), point)


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_dilate_contains_the_mask_and_the_border(shape):
    mask = (torch.rand(2, 30, 50) > 0.97).float()
    mask[0, 0, 0] = 1
    grown = dilate(mask, 3, shape)
    assert (grown >= mask).all()
    assert grown[0, 3, 0] == grown[0, 0, 3] == 1
    assert dilate(torch.zeros(1, 8, 8), 4, shape).sum() == 0


def test_fill_holes_closes_a_ring():
    ring = disc(61, 20) - disc(61, 16)
    assert torch.equal(dilate(ring, 0, "circle", fill=True), disc(61, 20))


def test_prefill_forgets_the_hole():
    image, hole = torch.rand(2, 3, 64, 48), torch.zeros(2, 64, 48, dtype=torch.bool)
    hole[:, 10:40, 5:30] = True
    other = torch.where(hole[:, None], torch.rand_like(image), image)
    filled = prefill(image, hole)
    assert torch.equal(filled, prefill(other, hole))
    assert torch.equal(filled[~hole[:, None].expand_as(filled)], image[~hole[:, None].expand_as(image)])
    assert filled.min() >= 0 and filled.max() <= 1


def several_holes(height: int, width: int, seed: int, most: int = 4) -> torch.Tensor:
    """[1, H, W] bool: rectangles, some across the edges, and single pixels."""
    dice, hole = random.Random(seed), torch.zeros(1, height, width, dtype=torch.bool)
    for _ in range(dice.randrange(1, most + 1)):
        tall, wide = dice.choice([1, 3, 20, 90]), dice.choice([1, 5, 33, 70])
        top, left = dice.randrange(-tall // 2, height - 1), dice.randrange(-wide // 2, width - 1)
        hole[:, max(top, 0) : top + tall, max(left, 0) : left + wide] = True
    hole[:, dice.randrange(height), dice.randrange(width)] = True
    return hole


@pytest.mark.parametrize("seed", range(12))
def test_boxes_hold_all_holes_apart_from_each_other(seed):
    hole = several_holes(200, 333, seed, 9)[0]
    boxes, times = boxes_of(hole, margin=1), torch.zeros_like(hole, dtype=torch.int64)
    for box in boxes:
        box.cut(times).add_(1)
    assert int(times.max()) <= 1 and bool((times[hole] == 1).all())
    near = torch.nn.functional.max_pool2d(hole[None].float(), 3, 1, 1)[0] > 0
    assert bool((times[near] == 1).all())
    assert boxes_of(torch.zeros_like(hole)) == []


@pytest.mark.parametrize("seed", range(12))
def test_prefill_of_a_large_canvas_looks_around_the_holes_alone(seed, monkeypatch):
    """And fills them as if it had looked at everything, but for float32's last bit: vectors of other lengths round differently."""
    image, hole = torch.rand(1, 3, 768, 1024, generator=torch.Generator().manual_seed(seed)), several_holes(768, 1024, seed)
    areas, push_pull = [], masks.push_pull

    def watched(part: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        areas.append(part[0, 0].numel())
        return push_pull(part, own)

    monkeypatch.setattr(masks, "push_pull", watched)
    torch.testing.assert_close(prefill(image, hole), push_pull(image, hole), rtol=0, atol=1e-6)
    assert max(areas) < image[0, 0].numel()


@pytest.mark.parametrize(("height", "width"), [(1000, 701), (531, 1333)])
def test_prefill_of_any_large_canvas(height, width):
    image, hole = torch.rand(2, 3, height, width), torch.cat([several_holes(height, width, seed) for seed in (3, 4)])
    before = image.clone()
    filled = prefill(image, hole)
    other = torch.where(hole[:, None], torch.rand_like(image), image)
    assert torch.equal(filled, prefill(other, hole))
    kept = ~hole[:, None].expand_as(image)
    assert torch.equal(filled[kept], image[kept]) and torch.equal(image, before)
    assert filled.min() >= 0 and filled.max() <= 1
    colour = torch.full_like(image, 0.3)
    assert torch.allclose(prefill(torch.where(hole[:, None], 9.0, colour), hole), colour, atol=1e-5)
    assert torch.equal(prefill(image, torch.ones_like(hole)), torch.full_like(image, 0.5))


def test_prefill_continues_a_plain_colour():
    colour = torch.tensor([0.2, 0.6, 0.9]).view(1, 3, 1, 1).expand(1, 3, 50, 70).clone()
    hole = torch.zeros(1, 50, 70, dtype=torch.bool)
    hole[0, 5:45, 5:60] = True
    assert torch.allclose(prefill(colour, hole), colour, atol=1e-5)
    assert torch.allclose(prefill(colour, torch.ones_like(hole)), torch.full_like(colour, 0.5))


@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
@pytest.mark.parametrize("seed", range(5))
def test_outside_is_bit_identical(blend, seed):
    generator = torch.Generator().manual_seed(seed)
    canvas, generated = torch.rand(2, 3, 37, 53, generator=generator), torch.rand(2, 3, 37, 53, generator=generator)
    mask = torch.rand(2, 37, 53, generator=generator) > (0.02, 0.5, 0.9, 0.999, 1.1)[seed]
    result = composite(canvas, generated, mask, blend)
    outside = ~mask[:, None].expand_as(canvas)
    assert torch.equal(result[outside], canvas[outside])
    assert torch.isfinite(result).all() and result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("seed", range(12))
def test_feather_knows_the_distance_to_whatever_is_kept(seed):
    """Holes are blended each by itself; the result is that of the distances over the whole canvas."""
    draw = torch.Generator().manual_seed(seed)
    canvas, generated = torch.rand(1, 3, 150, 210, generator=draw), torch.rand(1, 3, 150, 210, generator=draw)
    hole = several_holes(150, 210, seed, 6)
    share = (torch.from_numpy(ndimage.distance_transform_edt(hole[0].numpy())) / 7).clamp(0, 1)
    weight = (share**2 * (3 - 2 * share)).float()
    expected = torch.where(hole[:, None], torch.lerp(canvas, generated, weight), canvas)
    assert torch.equal(composite(canvas, generated, hole, "feather"), expected)


def test_feather_rises_from_the_border():
    weight = feather_weight(disc(81, 30)[0] > 0, feather=6)
    assert weight[40, 40] == 1 and weight[0, 0] == 0
    assert 0 < weight[40, 70] < weight[40, 68] < weight[40, 65] <= 1
    rim = weight[weight > 0].min()
    assert rim < 0.06, "hardly a step across the hole's edge"
    assert (feather_weight(torch.ones(9, 9, dtype=torch.bool), 6) == 1).all()


def test_poisson_removes_a_constant_colour_shift():
    """A generated hole that is right but for a tint comes back without it."""
    truth = torch.rand(1, 3, 48, 48) * 0.5 + 0.2
    mask = disc(48, 15) > 0
    shifted = truth + torch.tensor([0.1, -0.05, 0.2]).view(1, 3, 1, 1)
    assert torch.allclose(composite(truth, shifted, mask, "poisson"), truth, atol=1e-5)
    assert (composite(truth, shifted, mask, "none") - truth).abs().max() > 0.1


def test_membrane_is_harmonic():
    """In every hole pixel the correction is the mean of its neighbours; a linear border has the linear solution."""
    hole = torch.zeros(20, 30, dtype=torch.bool).numpy()
    hole[3:17, 4:25] = True
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    plane = (2 * x - 3 * y + 1).double().numpy()[None]
    assert abs(membrane(hole, plane)[0][hole] - plane[0][hole]).max() < 1e-6


def test_poisson_at_the_image_border_and_full_canvas():
    canvas, generated = torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 0.5)
    corner = torch.zeros(1, 16, 16, dtype=torch.bool)
    corner[0, :6, :6] = True
    assert composite(canvas, generated, corner, "poisson").abs().max() < 1e-4
    assert torch.equal(composite(canvas, generated, torch.ones_like(corner), "poisson"), generated)


def test_box_and_threshold():
    mask = torch.zeros(10, 12, dtype=torch.bool)
    assert Box.around(mask) is None
    mask[2:5, 3:12] = True
    assert Box.around(mask, 1) == Box(1, 2, 6, 12)
    assert threshold(torch.tensor([0.49, 0.5, 1.0])).tolist() == [False, True, True]


def test_unknown_blend_is_named():
    with pytest.raises(ValueError, match="'soft', expected none, feather or poisson"):
        composite(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), "soft")  # type: ignore[arg-type]
