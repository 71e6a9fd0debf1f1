"""What a picture shows around a hole goes on in it: patterns, noise, gradients; and nothing of what was there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazy_core.blend.background import on_texture, texture_of
from lazy_core.blend.composite import composite
from lazy_core.blend.prefill import prefill
from lazy_core.blend.texture import continue_texture
from lazy_core.checkpoint import load_model
from lazy_core.editor import LazyEditor
from lazy_core.model import LazyDiffusion
from lazy_core.networks.matte import DARKEST, ObjectMatte


def stripes(height: int = 96, width: int = 128) -> Tensor:
    wave = (torch.arange(width) % 8 < 4).float()
    return torch.stack([wave * 0.6 + 0.2, wave * 0.3 + 0.1, 0.9 - wave * 0.5]).unsqueeze(1).expand(3, height, width)


def grain(height: int = 96, width: int = 128) -> Tensor:
    return 0.5 + 0.2 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(1)).clamp(-2, 2)


def hole_in(picture: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    hole = torch.zeros(picture.shape[-2:], dtype=torch.bool)
    hole[top : top + height, left : left + width] = True
    return hole


def filled(picture: Tensor, hole: Tensor) -> Tensor:
    return continue_texture(picture[None], hole[None])[0][0]


def psnr(one: Tensor, other: Tensor, hole: Tensor) -> float:
    return float(-10 * (one - other)[:, hole].square().mean().log10())


def energy(picture: Tensor, top: int, left: int, height: int, width: int) -> float:
    part = picture[:, top : top + height, left : left + width]
    return float(part.diff(dim=1).square().mean() + part.diff(dim=2).square().mean())


@pytest.mark.parametrize("where", [(30, 40, 36, 44), (0, 0, 40, 40), (60, 90, 36, 38), (0, 50, 96, 24)])
def test_a_pattern_goes_on(where: tuple[int, int, int, int]):
    """In the middle, in corners, along a side: nearer to what was there than the smooth fill by far."""
    picture, hole = stripes(), hole_in(stripes(), *where)
    smooth = psnr(prefill(picture[None], hole[None])[0], picture, hole)
    assert psnr(filled(picture, hole), picture, hole) > smooth + 10


def test_grain_stays_grain():
    """Gradients in the hole are like those around it; the smooth fill has next to none."""
    picture, where = grain(), (30, 40, 36, 44)
    hole, inner = hole_in(picture, *where), (33, 43, 30, 38)
    around = energy(picture, 0, 0, 96, 30)
    assert 0.5 < energy(filled(picture, hole), *inner) / around < 1.6
    assert energy(prefill(picture[None], hole[None])[0], *inner) / around < 0.1


@pytest.mark.parametrize("make", [stripes, grain])
def test_nothing_of_the_holes_old_content_is_in_it(make: Callable[[], Tensor]):
    picture, hole = make().contiguous(), hole_in(make(), 20, 30, 40, 50)
    other = torch.where(hole, torch.rand(3, 96, 128), picture)
    before = other.clone()
    result = filled(other, hole)
    assert torch.equal(result, filled(picture, hole))
    assert torch.equal(other, before)
    assert torch.equal(result[:, ~hole], picture[:, ~hole])


def test_a_batch_is_what_its_images_are_alone():
    pictures = torch.stack([stripes(), grain()])
    holes = torch.stack([hole_in(pictures[0], 10, 10, 30, 30), hole_in(pictures[1], 50, 60, 40, 30)])
    together = continue_texture(pictures, holes)[0]
    for index in range(2):
        assert torch.equal(together[index], filled(pictures[index], holes[index]))


def test_the_middle_of_a_hole_of_600_px_is_there():
    """Whose certainty is too small a number to count with."""
    picture = torch.rand(3, 75, 75, generator=torch.Generator().manual_seed(3)).repeat_interleave(12, 1)
    picture = picture.repeat_interleave(12, 2)
    result, done = continue_texture(picture[None], hole_in(picture, 150, 150, 600, 600)[None])
    assert bool(done.any()) and bool(result.isfinite().all())


def test_a_speckled_mask_is_filled():
    """Where a fine level shows no whole patch and a coarse one does."""
    picture, hole = stripes(160, 160).contiguous(), torch.zeros(160, 160, dtype=torch.bool)
    hole[::4, ::4] = True
    hole[70:80, 70:80] = True
    result, _ = continue_texture(picture[None], hole[None])
    assert bool(result.isfinite().all()) and torch.equal(result[0][:, ~hole], picture[:, ~hole])


def test_much_that_is_hidden_and_many_holes_take_no_minutes():
    """An inverted mask, and hundreds of specks: what the work follows is what can be seen."""
    begin = time.monotonic()
    picture, hole = torch.rand(1, 3, 1024, 1024), torch.zeros(1, 1024, 1024, dtype=torch.bool)
    hole[:, 8:-8, 8:-8] = True
    result, done = continue_texture(picture, hole)
    assert not bool(done.any()) and torch.equal(result, prefill(picture, hole))
    hole = torch.zeros(1, 1024, 1024, dtype=torch.bool)
    for top in range(20, 1000, 48):
        for left in range(20, 1000, 48):
            hole[:, top : top + 6, left : left + 6] = True
    continue_texture(picture, hole)
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("height", "width", "where"),
    [
        (1, 1, (0, 0, 1, 1)),
        (5, 7, (1, 1, 3, 3)),
        (40, 40, (0, 0, 40, 40)),
        (40, 40, (1, 1, 38, 38)),
        (9, 200, (0, 3, 9, 60)),
    ],
)
def test_where_little_is_visible_the_fill_is_smooth_or_finite(
    height: int, width: int, where: tuple[int, int, int, int]
):
    picture = torch.rand(3, height, width, generator=torch.Generator().manual_seed(2))
    hole = hole_in(picture, *where)
    result, done = continue_texture(picture[None], hole[None])
    assert bool(result.isfinite().all()) and bool((result >= 0).all()) and bool((result <= 1).all())
    if not bool(done.any()):
        assert torch.equal(result, prefill(picture[None], hole[None]))


def test_a_hole_over_all_of_the_canvas_has_no_texture():
    picture = torch.rand(1, 3, 40, 40)
    told = texture_of(picture, torch.ones(1, 40, 40, dtype=torch.bool))
    assert told.shape == (1600, 4) and bool((told[:, 3] == 0).all())


def test_values_beyond_one_go_on():
    """An HDR canvas: what is around the hole says how bright it may be."""
    picture = stripes() * 4
    hole = hole_in(picture, 30, 40, 36, 44)
    assert psnr(filled(picture, hole) / 4, picture / 4, hole) > 20


# -- the object on it --------------------------------------------------------------------------------------------------
def on(alpha: float, light: float, known: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """-> what was put together, what was generated, the texture and the hole."""
    canvas, generated = grain()[None], torch.rand(1, 3, 96, 128)
    hole = hole_in(canvas, 30, 40, 36, 44)[None]
    texture = texture_of(canvas, hole)
    texture[:, 3] = float(known)
    seen = []

    def matte(image: Tensor, fill: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(image)
        return torch.full_like(image[:, :1], alpha), torch.full_like(image[:, :1], light)

    before = generated.clone()
    result = on_texture(canvas, generated, hole, texture, matte)
    assert torch.equal(generated, before)
    assert len(seen) == 1 and torch.equal(seen[0][0, :, :20, :20], canvas[0, :, :20, :20])  # the canvas around the hole
    return result, generated, texture, hole[0]


def test_all_of_the_object_is_as_generated():
    result, generated, _, _ = on(1.0, 0.6)
    assert torch.equal(result, generated)


def test_beside_the_object_is_the_texture_in_its_shadow():
    result, generated, texture, hole = on(0.0, 0.6)
    assert torch.allclose(result[0].movedim(0, -1)[hole], texture[:, :3] * 0.6)
    touching = F.max_pool2d(hole.float()[None, None], 3, 1, 1)[0, 0] > 0
    assert torch.equal(result[0][:, ~touching], generated[0][:, ~touching])
    assert torch.equal(result[0][:, touching & ~hole], grain()[:, touching & ~hole])


def test_a_blend_finds_no_gap_where_the_texture_meets_the_canvas():
    """Whatever a VAE makes of the canvas around the hole."""
    result, _, texture, hole = on(0.0, 1.0)
    blended = composite(grain()[None], result, hole[None], "poisson")
    assert torch.allclose(blended[0].movedim(0, -1)[hole], texture[:, :3].clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("apart", [2, 12, 40])
def test_holes_near_each_other_leave_each_others_borders_alone(apart: int):
    """What surrounds each becomes the canvas, as where it is the only one."""
    canvas, generated = grain()[None], torch.rand(1, 3, 96, 128)
    hole = (hole_in(canvas, 30, 20, 30, 30) | hole_in(canvas, 36, 50 + apart, 20, 24))[None]
    texture = texture_of(canvas, hole)
    result = on_texture(canvas, generated, hole, texture, lambda image, *_: (0 * image[:, :1], 0 * image[:, :1] + 1))
    touching = F.max_pool2d(hole.float()[None], 3, 1, 1)[0, 0] > 0
    beside = touching & ~hole[0]
    assert torch.equal(result[0][:, beside], canvas[0][:, beside])
    assert torch.allclose(result[0].movedim(0, -1)[hole[0]], texture[:, :3])


def test_what_has_no_texture_is_as_generated():
    result, generated, _, _ = on(0.0, 0.6, known=False)
    assert torch.allclose(result, generated)


# -- an edit with it ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def telling(checkpoint: Path) -> LazyEditor:
    """The tiny checkpoint with a matte that says object to the hole's left half, and no shadow."""
    model, read = load_model(checkpoint)
    larger = LazyDiffusion(replace(model.config, matte=4))
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})

    def told(image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        light = torch.ones_like(image[:, :1])
        alpha = torch.zeros_like(light)
        alpha[..., : alpha.shape[-1] // 2] = 1
        return alpha, light

    larger.transformer.matte.forward = told  # type: ignore[union-attr]
    return LazyEditor(larger.eval(), read.tokenizer, "telling")


def edit_of(
    editor: LazyEditor, context_changes: dict | None = None, **settings: object
) -> tuple[Tensor, Tensor, Tensor]:
    """-> the edit, the same without the texture, and the hole."""
    picture = grain(64, 64)[None]
    mask = hole_in(picture, 16, 16, 32, 32)[None].float()
    context = editor.encode(picture, mask)
    context = context.with_(**(context_changes or {}))
    plain = editor.decode(context.with_(texture=None), "red apple", steps=1, blend="none", **settings)  # type: ignore[arg-type]
    return editor.decode(context, "red apple", steps=1, blend="none", **settings), plain, mask > 0  # type: ignore[arg-type]


def test_an_edit_keeps_the_object_and_continues_the_picture(telling: LazyEditor):
    result, plain, hole = edit_of(telling)
    assert torch.equal(result[..., :32], plain[..., :32])  # what the matte calls object, and all outside
    inside = hole[0].clone()
    inside[:, :32] = False
    texture = texture_of(grain(64, 64)[None], hole)[:, :3]
    wanted = torch.zeros(64, 64, 3)
    wanted[hole[0]] = texture
    assert torch.allclose(result[0].movedim(0, -1)[inside], wanted[inside], atol=1e-6)
    assert torch.equal(result[0][:, ~hole[0]], grain(64, 64)[:, ~hole[0]])


@pytest.mark.parametrize("prompt", ["Remove it.", "空白背景"])
def test_a_prompt_for_nothing_leaves_no_object(telling: LazyEditor, prompt: str):
    """Whatever the matte takes for one; beside it a hole with a prompt of its own keeps its object."""
    picture = grain(64, 160)[None]
    mask = (hole_in(picture, 16, 16, 32, 32) | hole_in(picture, 16, 112, 32, 32))[None].float()
    context = telling.encode(picture, mask)
    assert len(context.owner) == 2 and context.texture is not None
    wanted = torch.zeros(64, 160, 3)
    wanted[mask[0] > 0] = context.texture[:, :3]
    result = telling.decode(context, prompt, steps=1, blend="none")[0].movedim(0, -1)
    assert torch.allclose(result[mask[0] > 0], wanted[mask[0] > 0], atol=1e-6)
    right = torch.zeros(1, 64, 160)
    right[..., 100:] = 1
    result = telling.decode(context, prompt, steps=1, blend="none", regions=[("red apple", right)])[0].movedim(0, -1)
    assert torch.allclose(result[16:48, 16:48], wanted[16:48, 16:48], atol=1e-6)
    plain = telling.decode(context.with_(texture=None), prompt, steps=1, blend="none", regions=[("red apple", right)])
    assert torch.equal(result[16:48, 112:114], plain[0].movedim(0, -1)[16:48, 112:114])


def test_where_the_old_content_shows_through_it_is_left_alone(telling: LazyEditor):
    result, plain, _ = edit_of(telling, denoise=0.5)
    assert torch.equal(result, plain)


def test_a_model_without_a_matte_looks_for_no_texture(editor: LazyEditor):
    picture = grain(64, 64)[None]
    assert editor.matte is None
    assert editor.encode(picture, hole_in(picture, 16, 16, 32, 32)[None].float()).texture is None


@pytest.mark.parametrize("size", [(64, 64), (50, 71), (16, 130)])
def test_the_matte_answers_for_every_pixel(size: tuple[int, int]):
    torch.manual_seed(0)
    matte = ObjectMatte(4)
    image, fill = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    with torch.inference_mode():
        alpha, light = matte(image, fill, torch.rand(2, *size) > 0.5)
    assert alpha.shape == light.shape == (2, 1, *size)
    assert 0 <= float(alpha.min()) and float(alpha.max()) <= 1
    assert DARKEST <= float(light.min()) and float(light.max()) <= 1
