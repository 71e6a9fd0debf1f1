"""Masks grow as drawn, prefill leaks nothing, compositing leaves the rest bit-identical."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, sparse
from scipy.sparse.linalg import spsolve

from lazy_core.blend import membrane as membrane_module
from lazy_core.blend.composite import composite, feather_weight
from lazy_core.blend.membrane import membrane
from lazy_core.blend.prefill import prefill, seen_by_push_pull
from lazy_core.geometry import Box
from lazy_core.masks import boxes_of, dilate, holes_of, in_cells, mostly_black, threshold


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


def test_soft_masks_grow_at_each_of_their_values():
    soft = torch.zeros(1, 41, 41)
    soft[:, 20, 20], soft[:, 20, 12] = 0.3, 0.8  # all below one half was lost once
    grown = dilate(soft, 5, "square")
    assert grown[0, 20, 25] == soft[0, 20, 20] and grown[0, 20, 17] == grown[0, 15, 17] == soft[0, 20, 12]
    assert int((grown > 0).sum()) == 11 * 19 and grown.dtype == torch.float32
    assert torch.equal(dilate(soft, 0, "circle"), soft)


def test_a_blurred_mask_stays_blurred_and_never_shrinks():
    ramp = torch.linspace(0, 1, 101).expand(1, 9, 101).contiguous()
    grown = dilate(ramp, 4, "square")
    assert (grown >= dilate(ramp, 0, "square")).all() and len(grown.unique()) > 15
    assert (grown[0, 4, 20:96] - ramp[0, 4, 24:100]).abs().max() <= 1 / 16 + 1e-6
    ring = (((torch.arange(41) - 20).square()[:, None] + (torch.arange(41) - 20).square()).sqrt() - 12).abs() < 2
    assert dilate(ring[None] * 0.4, 0, "circle", fill=True)[0, 20, 20] == pytest.approx(0.4)


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


def push_pull(image: torch.Tensor, hole: torch.Tensor) -> torch.Tensor:
    """What `prefill` computes, in the plainest way: averages of everything, halved again and again, then drawn in where
    nothing is seen.
    """
    keep = (~hole[:, None]).to(image.dtype)
    levels = [(image * keep, keep)]
    while max(levels[-1][1].shape[-2:]) > 1 and not bool(levels[-1][1].all()):
        colour, weight = levels[-1]
        levels.append((F.avg_pool2d(colour, 2, ceil_mode=True), F.avg_pool2d(weight, 2, ceil_mode=True)))
    filled = torch.full_like(levels[-1][0], 0.5)
    for colour, weight in reversed(levels):
        height, width = colour.shape[-2:]
        coarse = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)[..., :height, :width]
        filled = torch.where(weight > 0, colour / weight.clamp_min(1e-8), coarse)
    return filled


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_prefill_looks_around_the_holes_alone(seed, channels_last):
    """And fills them as if it had looked at everything, but for float32's last bits: other sums round differently."""
    image, hole = (
        torch.rand(1, 3, 768, 1024, generator=torch.Generator().manual_seed(seed)),
        several_holes(768, 1024, seed),
    )
    image = image.contiguous(memory_format=torch.channels_last) if channels_last else image
    torch.testing.assert_close(prefill(image, hole), push_pull(image, hole), rtol=0, atol=1e-6)
    far = torch.ones(768, 1024, dtype=torch.bool)
    for box in boxes_of(hole[0]):
        seen_by_push_pull(box, hole[0]).cut(far).fill_(False)
    unseen = torch.where(far, torch.nan, image)
    assert torch.equal(prefill(unseen, hole)[..., ~far], prefill(image, hole)[..., ~far])


def test_holes_whose_boxes_touch_are_filled_each_by_itself():
    """A bar and, around a corner, an L: within 16 px of each other, but not of one box."""
    hole = torch.zeros(1, 256, 256, dtype=torch.bool)
    hole[0, 32:128, 80:96] = hole[0, 192:208, 96:144] = hole[0, 32:208, 128:144] = True
    image = torch.zeros(1, 3, 256, 256)
    image[..., 96:] = 1
    assert len(boxes_of(hole[0])) == 2
    torch.testing.assert_close(prefill(image, hole), push_pull(image, hole), rtol=0, atol=1e-6)


def test_a_canvas_that_grew_to_the_side_goes_on():
    """Outpainting: two thirds of a wide canvas are hole, which is longer than the canvas is high."""
    image, hole = torch.rand(1, 3, 256, 768), torch.zeros(1, 256, 768, dtype=torch.bool)
    image[..., :256], hole[..., 256:] = 0.9, True
    assert torch.allclose(prefill(image, hole), torch.full_like(image, 0.9), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 256), (528, 272), (136, 328), (720, 400), (512, 512)])
