"""Encode once, decode often, in plain Python: 200 random edits, determinism, noise, sketch, checkpoints, cache."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from lazy_core.checkpoint import load_model
from lazy_core.editor import LazyEditor
from lazy_core.masks import latent_mask
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.pipeline import hole_noise
from lazy_core.tokens import patchify
from made import decode_with

BLENDS = ("none", "feather", "poisson")


@pytest.fixture(scope="module")
def styled(checkpoint) -> LazyEditor:
    """The same weights, and three styles that they name by chance."""
    model, read = load_model(checkpoint)
    larger = LazyDiffusion(replace(model.config, styles=3, style_guidance=2.0))
    initialise(larger, torch.Generator().manual_seed(1))
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})
    torch.nn.init.normal_(larger.transformer.context_encoder.naming.table)  # type: ignore[union-attr]
    return LazyEditor(larger.eval(), read.tokenizer, "styled")


@pytest.fixture(scope="module")
def filled(checkpoint) -> LazyEditor:
    """The same weights, and random ones for what the canvas's smooth fill tells."""
    model, read = load_model(checkpoint)
    larger = LazyDiffusion(replace(model.config, fill=True))
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})
    torch.nn.init.normal_(larger.transformer.context_encoder.fill_embedder.weight)  # type: ignore[union-attr]
    return LazyEditor(larger.eval(), read.tokenizer, "filled")


def random_mask(kind: str, height: int, width: int, dice: random.Random) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    cy, cx, r = dice.randrange(height), dice.randrange(width), dice.uniform(4, min(height, width) / 2)
    distance = ((y - cy) ** 2 + (x - cx) ** 2).float().sqrt()
    if kind == "ring":
        return ((distance < r) & (distance > r / 2)).float()
    if kind == "disjoint":
        return (((y < 9) & (x < 7)) | ((y > height - 6) & (x > width - 11)) | (distance < 5)).float()
    if kind == "border":
        return ((y >= cy) & (x < 12)).float()
    if kind == "pixel":
        return ((y == cy) & (x == cx)).float()
    if kind == "full":
        return torch.ones(height, width)
    return (distance < r).float()


KINDS = ("ring", "disjoint", "border", "pixel", "full", "disc")


def test_guidance_leads_towards_the_named_style(styled):
    """The negative prompt's tokens differ by one vector an image, on valid tokens alone; without guidance nothing
    does.
    """
    image, mask = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64)
    mask[0, :40, :40] = mask[1, 20:30, 30:50] = 1
    context = styled.encode(image, mask)
    assert context.hole.token_mask is not None
    moved = context.negative_tokens - context.tokens
    assert torch.allclose(
        moved[context.hole.valid], context.negative_offset[:, None].expand_as(moved)[context.hole.valid], atol=1e-5
    )
    assert not moved[~context.hole.valid].any() and context.negative_offset.abs().max() > 1e-2
    without = context.with_(negative_offset=None)
    assert torch.equal(without.negative_tokens, context.tokens)
    edits = {
        cfg: [styled.decode(each, "red apple", seed=1, steps=2, cfg=cfg) for each in (context, without)]
        for cfg in (1.0, 3.0)
    }
    assert torch.equal(*edits[1.0]) and not torch.allclose(*edits[3.0])


def test_models_without_style_guidance_have_one_context_for_both_prompts(editor, styled):
    image, mask = torch.rand(1, 3, 64, 64), torch.ones(1, 64, 64)
    assert editor.encode(image, mask).negative_offset is None
    styled.model.transformer.context_encoder.naming.guidance = 0.0
    try:
        assert styled.encode(image, mask).negative_offset is None
    finally:
        styled.model.transformer.context_encoder.naming.guidance = 2.0


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 4])
def test_the_fill_tells_each_token_of_its_own_place(editor, filled, monkeypatch, window):
    """The fill's latents and the mask in a token are added to that token's context, whatever the encoder reads; nothing
    on padding.
    """
    for each in (editor, filled):
        monkeypatch.setattr(each.model.transformer, "config", replace(each.model.config, window=window))
    image, mask = torch.rand(2, 3, 144, 128), torch.zeros(2, 144, 128)
    mask[0, 90:120, :40] = mask[1, 20:30, 30:50] = 1
    context = filled.encode(image, mask)
    assert (context.view is None) == (window is None)
    embedder = filled.model.transformer.context_encoder.fill_embedder
    cells = torch.cat([context.latent, latent_mask(context.mask, context.grid)], 1).clone()
    told = torch.nn.functional.linear(
        context.hole.gather(patchify(cells, context.grid.patch)), embedder.weight, embedder.bias
    )
    added = context.tokens - editor.encode(image, mask).tokens
    valid = context.hole.valid
    assert torch.allclose(added[valid], told[valid], atol=1e-4) and told[valid].abs().max() > 0.1
    assert not added[~valid].any()


