"""Holes larger than those that the shipped model was trained on: it sees the canvas smaller, and the picture loses
nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazy_core.config import PRESETS
from lazy_core.context import Origin
from lazy_core.context_file import read_context, to_bytes
from lazy_core.downscale import CELL, downscale_for, enlarged, seen_smaller, thickness, with_detail
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.masks import in_cells
from lazy_core.pipeline import encode_context, tokens_read
from lazy_core.sketch import add_edges, add_sketch

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "fluent-small.safetensors"


@pytest.fixture(scope="module")
def editor() -> LazyEditor:
    return LazyEditor.load(SHIPPED)


def boxes(side: int, *found: tuple[int, int, int, int]) -> Tensor:
    """Holes [1, side, side] bool from boxes (x, y, width, height)."""
    hole = torch.zeros(1, side, side, dtype=torch.bool)
    for x, y, width, height in found:
        hole[:, y : y + height, x : x + width] = True
    return hole


def photograph(side: int) -> Tensor:
    """Something with large shapes and fine grain [1, 3, side, side]."""
    generator = torch.Generator().manual_seed(3)
    shapes = F.interpolate(torch.rand(1, 3, 6, 6, generator=generator), (side, side), mode="bicubic")
    return (shapes * 0.7 + 0.15 + 0.05 * torch.randn(1, 3, side, side, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize(
    ("found", "times"),
    [
        ([(40, 40, 176, 176)], 1),  # what it was trained on
        ([(40, 40, 177, 120)], 2),
        ([(40, 40, 320, 320)], 2),
        ([(40, 40, 321, 200)], 3),
        ([(0, 0, 1024, 1024)], 7),
        ([(40, 40, 600, 40)], 1),  # a long thin one: nothing would be left of it
        ([(40, 40, 600, 90)], 2),
        ([(40, 40, 500, 500), (800, 800, 60, 60)], 1),  # a small one beside it
        ([(40, 40, 500, 500), (800, 800, 100, 100)], 2),
        ([(40, 40, 500, 500), (800, 800, 20, 20)], 4),  # a speck
        ([(40, 40, 88, 88), (40, 138, 88, 88)], 1),  # small ones side by side
        ([(40 + 110 * n, 40, 90, 90) for n in range(4)], 1),
        ([(40, 40, 330, 330), (400, 40, 330, 330)], 2),  # 3 would make them one
        ([], 1),
    ],
)
def test_how_much_smaller_a_canvas_is_seen(found: list[tuple[int, int, int, int]], times: int):
    assert downscale_for(boxes(1024, *found), 256) == times
    assert downscale_for(boxes(1024, *found), None) == 1


def test_a_larger_hole_in_a_batch_changes_nothing_in_the_others(editor: LazyEditor):
    small, large, none = boxes(400, (40, 40, 60, 60)), boxes(400, (40, 40, 300, 300)), boxes(400)
    assert downscale_for(torch.cat([small, large, none]), 256) == 1
    assert downscale_for(torch.cat([large, none, boxes(400, (0, 0, 400, 400))]), 256) == 2
    pictures, masks = photograph(400).expand(2, -1, -1, -1), torch.cat([small, large]).float()
    together, alone = editor.encode(pictures, masks), editor.encode(pictures[:1], masks[:1])
    assert torch.allclose(together.tokens[0, : alone.hole.count], alone.tokens[0], atol=1e-4)


@pytest.mark.parametrize(("side", "times"), [(256, 1), (272, 2)])
def test_a_canvas_of_the_trainings_size_is_seen_as_it_is(side: int, times: int):
    assert downscale_for(boxes(side, (0, 0, side, side)), 256) == times


def test_thickness_is_that_of_the_largest_disc():
    y, x = torch.meshgrid(torch.arange(400), torch.arange(400), indexing="ij")
    ring = ((y - 200) ** 2 + (x - 200) ** 2).sqrt()
    cells = [in_cells(hole, CELL).numpy() for hole in ((ring < 180) & (ring > 120), ring < 180)]
    assert abs(thickness(cells[0]) - 60) <= 16
    assert abs(thickness(cells[1]) - 360) <= 16


def test_only_models_that_tell_objects_from_backgrounds_see_canvases_smaller(editor: LazyEditor):
    """Of others the whole hole would be blurred; files from before are decoded as they were."""
    assert editor.model.config.enlarged_from == 256
    assert replace(editor.model.config, matte=0).enlarged_from is None
    assert all(config.enlarged_from is None for config in PRESETS.values() if not config.matte)


def test_a_large_hole_is_drawn_as_the_same_one_on_a_smaller_canvas(editor: LazyEditor):
    """At a fourth of the tokens, and outside it nothing changes."""
    small, hole = photograph(256), boxes(256, (80, 96, 96, 96))
    large, large_hole = (x.repeat_interleave(2, -1).repeat_interleave(2, -2) for x in (small, hole))
    given = large.clone()
    context = editor.encode(large, large_hole.float())
    assert (context.grid.downscale, context.hole_tokens) == (2, 36)
    assert tokens_read(editor.model.config, large_hole.float(), 1) == 256
    made = editor.decode(context, "red apple", 5, steps=4, blend="poisson")
    alone = editor.decode(editor.encode(small, hole.float()), "red apple", 5, steps=4, blend="poisson")
    assert torch.equal(made.where(~large_hole[:, None], large), large) and torch.equal(given, large)
    shown, drawn = (x[..., 96:192, 80:176] for x in (F.avg_pool2d(made, 2), alone))
    assert (shown - drawn).abs().mean() < 0.03 < (drawn - small[..., 96:192, 80:176]).abs().mean() / 2


def test_background_in_a_large_hole_is_as_sharp_as_the_picture(editor: LazyEditor):
    picture, hole = photograph(512), boxes(512, (120, 140, 220, 220))
    made = editor.decode(editor.encode(picture, hole.float()), "empty background", 1, steps=2, blend="poisson")
    grain = [(x - F.avg_pool2d(x, 5, 1, 2))[..., 150:350, 130:330].std() for x in (made, picture)]
    assert 0.7 < grain[0] / grain[1] < 1.3


def test_old_content_that_shows_through_stays_sharp(editor: LazyEditor):
    picture, hole = photograph(512), boxes(512, (120, 140, 220, 220))
    context = editor.encode(picture, hole.float())
    made = editor.decode(context, "red apple", 1, steps=4, denoise=0.1)
    inside = (slice(None), slice(None), slice(160, 340), slice(140, 320))
    grain = [(x - F.avg_pool2d(x, 5, 1, 2))[inside].std() for x in (made, picture)]
    assert grain[0] / grain[1] > 0.7
    assert torch.equal(with_detail(made, picture, hole, torch.ones(1, 512, 512), Grid(512, 512, 8, 2)), made)


def test_sketches_and_soft_masks_are_seen_smaller_too(editor: LazyEditor):
    picture, hole = photograph(400), boxes(400, (90, 100, 200, 200))
    context = editor.encode(picture, hole.float())
    red = torch.tensor([0.9, 0.1, 0.1])[None, :, None, None].expand_as(picture)
    sketched = add_sketch(context, red, 1.0, editor.to_latent)
    made = editor.decode(sketched, "red apple", 1, steps=2, blend="none")
    assert (made - red)[..., 120:280, 110:270].abs().mean() < 0.05
    weight = hole.float() * 0.5
    soft = editor.encode(picture, weight)
    assert soft.grid.downscale == 2 and soft.strength is not None
    result = editor.decode(soft, "red apple", 1, steps=2)
    assert torch.isfinite(result).all() and torch.equal(result.where(~hole[:, None], picture), picture)


def test_lines_keep_their_tokens_size(editor: LazyEditor, tmp_path: Path):
    """A line of one pixel is still there in what the model sees, and in a file."""
    context = editor.encode(photograph(400), boxes(400, (90, 100, 200, 200)).float())
    drawing = torch.zeros(1, 3, 400, 400)
    drawing[..., 200, :] = 1
    edges = add_edges(context, drawing, 1.0).edges
    assert edges is not None and edges.shape == (*context.hole.index.shape, 256)
    assert edges.sum() == 100
    (path := tmp_path / "a.safetensors").write_bytes(
        to_bytes(context.with_(edges=edges, origin=Origin("", torch.rand(3))))
    )
    found = read_context(path)
    assert found.edges is not None and torch.equal(found.edges, edges) and found.grid == context.grid


def test_a_matte_is_asked_of_smaller_pictures_and_answers_for_these():
    def matte(image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        assert image.shape == fill.shape == (1, 3, 34, 41) and hole.shape == (1, 34, 41)
        return image[:, :1], fill[:, :1]

    pictures = photograph(128)[..., :101, :121], torch.ones(1, 3, 101, 121), boxes(128, (7, 8, 50, 50))[:, :101, :121]
    alpha, light = seen_smaller(matte, 3, *pictures)
    assert alpha.shape == light.shape == (1, 1, 101, 121) and torch.equal(light, torch.ones_like(light))
    assert (alpha - F.avg_pool2d(pictures[0][:, :1], 5, 1, 2)).abs().mean() < 0.03


def test_only_what_is_near_a_hole_is_enlarged():
    """What was never computed may be anything, NaN too."""
    grid, hole = Grid(512, 512, 8, 2, 2), boxes(512, (100, 100, 200, 200))
    decoded = torch.full((1, 3, 256, 256), float("nan"))
    decoded[..., 40:160, 40:160] = 0.25
    large = enlarged(decoded, hole, grid)
    assert large.shape == (1, 3, 512, 512) and (large[..., 98:302, 98:302] == 0.25).all()


def test_an_empty_mask_is_seen_as_it_is(editor: LazyEditor):
    context = encode_context(editor.model.transformer, editor.to_latent, photograph(64), torch.zeros(1, 64, 64), "x")
    assert context.grid.downscale == 1 and context.hole.count == 0
