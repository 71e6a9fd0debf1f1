"""Gather and scatter are exact inverses, padding is inert, the encoder never sees the hole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lazy_core.config import PRESETS
from lazy_core.geometry import Grid
from lazy_core.masks import hole_token_mask, latent_mask
from lazy_core.model import initialise
from lazy_core.networks.context_encoder import StyleEmbedder
from lazy_core.networks.decoder import Conditioning
from lazy_core.networks.layers import Build
from lazy_core.networks.layout import Packed, Padded
from lazy_core.networks.positions import grid_coordinates
from lazy_core.networks.transformer import LazyTransformer
from lazy_core.tokens import HoleTokens, from_strip, patchify, to_strip, unpatchify

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model() -> LazyTransformer:
    torch.manual_seed(0)
    model = LazyTransformer(TINY)
    initialise(model)
    with torch.no_grad():  # leave the zero start, or nothing would depend on anything
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def random_mask(batch: int, tokens: int, share: float, seed: int) -> torch.Tensor:
    return torch.rand(batch, tokens, generator=torch.Generator().manual_seed(seed)) < share


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (2, 3, 6, 14), (3, 8, 2, 2)])
def test_patchify_and_strip_invert(shape):
    latent = torch.randn(shape)
    tokens = patchify(latent, 2)
    assert torch.equal(unpatchify(tokens, 2, shape[2] // 2, shape[3] // 2), latent)
    assert torch.equal(from_strip(to_strip(tokens, 2), 2), tokens)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("patch", [1, 2, 16])
def test_cut_and_scatter_invert(share, patch):
    latent, mask = torch.randn(3, 4, 5 * patch, 7 * patch), random_mask(3, 35, share, 1)
    before, hole = latent.clone(), HoleTokens.of(mask)
    tokens = hole.cut(latent, patch)
    assert hole.count == int(mask.sum(1).max())
    assert torch.equal(tokens, hole.gather(patchify(latent, patch)))
    assert torch.equal(hole.scatter(tokens, latent, patch), latent)
    changed, all_tokens = patchify(hole.scatter(tokens + 1, latent, patch), patch), patchify(latent, patch)
    assert torch.equal(changed[mask], all_tokens[mask] + 1)
    assert torch.equal(changed[~mask], all_tokens[~mask])
    assert (tokens[~hole.valid] == 0).all()
    strided = latent.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(hole.cut(strided, patch), tokens)
    assert torch.equal(patchify(hole.scatter(tokens + 1, strided, patch), patch), changed)
    assert torch.equal(latent, before)


def test_disjoint_holes_are_one_set():
    grid = Grid(64, 96, 8, 2)
    pixels = torch.zeros(1, 64, 96, dtype=torch.bool)
    pixels[0, 0, 0] = pixels[0, 63, 95] = pixels[0, 17, 33] = True
    hole = HoleTokens.of(hole_token_mask(pixels, grid))
    assert hole.index.tolist() == [[0, 8, 23]]


def test_any_masked_pixel_makes_its_token_a_hole():
    grid = Grid(389, 517, 8, 2)
    pixels = torch.zeros(1, 389, 517, dtype=torch.bool)
    pixels[0, 388, 516] = True
    assert hole_token_mask(pixels, grid).nonzero().tolist() == [[0, grid.tokens - 1]]
    assert latent_mask(pixels, grid).shape == (1, 1, *grid.latent_size)


@torch.no_grad()
def test_padding_is_inert(model):
    """An image in a batch beside one with a larger hole gets what it gets alone."""
    grid = Grid(128, 128, 8, 2)
    mask = torch.stack(
        [
            random_mask(1, grid.tokens, 0.1, 2)[0],
            random_mask(1, grid.tokens, 0.6, 3)[0],
            torch.zeros(grid.tokens, dtype=torch.bool),
        ]
    )
    latent, noise, caption = torch.randn(3, 4, 16, 16), torch.randn(3, 4, 16, 16), torch.randn(3, 5, TINY.caption_width)
    both = decode(model, grid, latent, noise, mask, caption)
    alone = decode(model, grid, latent[:1], noise[:1], mask[:1], caption[:1])
    assert torch.allclose(both[:1, : alone.shape[1]], alone, atol=1e-5)
    assert torch.isfinite(both).all()


def decode(model, grid, latent, noise, mask, caption):
    hole = HoleTokens.of(mask)
    coordinates = grid_coordinates(grid, TINY)
    cells = mask.view(-1, 1, grid.rows, grid.cols).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    context = model.context_encoder(latent, cells, hole, coordinates).tokens
    conditioning = Conditioning(context, hole.gather(coordinates.expand(len(mask), -1, -1)), caption, hole.token_mask)
    return model.decoder(hole.gather(patchify(noise, 2)), torch.full((len(mask),), 300.0), conditioning)


@torch.no_grad()
def test_packed_steps_equal_padded_ones_without_their_cost(model):
    """Holes of 6, 38 and 0 tokens: the same tokens out, zeros on padding, and the operations of the holes alone."""
    valid = torch.zeros(3, 38, dtype=torch.bool)
    valid[0, :6] = valid[1] = True
    valid[2, 0] = True  # an image without a hole keeps one key
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))  # noqa: E731
    decoder, x, timestep = model.decoder, draw(3, 38, 16), torch.full((3,), 300.0)
    conditioning = Conditioning(draw(3, 38, TINY.encoder_width), draw(3, 38, 2), draw(3, 5, TINY.caption_width), valid)
    padded, packed = decoder.prepare(conditioning), decoder.prepare(conditioning, shared_timestep=True)
    assert isinstance(packed.layout, Packed) and packed.layout.lengths == (6, 38, 1)
    assert torch.allclose(decoder.step(x, timestep, packed)[valid], decoder.step(x, timestep, padded)[valid], atol=1e-5)
    assert not decoder.step(x, timestep, packed)[~valid].any()
    costs = []
    for given in (padded, packed):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            decoder.step(x, timestep, given)
        costs.append(counter.get_total_flops())
    print(
        f"a batch of 6, 38 and 1 tokens: packed {costs[1] / costs[0]:.2f} of the padded operations; tokens"
        f" {45 / 114:.2f}"
    )
    assert costs[1] < 0.45 * costs[0]


@torch.no_grad()
def test_packing_is_left_alone_where_it_gains_nothing(model):
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[0, -1] = False
    inputs = (torch.randn(2, 20, TINY.encoder_width), torch.randn(2, 20, 2), torch.randn(2, 5, TINY.caption_width))
    for mask in (valid, None):
        layout = model.decoder.prepare(Conditioning(*inputs, mask), shared_timestep=True).layout
        assert isinstance(layout, Padded) and layout.token_mask is mask and layout.caption_mask is None


def test_packing_and_its_inverse():
    valid = torch.rand(5, 13, generator=torch.Generator().manual_seed(0)) < 0.4
    tokens = torch.randn(5, 13, 7)
    packing = Packed.of(valid)
    packed = packing.pack(tokens)
    assert packed.shape == (1, int(valid.sum()), 7)
    assert sum(packing.lengths) == packed.shape[1]
    assert torch.equal(packing.unpack(packed, tokens), tokens * valid[..., None])


@torch.no_grad()
def test_hole_content_is_never_seen(model):
    grid = Grid(128, 96, 8, 2)
    pixels = torch.zeros(1, 128, 96, dtype=torch.bool)
    pixels[0, 20:50, 10:70] = True
    mask, hole = latent_mask(pixels, grid), HoleTokens.of(hole_token_mask(pixels, grid))
    latent = torch.randn(1, 4, *grid.latent_size)
    other = torch.where(mask > 0, torch.randn_like(latent) * 100, latent)
    encode = lambda canvas: model.context_encoder(canvas, mask, hole, grid_coordinates(grid, TINY)).tokens  # noqa: E731
    assert torch.equal(encode(latent), encode(other))
    elsewhere = latent.clone()
    elsewhere[0, :, -1, -1] += 1  # a visible latent far away reaches the hole
    assert not torch.allclose(encode(latent), encode(elsewhere))


def logits_of(naming: StyleEmbedder, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """By the head over the context: what can be seen elsewhere does not matter."""
    return naming.logits(torch.empty(0), torch.empty(0), tokens, valid)


def name(naming: StyleEmbedder, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    return naming(tokens, valid, logits_of(naming, tokens, valid))


@torch.no_grad()
def test_every_token_is_told_the_style_that_its_own_hole_names():
    torch.manual_seed(1)
    naming = StyleEmbedder(replace(TINY, styles=3), Build())
    torch.nn.init.normal_(naming.table)
    valid = torch.zeros(4, 9, dtype=torch.bool)
    valid[0, :5] = valid[1, :9] = valid[2, :1] = True  # and an image without a hole
    tokens = torch.randn(4, 9, TINY.encoder_width) * valid[..., None]
    named = name(naming, tokens, valid)
    assert torch.equal(named[~valid], tokens[~valid]) and torch.isfinite(named).all()
    for image in range(3):
        own = tokens[image : image + 1, valid[image]]
        assert torch.allclose(
            named[image, valid[image]], name(naming, own, torch.ones(own.shape[:2], dtype=torch.bool))[0], atol=1e-5
        )
    assert naming.head is not None
    naming.head.get_parameter("bias").copy_(torch.tensor([-100.0, 100.0, -100.0]))
    assert torch.allclose(name(naming, tokens, valid)[valid] - tokens[valid], naming.table[1].expand(15, -1), atol=1e-5)


@torch.no_grad()
def test_the_negative_prompt_is_told_other_styles():
    """At 1 the styles' mean, at 1.5 the mean of the two that are not named, at 0 and where none is named nothing
    else.
    """
    torch.manual_seed(1)
    tokens, valid = torch.randn(2, 9, TINY.encoder_width), torch.ones(2, 9, dtype=torch.bool)

    def named(guidance: float, certain: float = 100.0) -> StyleEmbedder:
        torch.manual_seed(2)
        naming = StyleEmbedder(replace(TINY, styles=3, style_guidance=guidance), Build())
        torch.nn.init.normal_(naming.table)
        assert naming.head is not None
        naming.head.get_parameter("weight").zero_()
        naming.head.get_parameter("bias").copy_(torch.tensor([-certain, certain, -certain]))
        return naming

    for guidance, wanted in ((1.0, [1 / 3, 1 / 3, 1 / 3]), (1.5, [0.5, 0.0, 0.5]), (0.0, [0.0, 1.0, 0.0])):
        naming = named(guidance)
        logits = logits_of(naming, tokens, valid)
        told = naming.style_embedding(logits) + naming.negative_offset(logits)
        assert torch.allclose(told, torch.tensor(wanted) @ naming.table.expand(3, -1), atol=1e-5)
    undecided = named(3.0, certain=0.0)
    assert undecided.negative_offset(logits_of(undecided, tokens, valid)).abs().max() < 1e-5


@torch.no_grad()
def test_a_decisive_model_tells_one_style_but_learns_from_all():
    torch.manual_seed(1)
    naming = StyleEmbedder(replace(TINY, styles=3, style_guidance=1.0, style_decisive=True), Build())
    torch.nn.init.normal_(naming.table)
    logits = torch.tensor([[0.1, 0.3, 0.2], [2.0, 0.0, 1.9]])
    mixed = logits.softmax(-1) @ naming.table
    assert torch.allclose(naming.train().style_embedding(logits), mixed)
    assert torch.equal(naming.eval().style_embedding(logits), naming.table[[1, 0]])
    assert torch.allclose(naming.negative_offset(logits), naming.table.mean(0) - naming.table[[1, 0]])
    undecided = StyleEmbedder(replace(TINY, styles=3), Build()).eval()
    undecided.table.copy_(naming.table)
    assert torch.allclose(undecided.style_embedding(logits), mixed)


@torch.no_grad()
def test_a_reader_names_the_style_from_all_that_is_visible_and_nothing_else():
    torch.manual_seed(1)
    encoder = LazyTransformer(replace(TINY, styles=3, style_depth=1)).context_encoder
    torch.nn.init.normal_(encoder.naming.table)  # type: ignore[union-attr]
    grid, pixels = Grid(64, 80, 8, 2), torch.zeros(2, 64, 80, dtype=torch.bool)
    pixels[0, 20:50, 10:70], pixels[1, :16, :16] = True, True
    mask, hole, places = (
        latent_mask(pixels, grid),
        HoleTokens.of(hole_token_mask(pixels, grid)),
        grid_coordinates(grid, TINY),
    )
    latent = torch.randn(2, 4, *grid.latent_size)
    told, logits, _ = encoder(latent, mask, hole, places)
    assert logits is not None

    def named(canvas: torch.Tensor) -> torch.Tensor:
        found = encoder(
            canvas, mask[: len(canvas)], HoleTokens.of(hole_token_mask(pixels[: len(canvas)], grid)), places
        ).style_logits
        assert found is not None
        return found

    inside = torch.where(mask > 0, torch.randn_like(latent) * 100, latent)
    assert torch.equal(named(inside), logits)
    far = latent.clone()
    far[:, :, -1, -1] += 1
    assert not torch.allclose(named(far), logits)
    assert torch.allclose(named(latent[:1])[0], logits[0], atol=1e-5)
    wanted = logits.softmax(-1) @ encoder.naming.table  # type: ignore[union-attr]
    encoder.naming.table.zero_()  # type: ignore[union-attr]
    added = told - encoder(latent, mask, hole, places).tokens
    assert torch.allclose(added[hole.valid], wanted[:, None].expand_as(added)[hole.valid], atol=1e-5)
