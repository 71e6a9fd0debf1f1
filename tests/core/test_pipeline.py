"""Encode once, decode often, in plain Python: 200 random edits, determinism, noise, sketch, checkpoints, cache."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lazy_core.cache import ContentCache, content_key
from lazy_core.checkpoint import CONFIG_KEY, load_model, read_checkpoint, save_checkpoint
from lazy_core.config import PRESETS, LazyConfig
from lazy_core.context import Context, StockTerms
from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.diffusion.sampling import dpmpp_2m, euler
from lazy_core.diffusion.schedule import shifted
from lazy_core.editor import LazyEditor
from lazy_core.masks import latent_mask
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.networks.decoder import Conditioning
from lazy_core.pipeline import hole_coordinates, hole_noise, lazy_decode
from lazy_core.sketch import add_edges, add_sketch
from lazy_core.text.tokenizer import build_tokenizer
from lazy_core.tokens import patchify

BLENDS = ("none", "feather", "poisson")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = LazyDiffusion(PRESETS["tiny"])
    initialise(model)
    with torch.no_grad():  # away from the zero start, or the result would depend on nothing
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    save_checkpoint(path, model, build_tokenizer(["red", "apple", "苹", "果"], 16), licence="MIT")
    return path


@pytest.fixture(scope="module")
def editor(checkpoint) -> LazyEditor:
    return LazyEditor.load(checkpoint)


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


def decode_with(editor: LazyEditor, context: Context, denoise: float) -> tuple[list, torch.Tensor]:
    """What the sampler was asked for (start, denoise), and the result when it hands back its start."""
    asked = []

    def sample(noise: torch.Tensor, start: torch.Tensor, share: float) -> torch.Tensor:
        asked.append((start, share))
        return start

    image, _ = lazy_decode(context, sample, editor.to_latent, editor.to_image, 0, denoise, "none")
    return asked, image


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


def test_sketch(editor):
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    context, sketch = editor.encode(image, mask), torch.zeros(1, 3, 64, 64)
    assert add_sketch(context, sketch, 0.0, editor.to_latent) is context
    sketched = add_sketch(context, sketch, 0.3, editor.to_latent)
    with torch.no_grad():
        drawn = editor.to_latent(torch.where(mask[:, None] > 0, sketch, image))
    asked, _ = decode_with(editor, sketched, 0.5)
    assert torch.equal(asked[0][0], context.hole.gather(patchify(drawn, 2)))
    assert asked[0][1] == pytest.approx(0.5 * 0.7)
    assert (
        decode_with(editor, add_sketch(context, sketch, 1.0, editor.to_latent), 1.0)[0] == []
    )  # kept as drawn: nothing to denoise
    partly = add_sketch(context, sketch, 0.3, editor.to_latent, where=torch.zeros(1, 64, 64))
    assert partly.sketch is not None and sketched.sketch is not None
    assert not torch.equal(partly.sketch.tokens, sketched.sketch.tokens)
    with pytest.raises(ValueError, match=r"strength is 1\.5, expected 0"):
        add_sketch(context, sketch, 1.5, editor.to_latent)
    with pytest.raises(ValueError, match=r"sketch is 32 x 64 px, expected the canvas's 64 x 64"):
        add_sketch(context, sketch[..., :32], 0.5, editor.to_latent)


@pytest.fixture(scope="module")
def tracer(checkpoint) -> LazyEditor:
    """The same model with a place for edges, as if trained on them."""
    plain = LazyEditor.load(checkpoint)
    model = LazyDiffusion(replace(PRESETS["tiny"], edges=True)).eval()
    weights = plain.model.state_dict()
    added = {key: torch.randn_like(value) for key, value in model.state_dict().items() if key not in weights}
    assert {key.rpartition(".")[0] for key in added} == {"transformer.decoder.edge_embedder"}
    model.load_state_dict({**weights, **added})
    return LazyEditor(model, plain.tokenizer, plain.identity)


def test_edges(editor, tracer):
    image, mask = torch.rand(1, 3, 61, 64), torch.zeros(1, 61, 64)
    mask[0, 16:48, 16:60] = 1
    drawing = torch.zeros(1, 3, 61, 64)
    drawing[..., 20:40, 30] = 1
    context = tracer.encode(image, mask)
    assert add_edges(context, drawing, 0.0) is context
    lined, inverse, half = (add_edges(context, x, s) for x, s in ((drawing, 1.0), (1 - drawing, 1.0), (drawing, 0.5)))
    assert lined.edges is not None and inverse.edges is not None and half.edges is not None
    assert torch.equal(lined.edges, inverse.edges), "dark on light and light on dark are the same lines"
    assert torch.equal(half.edges, lined.edges / 2) and lined.edges.sum() == 20
    token = context.hole.index[0].tolist().index(1 * context.grid.cols + 1)  # rows and columns 16 to 32
    assert torch.equal(lined.edges[0, token].view(16, 16)[4:, 14], torch.ones(12))
    results = [tracer.decode(known, "red apple", 3, 2, blend="none") for known in (context, lined, half)]
    changed = [(result - results[0]).abs().mean() for result in results[1:]]
    assert changed[0] > changed[1] > 0
    assert all(torch.equal(result[:, :, mask[0] == 0], image[:, :, mask[0] == 0]) for result in results)
    nothing = add_edges(context, drawing, 1.0, where=torch.zeros(1, 61, 64))
    assert torch.equal(
        tracer.decode(nothing, "red apple", 3, 2),
        tracer.decode(add_edges(context, 0 * drawing, 1.0), "red apple", 3, 2),
    )
    with pytest.raises(ValueError, match=r"not trained with edge maps\. Draw a colour sketch"):
        editor.decode(add_edges(editor.encode(image, mask), drawing, 1.0), "red apple")
    with pytest.raises(ValueError, match="stock checkpoint"):
        add_edges(context.with_(stock=StockTerms("fast")), drawing, 1.0)


def test_no_edges_are_empty_edges(tracer):
    """Training gives empty drawings where nobody drew; an edit without a sketch must mean the same to the network."""
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:60] = 1
    context = tracer.encode(image, mask)
    assert tracer.model.transformer.decoder.edge_embedder.bias.abs().max() > 0.1
    empty = context.with_(edges=torch.zeros(1, context.hole.count, 256))
    assert torch.equal(tracer.decode(context, "red apple", 3, 2), tracer.decode(empty, "red apple", 3, 2))


def test_edges_of_a_batch_of_different_holes(tracer):
    """Packed or one by one: each image follows its own lines."""
    image, mask, drawing = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64), torch.zeros(2, 3, 64, 64)
    mask[0, :16, :16], mask[1] = 1, 1
    drawing[0, :, 3:9, 8], drawing[1, :, :, 40] = 1, 1
    context = add_edges(tracer.encode(image, mask), drawing, 1.0)
    edges, padding = context.edges, context.hole.token_mask
    assert edges is not None and padding is not None
    decoder, caption = tracer.model.transformer.decoder, tracer.caption(["apple"])
    noise = context.hole.gather(torch.randn(2, context.hole.total, 16))
    coordinates = hole_coordinates(context, tracer.model.transformer)

    def output(rows: slice, packed: bool, edges: torch.Tensor = edges) -> torch.Tensor:
        """Of one decoder pass on some of the images, padding cut off where there is one image."""
        count = int(context.hole.valid[rows].sum(1).max())
        keys = padding[rows, :count]
        texts = caption.expand(len(keys), -1, -1)
        conditioning = Conditioning(
            context.tokens[rows, :count], coordinates[rows, :count], texts, keys, edges=edges[rows, :count]
        )
        given = decoder.prepare(conditioning, shared_timestep=packed)
        return decoder.step(noise[rows, :count], torch.full((len(keys),), 500.0), given)

    with torch.no_grad():
        together, alone = output(slice(0, 2), packed=True), [output(slice(i, i + 1), packed=False) for i in range(2)]
        for i, one in enumerate(alone):
            assert torch.allclose(together[i : i + 1, : one.shape[1]], one, atol=1e-4)
        swapped = output(slice(0, 1), packed=False, edges=edges.flip(0))
        assert not torch.allclose(swapped, alone[0], atol=1e-3), "another image's lines would be seen"


def test_edge_padding_repeats_nothing_of_the_hole(editor):
    """41 x 55 px are padded to whole tokens; the hole lies at the padded edges."""
    image, mask = torch.rand(1, 3, 41, 55), torch.zeros(1, 41, 55)
    mask[0, 25:, 20:] = 1
    other = torch.where(mask[:, None] > 0, torch.rand_like(image), image)
    first, second = (editor.encode(canvas, mask) for canvas in (image, other))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.latent, second.latent)


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_schedules_fall_to_zero(prediction):
    model = parametrisation(prediction)
    levels = model.sigmas(10)
    assert len(levels) == 11 and levels[-1] == 0 and (levels.diff() < 0).all()
    assert torch.allclose(model.sigmas(5, 0.5), levels[-6:])
    with pytest.raises(ValueError, match="steps is 0"):
        model.sigmas(0)


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_a_right_output_leads_back_to_the_clean_tokens(prediction):
    """What a perfect network puts out for x is `target`: the clean tokens and dx/dsigma follow from it, at every noise
    level.
    """
    model, draw = parametrisation(prediction), torch.Generator().manual_seed(0)
    clean, noise = torch.randn(3, 5, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    sigma = model.training_sigma(torch.tensor([0.2, 0.5, 0.9]))
    level = sigma.view(-1, 1, 1)
    x, output = model.add_noise(clean, noise, level), model.target(clean, noise)
    assert (sigma.diff() > 0).all() and (model.loss_weight(sigma) > 0).all()
    torch.testing.assert_close(model.to_x0(output, x, level), clean, atol=1e-4, rtol=1e-4)
    step = 1e-3
    slope = (model.add_noise(clean, noise, level + step) - x) / step
    torch.testing.assert_close(model.to_velocity(output, x, model.timestep(sigma)), slope, atol=5e-3, rtol=5e-3)


def test_checkpoint_round_trip(checkpoint):
    model, read = load_model(checkpoint)
    again = checkpoint.with_name("again.safetensors")
    save_checkpoint(again, model, read.tokenizer, licence="MIT")
    other, second = load_model(again)
    assert second.config == read.config and second.metadata["licence"] == "MIT"
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_damaged_checkpoints_are_explained(checkpoint, tmp_path):
    weights, metadata = load_file(checkpoint), read_checkpoint(checkpoint).metadata
    missing = {k: v for k, v in weights.items() if k != "transformer.decoder.x_embedder.weight"} | {
        "stranger": torch.zeros(1)
    }
    wrong = weights | {"transformer.decoder.x_embedder.bias": torch.zeros(3)}
    cases = {
        "missing": (
            missing,
            metadata,
            r"1 missing \(transformer\.decoder\.x_embedder\.weight\); 1 unexpected \(stranger\)",
        ),
        "wrong": (wrong, metadata, r"x_embedder\.bias is \(3,\), expected \(48,\)"),
        "stock": (weights, {"format": "pt"}, "is no LazyDiffusion checkpoint"),
        "newer": (weights, metadata | {CONFIG_KEY: json.dumps({"format": 99})}, "newer than this pack's"),
        "field": (
            weights,
            metadata | {CONFIG_KEY: json.dumps({"format": 1, "wings": 2})},
            "config field wings is unknown",
        ),
        "config": (weights, metadata | {CONFIG_KEY: "{"}, "malformed config"),
    }
    for name, (tensors, notes, message) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata=notes)
        with pytest.raises(ValueError, match=message):
            load_model(path)
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load_model(truncated)
    pickled = tmp_path / "model.ckpt"
    torch.save(weights, pickled)
    with pytest.raises(ValueError, match="pickled checkpoints are never loaded"):
        load_model(pickled)


def test_config_json_round_trip():
    for config in PRESETS.values():
        assert LazyConfig.from_json(config.to_json()) == config


def test_cache_is_bounded_and_content_addressed(editor):
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    size = editor.encode(image, mask).get_ram_usage()
    cache: ContentCache[Context] = ContentCache(limit=int(2.5 * size))
    images = [image, image + 0.001, image + 0.002, image]
    ran = [cache.get_or_make(content_key(i, mask, "model"), lambda i=i: editor.encode(i, mask))[1] for i in images]
    assert ran == [True, True, True, True]  # the third pushed the first out
    assert len(cache) == 2 and cache.bytes <= cache.limit and cache.runs == 4
    assert (
        cache.get_or_make(content_key(image.clone(), mask, "model"), lambda: pytest.fail("encoded again"))[1] is False
    )
    assert content_key(image, mask, "a") != content_key(image, mask, "b") != content_key(mask, image, "b")
    assert content_key(image.view(1, 3, 16, 64), "a") != content_key(image, "a")


def test_cache_gives_way_when_memory_is_short(editor):
    """What is dropped is made again: never an error, never more than the machine has."""
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    make = lambda: editor.encode(torch.rand(1, 3, 32, 32), mask)  # noqa: E731
    size, left = make().get_ram_usage(), 1 << 40
    cache: ContentCache[Context] = ContentCache(limit=10 * size, free=lambda: left, reserve=1000)
    for key in "abcd":
        cache.get_or_make(key, make)
    assert len(cache) == 4
    left = 1000 - size  # something else took the memory: one value too many
    assert cache.get_or_make("d", make)[1] is False
    assert len(cache) == 3 and cache.bytes == 3 * size
    left = 0
    assert cache.get_or_make("e", make)[1] is True
    left = 1 << 40
    assert cache.get_or_make("f", make)[1] is True
    assert cache.bytes == len(cache) * size


def test_cache_is_shared_by_threads(editor):
    """Queued prompts and other threads: counts and bytes stay right."""
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    value = editor.encode(torch.rand(1, 3, 32, 32), mask)
    cache: ContentCache[Context] = ContentCache(limit=3 * value.get_ram_usage())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: cache.get_or_make(str(i % 7), lambda: value), range(400)))
    assert len(cache) == 3
    assert cache.bytes == 3 * value.get_ram_usage()


def test_context_is_a_value(editor):
    context = editor.encode(torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32))
    with pytest.raises(AttributeError):
        context.model = "other"  # type: ignore[misc]
    assert sum(t.nbytes for t in context._comfy_cache_tensors()) == context.get_ram_usage() > 0
    assert len(repr(context)) < 120
    assert all(t.device.type == "cpu" for t in context.tensors())


def test_shifted_levels_keep_their_ends():
    levels = parametrisation("flow_x0").sigmas(8)
    for shift in (0.5, 1.0, 3.0):
        moved = shifted(levels, shift)
        assert moved[0] == 1 and moved[-1] == 0 and (moved.diff() < 0).all()
    assert torch.equal(shifted(levels, 1.0), levels) and (shifted(levels, 3.0)[1:-1] > levels[1:-1]).all()


def test_a_checkpoint_brings_its_shift(checkpoint, tmp_path):
    """The config's shift is what `decode` uses unless told otherwise; a file without the field, as older ones are, has
    none.
    """
    model, read = load_model(checkpoint)
    config = json.loads(read.config.to_json())
    del config["shift"]
    assert LazyConfig.from_json(json.dumps(config)).shift == 1.0
    model.config = replace(model.config, shift=2.5)
    save_checkpoint(tmp_path / "shifted.safetensors", model, read.tokenizer)
    plain, moved = (LazyEditor.load(path) for path in (checkpoint, tmp_path / "shifted.safetensors"))
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    context = plain.encode(image, mask)
    moves, stays = plain.decode(context, "red apple", 3, shift=2.5), plain.decode(context, "red apple", 3)
    assert torch.equal(moved.decode(context, "red apple", 3), moves) and not torch.equal(moves, stays)
    assert torch.equal(moved.decode(context, "red apple", 3, shift=1.0), stays)


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_the_second_order_solver_is_nearer_the_truth(prediction):
    """Normal data, for which the perfect denoiser is linear; the truth is Euler in a thousand steps."""
    mean, deviation = 0.5, 0.4

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = sigma.view(-1, 1, 1).to(x)
        signal = 1 - level if prediction == "flow_x0" else torch.ones_like(level)
        return mean + signal * deviation**2 / (signal**2 * deviation**2 + level**2) * (x - signal * mean)

    noise = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def solve(solver, steps: int) -> torch.Tensor:
        levels = parametrisation("flow_x0").sigmas(steps).double()
        levels = levels if prediction == "flow_x0" else 9 * levels**2 + 0.02 * levels
        x = noise * levels[0]
        return solver(denoise, x, levels)

    truth = solve(euler, 1000)
    first = (solve(euler, 30) - truth).abs().mean()
    second = (solve(dpmpp_2m, 30) - truth).abs().mean()
    print(f"{prediction}: Euler is off by {first:.4f}, 2M by {second:.4f}")
    assert second < 0.7 * first
    assert torch.allclose(solve(dpmpp_2m, 1), solve(euler, 1))