def test_the_hole_s_old_content_never_reaches_the_context(editor, filled):
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 10:41, 20:50] = 1
    other = torch.where(mask[:, None] > 0, torch.rand_like(image), image)
    for each in (editor, filled):
        assert torch.equal(each.encode(image, mask).tokens, each.encode(other, mask).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_moves(editor, kind):
    """36 random edits per kind of mask, odd sizes, batches of 1 and 2, all blends: 216 in all."""
    dice = random.Random(kind)
    for _ in range(36):
        height, width, batch = dice.randrange(16, 90), dice.randrange(16, 90), dice.choice([1, 1, 2])
        image = torch.rand(batch, 3, height, width)
        mask = torch.stack([random_mask(kind, height, width, dice) for _ in range(batch)])
        before, before_mask = image.clone(), mask.clone()
        context = editor.encode(image, mask)
        result = editor.decode(
            context, "red apple", seed=dice.randrange(2**32), steps=1, cfg=1.0, blend=dice.choice(BLENDS)
        )
        outside = (mask < 0.5)[:, None].expand_as(image)
        assert torch.equal(result[outside], image[outside])
        if mask.any():
            assert not torch.equal(result[~outside], image[~outside])
        assert torch.equal(image, before) and torch.equal(mask, before_mask)


def test_large_odd_canvas(editor):
    image, mask = torch.rand(2, 3, 389, 517), torch.zeros(1, 389, 517)
    mask[0, 100:140, 470:517] = 1
    context = editor.encode(image, mask)
    assert (context.grid.rows, context.grid.cols) == (25, 33)
    result = editor.decode(context, "apple", steps=2, blend="poisson")
    outside = (mask < 0.5).expand(2, -1, -1)[:, None].expand_as(image)
    assert torch.equal(result[outside], image[outside])


def test_same_seed_same_result(editor):
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 20:40, 20:40] = 1
    first, second, third = (editor.decode(editor.encode(image, mask), "red apple", seed=s, steps=3) for s in (5, 5, 6))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_grown_mask_keeps_the_noise(editor):
    image, small, large = torch.rand(1, 3, 96, 96), torch.zeros(1, 96, 96), torch.zeros(1, 96, 96)
    small[0, 40:60, 40:60] = 1
    large[0, 20:80, 30:90] = 1
    a, b = (editor.encode(image, mask) for mask in (small, large))
    places = {int(index): i for i, index in enumerate(b.hole.index[0])}
    common = [places[int(index)] for index in a.hole.index[0]]
    assert len(common) < b.hole.count
    assert torch.equal(hole_noise(a, 7)[0], hole_noise(b, 7)[0, common])


def test_empty_mask_returns_the_image(editor):
    image = torch.rand(2, 3, 40, 56)
    context = editor.encode(image, torch.zeros(2, 40, 56))
    assert context.hole.count == 0
    assert torch.equal(editor.decode(context, "apple"), image)


def test_one_empty_mask_in_a_batch(editor):
    image, mask = torch.rand(2, 3, 48, 48), torch.zeros(2, 48, 48)
    mask[1, 10:30, 10:30] = 1
    result = editor.decode(editor.encode(image, mask), "apple", steps=2)
    assert torch.equal(result[0], image[0]) and torch.isfinite(result).all()
    assert not torch.equal(result[1], image[1])


@pytest.mark.parametrize(
    "image, mask, message",
    [
        (torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 40), r"mask is 40 x 32 px, expected the image's 32 x 32"),
        (torch.full((1, 3, 32, 32), float("nan")), torch.zeros(1, 32, 32), "image holds NaN"),
        (torch.rand(1, 3, 32, 32), torch.full((1, 32, 32), float("inf")), "mask holds NaN"),
        (torch.rand(2, 3, 32, 32), torch.zeros(3, 32, 32), "3 masks came with 2 images"),
        (torch.rand(1, 3, 0, 64), torch.zeros(1, 0, 64), "image is 64 x 0 px, expected at least one pixel"),
    ],
)
def test_bad_input_is_explained(editor, image, mask, message):
    with pytest.raises(ValueError, match=message):
        editor.encode(image, mask)


def test_denoise_below_one_starts_from_the_old(editor):
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    context = editor.encode(image, mask)
    with torch.no_grad():
        old = context.hole.gather(patchify(editor.to_latent(image), 2))
        kept = torch.where(mask[:, None] > 0, editor.to_image(editor.to_latent(image)), image)
    asked, result = decode_with(editor, context, 0.25)
    assert torch.equal(asked[0][0], old) and asked[0][1] == 0.25
    # Only the hole's tokens hold the old content; latents around it were encoded with the hole filled.
    assert (result - kept)[mask[:, None].expand_as(image) > 0].abs().mean() < 0.1
    asked, _ = decode_with(editor, context, 1.0)
    assert (asked[0][0] == 0).all() and asked[0][1] == 1.0
    assert decode_with(editor, context, 0.0)[0] == []