def test_prefill_of_canvases_of_any_whole_tokens(height, width):
    for seed in range(12):
        image, hole = (
            torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)),
            several_holes(height, width, seed),
        )
        torch.testing.assert_close(prefill(image, hole), push_pull(image, hole), rtol=0, atol=1e-6)


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


def plain_feather(hole: np.ndarray, reach: int = 7) -> np.ndarray:
    """`feather_weight` in the plainest way: distances, over how deep the hole is nearby, in squares around its deepest
    pixels.
    """
    distance = ndimage.distance_transform_edt(hole) if not hole.all() else np.full(hole.shape, float(reach))
    depth = np.ones(hole.shape)
    for deep in range(2, reach + 1):
        depth[ndimage.maximum_filter(distance >= deep, size=2 * (3 * deep // 2) + 1, mode="constant", cval=0)] = deep  # type: ignore
    share = (distance / depth).clip(0, 1)  # type: ignore
    return (share**2 * (3 - 2 * share)).astype(np.float32)


@pytest.mark.parametrize("seed", range(12))
def test_feather_knows_the_distance_to_whatever_is_kept(seed):
    """Holes are blended each by itself; weights are those of distances over the whole canvas, and inside alone the
    result is generated.
    """
    draw = torch.Generator().manual_seed(seed)
    canvas, generated = torch.rand(1, 3, 150, 210, generator=draw), torch.rand(1, 3, 150, 210, generator=draw)
    hole = several_holes(150, 210, seed, 6)
    weight = torch.from_numpy(plain_feather(hole[0].numpy()))
    assert torch.equal(feather_weight(hole[0], 6), weight)
    expected = torch.where(hole[:, None], torch.lerp(canvas, generated, weight), canvas)
    assert torch.equal(composite(canvas, generated, hole, "feather", old=hole.float()), expected)
    result = composite(canvas, generated, hole, "feather")
    assert torch.equal(result[..., weight == 1], generated[..., weight == 1])


@pytest.mark.parametrize("width", range(1, 16))
@pytest.mark.parametrize("lean", [0, 1])
def test_strokes_of_any_width_reach_full_weight(width, lean):
    """Straight and diagonal: along the middle what was generated is all that is seen."""
    y, x = np.mgrid[:80, :80]
    offset = (y - 40) if not lean else (y - x) / 2**0.5
    hole = torch.from_numpy((offset > -width / 2 - 0.4) & (offset <= width / 2 - 0.4))
    weight = feather_weight(hole, 6)
    middle = weight[:, 40] if not lean else weight.diagonal()
    assert middle.max() == 1 and (weight[~hole] == 0).all()
    if width > 2 and not lean:
        assert weight[hole].min() < 1, "wider strokes have a soft edge"


def canvases(count: int) -> torch.Tensor:
    """Soft noise in 0.2..0.9: [count, 3, 64, 80]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(count)) * 0.7 + 0.2
    return F.interpolate(coarse, (64, 80), mode="bilinear")


def going(kind: str, seed: int) -> torch.Tensor:
    """Holes [64, 80] bool of what is to go."""
    y, x = np.mgrid[:64, :80]
    return torch.from_numpy(
        {
            "a black wire": abs(y - 32 - 12 * np.sin(x / (9 + seed))) < 2,
            "black under alpha": np.hypot(y - 30, x - 40) < 12 + seed / 2,
            "grey of Pad Image for Outpainting": x >= 50 - seed,
            "strokes under 13 px": (y % 16 < 2 + seed % 10) & (y > 16),
        }[kind]
    )


@pytest.mark.parametrize(
    "kind", ["a black wire", "black under alpha", "grey of Pad Image for Outpainting", "strokes under 13 px"]
)
@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
def test_no_blend_brings_back_what_is_to_go(blend, kind):
    """Twenty canvases: the result is the same bits whatever the hole showed, and where strokes are thin what was
    generated is seen.
    """
    for seed, clean in enumerate(canvases(20)):
        hole = going(kind, seed)
        old = torch.where(hole, 0.5 if "grey" in kind else 0.0, clean)[None]
        generated = torch.where(hole, 0.95, clean)[None]
        result = composite(old, generated, hole[None], blend)
        assert torch.equal(result, composite(clean[None], generated, hole[None], blend))
        if blend == "feather":
            low, high = clean[:, ~hole].amin(1), clean[:, ~hole].amax(1).clamp_min(0.95)
            inside = result[0][:, hole]
            assert (inside >= low[:, None] - 1e-6).all() and (inside <= high[:, None] + 1e-6).all()


def test_what_feather_fades_into_is_the_canvas_around():
    """A slope goes on into the hole; the first pixels inside are those just outside."""
    canvas = (torch.arange(64) / 64).expand(1, 3, 64, 64).clone()
    hole = torch.zeros(1, 64, 64, dtype=torch.bool)
    hole[:, 20:44] = True
    black = torch.where(hole[:, None], 0.0, canvas)
    result = composite(black, canvas, hole, "feather")
    assert (result - canvas)[..., 8:-8].abs().max() < 1e-5
    blue = torch.tensor([0.1, 0.2, 0.8]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    plain = composite(torch.where(hole[:, None], 0.0, blue), torch.ones_like(blue), hole, "feather")
    weight = feather_weight(hole[0], 6)
    assert torch.allclose(plain, torch.lerp(blue, torch.ones_like(blue), weight), atol=1e-6)


def test_as_much_of_the_old_as_asked_for():
    canvas, hole = torch.full((1, 3, 40, 40), 0.8), torch.zeros(1, 40, 40, dtype=torch.bool)
    hole[:, 10:30, 10:30] = True
    black, white = torch.where(hole[:, None], 0.0, canvas), torch.ones(1, 3, 40, 40)
    weight, share = feather_weight(hole[0], 6), torch.full((1, 40, 40), 0.25)
    result = composite(black, white, hole, "feather", old=share)
    assert torch.allclose(
        result[..., hole[0]], torch.lerp(torch.full_like(canvas, 0.6), white, weight)[..., hole[0]], atol=1e-6
    )


@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
def test_a_soft_mask_mixes(blend):
    """With the weight of each pixel; 1 is the hard mask's result, bit for bit."""
    draw = torch.Generator().manual_seed(0)
    canvas, generated, weight = (torch.rand(1, size, 60, 70, generator=draw) for size in (3, 3, 1))
    hole = torch.zeros(1, 60, 70, dtype=torch.bool)
    hole[:, 10:50, 5:60] = True
    hard = composite(canvas, generated, hole, blend)
    weight = weight[:, 0] * hole
    soft = composite(canvas, generated, hole, blend, weight=weight)
    assert torch.allclose(soft, torch.lerp(canvas, hard, weight[:, None]), atol=1e-6)
    assert torch.equal(soft[..., ~hole[0]], canvas[..., ~hole[0]])
    assert torch.equal(composite(canvas, generated, hole, blend, weight=hole.float()), hard)


def test_hard_masks_have_no_weight_and_tails_do_not_grow_the_hole():
    for hard in (torch.tensor([[0.0, 1.0]]), torch.tensor([[3 / 255, 252 / 255]])):
        hole, weight = holes_of(hard)
        assert weight is None and hole.tolist() == [[False, True]]
    hole, weight = holes_of(torch.tensor([[0.0, 0.01, 0.3, 0.49, 0.995, 1.2]]))
    assert weight is not None and hole.tolist() == [[False, False, True, True, True, True]]
    assert torch.equal(weight, torch.tensor([[0.0, 0.0, 0.3, 0.49, 1.0, 1.0]]))


def test_hdr_around_the_hole_is_let_into_it():
    """A sky at 4: outside every bit is kept, and poisson brings the hole there. In 0..1 the hole is clipped as ever."""
    sky, hole = torch.full((1, 3, 48, 48), 4.0), torch.zeros(1, 48, 48, dtype=torch.bool)
    hole[:, 15:35, 15:35] = True
    sky[:, 2] = -0.25
    generated = torch.full_like(sky, 0.9)
    for blend in ("none", "feather", "poisson"):
        result = composite(torch.where(hole[:, None], 0.0, sky), generated, hole, blend)
        assert torch.equal(result[..., ~hole[0]], sky[..., ~hole[0]])
        if blend == "poisson":
            assert torch.allclose(result, sky, atol=1e-4)
        if blend == "feather":
            assert result[0, 0, 15, 25] > 3.5 and result[0, 0, 25, 25] == 0.9
    assert composite(sky.clamp(0, 1), generated + 5, hole, "none").max() == 1


def test_mostly_black():
    image, hole = torch.rand(1, 3, 40, 40) + 0.01, torch.zeros(1, 40, 40, dtype=torch.bool)
    hole[:, 10:30, 10:30] = True
    assert not mostly_black(image, hole)
    assert mostly_black(torch.where(hole[:, None], 0.0, image), hole)
    image[..., 10:19, 10:30] = 0
    assert not mostly_black(image, hole)
    image[0, 0, 10:30, 10:30] = 0
    assert not mostly_black(image, hole), "dark red is not black"


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


def harmonic(hole: np.ndarray, border: np.ndarray) -> np.ndarray:
    """What `membrane` computes, pixel by pixel: each is the mean of its neighbours on the image."""
    number = np.where(hole, np.cumsum(hole).reshape(hole.shape) - 1, -1)
    matrix, right = sparse.lil_matrix((hole.sum(), hole.sum())), np.zeros((hole.sum(), len(border)))
    for y, x in zip(*np.nonzero(hole), strict=True):
        for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= v < hole.shape[0] and 0 <= u < hole.shape[1]:
                matrix[number[y, x], number[y, x]] += 1
                if hole[v, u]:
                    matrix[number[y, x], number[v, u]] = -1
                else:
                    right[number[y, x]] += border[:, v, u]
    result = np.zeros_like(border)
    result[:, hole] = spsolve(matrix.tocsr(), right).reshape(-1, len(border)).T
    return result


def drawn(kind: str) -> np.ndarray:
    y, x = np.mgrid[:90, :110]
    away = np.hypot(y - 45, x - 55)
    return {
        "rectangle": (y > 2) & (y < 80) & (x > 3) & (x < 100),
        "disc": away < 40,
        "ring": (away < 43) & (away > 12),
        "corner": (y < 60) & (x < 80),
        "across": (y > 20) & (y < 70),
        "stroke": abs(y - 45 - 25 * np.sin(x / 12)) < 9,
        "dots": (y % 9 < 4) & (x % 13 < 6) & (y > 0),
        "all but a pixel": away > 0,
    }[kind]


HOLES = ("rectangle", "disc", "ring", "corner", "across", "stroke", "dots", "all but a pixel")


@pytest.mark.parametrize("kind", HOLES)
def test_membrane_is_harmonic(kind):
    """Within a hundredth of the gap, though few of a hole's pixels are unknowns; zero outside, whatever is far from the
    hole.
    """
    hole, draw = drawn(kind), np.random.default_rng(0)
    noise, waves = draw.normal(size=(2, 90, 110)), np.sin(np.add.outer(np.arange(90) / 9, np.arange(110) / 5))[None]
    border = np.concatenate([noise, waves])
    field, expected = membrane(hole, border), harmonic(hole, border)
    print(f"{kind}: worst {abs(field - expected).max():.4f}, on average {abs(field - expected)[:, hole].mean():.5f}")
    assert abs(field - expected).max() < 0.01
    assert not field[:, ~hole].any()
    near = ndimage.binary_dilation(hole)
    assert np.array_equal(membrane(hole, np.where(near & ~hole, border, np.nan)), field)


@pytest.mark.parametrize("kind", HOLES[:3])
def test_membrane_of_a_slope_is_the_slope(kind):
    y, x = np.mgrid[:90, :110]
    plane, hole = (2 * x - 3 * y + 1.0)[None], drawn(kind)
    assert abs(membrane(hole, plane) - plane)[:, hole].max() < 1e-5 * abs(plane).max()


def test_membrane_costs_what_the_border_costs(monkeypatch):
    """Twice the side, twice the unknowns; of small holes every pixel is one."""
    counts: list[int] = []
    solve = membrane_module.splu
    monkeypatch.setattr(
        membrane_module, "splu", lambda matrix, **options: counts.append(matrix.shape[0]) or solve(matrix, **options)
    )
    for side in (8, 100, 200, 400):
        hole = np.pad(np.ones((side, side), bool), 1)
        membrane(hole, np.ones((1, side + 2, side + 2)))
    assert counts[0] == 64
    assert counts[2] < 2.3 * counts[1] and counts[3] < 2.3 * counts[2] and counts[3] < 0.15 * 400**2


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (1, 1), (3, 40)])
def test_membrane_of_thin_pictures(shape):
    hole = np.ones(shape, bool)
    assert not membrane(hole, np.ones((3, *shape))).any(), "a hole without a border has nothing to close"
    hole[0, 0] = False
    assert np.allclose(membrane(hole, np.ones((3, *shape)))[:, hole], 1, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3, 8, 16])
def test_in_cells_finds_every_pixel(side):
    flags = torch.rand(2, 37, 50, generator=torch.Generator().manual_seed(side)) > 0.99
    expected = F.max_pool2d(F.pad(flags.float(), (0, -50 % side, 0, -37 % side)), side) > 0
    assert torch.equal(in_cells(flags, side), expected)


@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
def test_compositing_reads_what_is_around_the_hole_alone(blend):
    """The lazy VAE decodes that, and leaves the rest of the picture undefined."""
    draw = torch.Generator().manual_seed(0)
    canvas, generated = torch.rand(1, 3, 100, 140, generator=draw), torch.rand(1, 3, 100, 140, generator=draw)
    hole = torch.from_numpy(drawn("disc")[:80, :110])[None]
    hole = F.pad(hole, (30, 0, 20, 0))
    near = F.max_pool2d(hole[:, None].float(), 3, 1, 1) > 0
    whatever = torch.where(near, generated, torch.nan)
    assert torch.equal(composite(canvas, whatever, hole, blend), composite(canvas, generated, hole, blend))


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
