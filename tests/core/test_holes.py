"""Several holes in one mask: each is a row, with a window and tokens of its own, wherever the others lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lazy_core.config import PRESETS
from lazy_core.context import Context, View
from lazy_core.context_pack import taken
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.holes import MOST, hole_rows, windows_around
from lazy_core.masks import hole_token_mask, latent_mask
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.networks.positions import grid_coordinates
from lazy_core.pipeline import encode_context, hole_coordinates, hole_noise, lazy_decode, read_holes, tokens_read
from lazy_core.sketch import add_edges, add_sketch
from lazy_core.text.tokenizer import build_tokenizer
from lazy_core.tokens import HoleTokens, patchify
from lazy_core.vae.windows import decode_windows

TOKEN = 16  # px
CONFIG = replace(PRESETS["tiny"], window=8, edges=True, styles=3, style_guidance=2.0, fill=True)


@pytest.fixture(scope="module")
def editor() -> LazyEditor:
    torch.manual_seed(0)
    model = LazyDiffusion(CONFIG)
    initialise(model)
    with torch.no_grad():  # away from the zero start, or the result would depend on nothing
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return LazyEditor(model.eval(), build_tokenizer(["red", "apple"], 16))


def holes(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    """Mask [1, H, W] with a hole in each box (top, left, bottom, right) in px."""
    mask = torch.zeros(1, height, width)
    for top, left, bottom, right in boxes:
        mask[:, top:bottom, left:right] = 1
    return mask


def rows_of(mask: Tensor, window: int | None = 16) -> tuple[HoleTokens, Grid]:
    grid = Grid(mask.shape[-2], mask.shape[-1], 8, 2)
    return hole_rows(mask > 0, grid, window), grid


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# -- which holes are edits of their own
# ---------------------------------------------------------------------------------
def ring(side: int, inner: float, outer: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    distance = ((y - side / 2) ** 2 + (x - side / 2) ** 2).sqrt()
    return ((distance >= inner) & (distance <= outer)).float()[None]


def frame(side: int, width: int) -> Tensor:
    return 1 - holes(side, side, (width, width, side - width, side - width))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (holes(512, 512, (32, 32, 80, 80), (432, 432, 480, 480)), 2),
        (holes(256, 256, (0, 0, 48, 48), (0, 208, 48, 256), (208, 0, 256, 48), (208, 208, 256, 256)), 4),
        (holes(256, 256, (100, 40, 150, 90), (100, 97, 150, 150)), 1),  # 7 px apart
        (holes(256, 256, (100, 40, 150, 90), (100, 105, 150, 150)), 2),  # 15 px apart
        (holes(512, 512, (50, 50, 500, 500)), 1),  # larger than the encoder's window
        (holes(512, 512, (0, 300, 90, 512)), 1),
        (frame(512, 20), 1),
        (ring(512, 150, 180), 1),
        (ring(512, 150, 180) + ring(512, 0, 60), 2),
        (holes(512, 512, (0, 0, 512, 512)), 1),
        (holes(300, 500, (0, 0, 40, 40), (270, 460, 300, 500)), 2),  # the last tokens are padded
    ],
)
def test_connected_holes_are_rows(mask: Tensor, expected: int):
    hole, grid = rows_of(mask)
    assert len(hole.index) == expected
    assert torch.equal(hole.owners, torch.zeros(expected, dtype=torch.int64))
    marks = hole.scatter(torch.ones(expected, hole.count, 4), torch.zeros(1, 1, *grid.latent_size), 2)
    assert torch.equal(patchify(marks, 2)[..., 0] > 0, hole_token_mask(mask > 0, grid)), "no token is lost"
    assert int(hole.valid.sum()) == int(hole_token_mask(mask > 0, grid).sum()), "no token is in two rows"
    assert all((row[valid].diff() > 0).all() for row, valid in zip(hole.index, hole.valid, strict=True))


def test_specks_belong_to_what_is_near():
    """A speck of 10 px joins the hole 20 px away and leaves the one 100 px away alone; far from everything it stays by
    itself.
    """
    big = (100, 100, 160, 160)
    assert len(rows_of(holes(512, 512, big, (100, 180, 110, 190)))[0].index) == 1
    assert len(rows_of(holes(512, 512, big, (100, 260, 110, 270)))[0].index) == 2
    assert len(rows_of(holes(512, 512, big, (100, 180, 150, 230)))[0].index) == 2, "50 px, 20 px away, are no speck"


def dispersed(kind: str, side: int) -> Tensor:
    mask = torch.zeros(1, side, side)
    if kind == "lattice":
        mask[:, ::40, ::40] = 1
    elif kind == "dither":
        mask = (picture(side, side)[:, 0] < 0.5).float()
    else:
        for y, x in torch.randint(side - 4, (int(kind), 2), generator=torch.Generator().manual_seed(0)).tolist():
            mask[0, y : y + 3, x : x + 3] = 1
    return mask


@pytest.mark.parametrize("side", [256, 2048])
@pytest.mark.parametrize("kind", ["30", "400", "3000", "lattice", "dither"])
def test_dispersed_masks_do_not_explode(kind: str, side: int):
    mask = dispersed(kind, side)
    hole, grid = rows_of(mask)
    assert 1 <= len(hole.index) <= MOST
    assert int(hole.valid.sum()) == int(hole_token_mask(mask > 0, grid).sum())
    read = sum(box.area for box in windows_around(hole, grid, 16)) or len(hole.index) * grid.tokens
    print(f"{kind} on {side} px: {len(hole.index)} rows, which read {read} tokens")
    assert read <= max(MOST * 16 * 16, 2.5 * grid.tokens)


def test_the_nearest_are_joined_beyond_the_maximum():
    """40 holes in 20 pairs, far apart, and none of more than two in the end."""
    boxes = [
        (y, x + dx, y + 48, x + dx + 48) for y in range(0, 1600, 400) for x in range(0, 2000, 400) for dx in (0, 80)
    ]
    hole, _ = rows_of(holes(1600, 2000, *boxes))
    sizes = hole.valid.sum(1)
    assert len(boxes) == 40 and len(sizes) == MOST
    assert sorted(sizes.tolist()) == [9] * 24 + [18] * 8


def test_rows_of_a_batch():
    """Two holes, none, one: rows in order, none for the image without a hole; one hole each is what it always was."""
    masks = torch.cat(
        [holes(256, 256, (0, 0, 40, 40), (200, 200, 250, 250)), holes(256, 256), holes(256, 256, (90, 90, 140, 100))]
    )
    hole, grid = rows_of(masks)
    assert hole.owner is not None and hole.owner.tolist() == [0, 0, 2]
    one_each, _ = rows_of(masks[[2, 2]])
    plain = HoleTokens.of(hole_token_mask(masks[[2, 2]] > 0, grid))
    assert one_each.owner is None and one_each.owners.tolist() == [0, 1]
    assert torch.equal(one_each.index, plain.index) and torch.equal(one_each.valid, plain.valid)
    assert len(rows_of(masks[[1, 1]])[0].index) == 0


# -- reading
# ------------------------------------------------------------------------------------------------------------
FAR = [(32, 32, 80, 80), (432, 432, 480, 480)]
NEAR = [(32, 32, 64, 64), (32, 96, 64, 128)]


def test_far_holes_are_read_as_if_they_were_alone(editor: LazyEditor):
    image = picture(512, 512)
    both = editor.encode(image, holes(512, 512, *FAR))
    assert both.tokens.shape[0] == 2 and both.view is not None and both.view.sizes is None
    for row, box in enumerate(FAR):
        alone = editor.encode(image, holes(512, 512, box))
        assert torch.allclose(both.tokens[row], alone.tokens[0], atol=1e-5)
        assert torch.allclose(both.negative_tokens[row], alone.negative_tokens[0], atol=1e-5)
        coords = [hole_coordinates(context, editor.model.transformer) for context in (both, alone)]
        assert torch.equal(coords[0][row], coords[1][0])


def test_far_holes_become_what_they_become_alone(editor: LazyEditor):
    """Same seed, same noise, same pixels: one prompt means an object in each."""
    image = picture(512, 512)
    both = editor.decode(editor.encode(image, holes(512, 512, *FAR)), "red apple", 5, 3, blend="poisson")
    for top, left, bottom, right in FAR:
        alone = editor.decode(
            editor.encode(image, holes(512, 512, (top, left, bottom, right))), "red apple", 5, 3, blend="poisson"
        )
        part = (..., slice(top, bottom), slice(left, right))
        assert torch.allclose(both[part], alone[part], atol=1e-4)
        assert (both[part] - image[part]).abs().mean() > 0.05
    outside = (holes(512, 512, *FAR) < 0.5)[:, None].expand_as(image)
    assert torch.equal(both[outside], image[outside])


def test_a_hole_sees_the_fill_of_another_one(editor: LazyEditor, monkeypatch: pytest.MonkeyPatch):
    """The other hole in a window is masked for its own row alone; what was in it is never seen."""
    seen: list[Tensor] = []
    encoder = editor.model.transformer.context_encoder
    read = encoder.forward
    monkeypatch.setattr(
        encoder, "forward", lambda canvas, mask, *rest: (seen.append(mask), read(canvas, mask, *rest))[1]
    )
    image, mask = picture(160, 160), holes(160, 160, *NEAR)
    first = editor.encode(image, mask)
    cells = latent_mask(mask > 0, first.grid)
    assert len(seen) == 1 and seen[0].shape[0] == 2
    assert [int(own.sum()) for own in seen[0]] == [16, 16] and int(cells.sum()) == 32
    assert not (seen[0][0] * seen[0][1]).any()
    second = editor.encode(torch.where(mask[:, None] > 0, picture(160, 160, seed=1), image), mask)
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.latent, second.latent)


def test_each_window_is_as_large_as_its_own_hole_asks_for(editor: LazyEditor):
    image, boxes = picture(640, 640), [(16, 16, 48, 48), (240, 240, 560, 400)]
    context = editor.encode(image, holes(640, 640, *boxes))
    assert context.view is not None and context.view.sizes is not None
    assert context.view.sizes.tolist() == [[8, 8], [24, 14]] and (context.view.grid.rows, context.view.grid.cols) == (
        24,
        14,
    )
    with torch.inference_mode():  # what was read, as in the nodes
        assert editor.conditioning(context, "apple")[0].image_size == (24 * 16, 14 * 16), (
            "what was read, as in the nodes"
        )
    for positions in ("unit", "pixart"):
        config = replace(CONFIG, positions=positions)
        model = LazyDiffusion(config).eval()
        model.load_state_dict(editor.model.state_dict())
        other = LazyEditor(model, editor.tokenizer)
        together = other.encode(image, holes(640, 640, *boxes))
        for row, box in enumerate(boxes):
            alone = other.encode(image, holes(640, 640, box))
            count = alone.hole.count
            assert torch.allclose(together.tokens[row, :count], alone.tokens[0], atol=1e-5)
            coords = [hole_coordinates(each, model.transformer) for each in (together, alone)]
            assert torch.allclose(coords[0][row, :count], coords[1][0])


def test_images_with_different_numbers_of_holes(editor: LazyEditor):
    """Two, none and one: each image follows its own prompt, and the first is what it is alone."""
    images = picture(256, 256, batch=3)
    masks = torch.cat(
        [holes(256, 256, (16, 16, 64, 64), (180, 180, 240, 240)), holes(256, 256), holes(256, 256, (90, 90, 130, 100))]
    )
    context = editor.encode(images, masks)
    assert context.owner.tolist() == [0, 0, 2] and context.hole_tokens == 9 + 16
    result, other = (
        editor.decode(context, ["red apple", "apple", last], 1, 2, blend="none") for last in ("red", "apple apple")
    )
    assert torch.equal(result[1], images[1])
    outside = (masks < 0.5)[:, None].expand_as(images)
    assert torch.equal(result[outside], images[outside])
    assert torch.equal(result[0], other[0]) and not torch.equal(result[2], other[2])
    alone = editor.decode(editor.encode(images[:1], masks[:1]), "red apple", 1, 2, blend="none")
    assert torch.allclose(result[:1], alone, atol=1e-4)


# -- noise, starts, sketches
# --------------------------------------------------------------------------------------------
def test_rows_are_taken_from_their_images(editor: LazyEditor):
    images = picture(256, 256, batch=2)
    masks = torch.cat([holes(256, 256, (16, 16, 64, 64), (180, 180, 240, 240)), holes(256, 256, (90, 90, 130, 100))])
    context = editor.encode(images, masks)
    noise = patchify(torch.randn(context.latent.shape, generator=torch.Generator().manual_seed(7)), 2)
    drawn = hole_noise(context, 7)
    for row, image in enumerate(context.owner.tolist()):
        index, valid = context.hole.index[row], context.hole.valid[row]
        assert torch.equal(drawn[row, valid], noise[image, index[valid]]) and not drawn[row, ~valid].any()
    assert torch.equal(context.hole.scatter(context.hole.cut(context.latent, 2), context.latent, 2), context.latent)
    assert torch.equal(context.hole.cut(context.latent, 2), context.hole.gather(patchify(context.latent, 2)))
    asked: list[Tensor] = []
    decode_hole = lambda *given: decode_windows(editor.to_image, editor.to_image, *given)  # noqa: E731
    keep = lambda noise, start, denoise: (asked.append(start), start)[1]  # noqa: E731
    lazy_decode(context, keep, editor.to_latent, editor.to_image, 0, 0.5, "none", decode_hole)
    with torch.no_grad():
        assert torch.equal(asked[0], context.hole.gather(patchify(editor.to_latent(images), 2)))


def test_sketches_are_cut_hole_by_hole(editor: LazyEditor):
    image, drawing, mask = (
        picture(256, 256),
        picture(256, 256, seed=1),
        holes(256, 256, (16, 16, 64, 64), (180, 180, 240, 240)),
    )
    context = editor.encode(image, mask)
    sketched, lined = add_sketch(context, drawing, 0.4, editor.to_latent), add_edges(context, drawing, 1.0)
    assert sketched.sketch is not None and lined.edges is not None
    with torch.no_grad():
        drawn = editor.to_latent(torch.where(mask[:, None] > 0, drawing, image))
    assert torch.equal(sketched.sketch.tokens, context.hole.gather(patchify(drawn, 2)))
    assert lined.edges.shape == (2, context.hole.count, TOKEN**2)
    results = [editor.decode(each, "red apple", 1, 2, blend="none") for each in (context, sketched, lined)]
    for top, left, bottom, right in ((16, 16, 64, 64), (180, 180, 240, 240)):
        parts = [result[..., top:bottom, left:right] for result in results]
        assert not torch.equal(parts[0], parts[1]) and not torch.equal(parts[0], parts[2])


def test_a_context_without_owner_is_one_row_an_image(editor: LazyEditor):
    """As code outside of `encode_context` builds one: all tokens of two images, say."""
    grid, image = Grid(64, 64, 8, 2), picture(64, 64, batch=2)
    hole = HoleTokens.of(torch.ones(2, 16, dtype=torch.bool))
    tokens = torch.zeros(2, 16, CONFIG.encoder_width)
    context = Context("", grid, image, torch.ones(2, 64, 64, dtype=torch.bool), torch.zeros(2, 4, 8, 8), hole, tokens)
    assert context.owner.tolist() == [0, 1] and context.hole_tokens == 16
    assert editor.decode(context, "red apple", steps=1).shape == image.shape
    assert View(grid, hole.index).sizes is None


# -- cost
# ---------------------------------------------------------------------------------------------------------------
def counted(work: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_cost_follows_the_holes_and_not_their_distance(editor: LazyEditor):
    """Two holes of 48 px on 1024 px: twice the operations of one, wherever they lie; a window around both would read 60
    x 60 tokens.
    """
    image = picture(1024, 1024)
    one, near, far = ([(16, 16, 64, 64), *more] for more in ([], [(16, 96, 64, 144)], [(960, 960, 1008, 1008)]))
    local = lambda canvas: F.avg_pool2d(F.pad(canvas, (0, 0, 0, 0, 0, 1)), 8)  # noqa: E731  (the VAE's share is the canvas's)
    encode = lambda boxes: encode_context(editor.model.transformer, local, image, holes(1024, 1024, *boxes), "")  # noqa: E731
    reading = [counted(lambda boxes=boxes: encode(boxes)) for boxes in (one, near, far)]
    assert reading[1] == reading[2] == 2 * reading[0]
    contexts = [editor.encode(image, holes(1024, 1024, *boxes)) for boxes in (one, far)]
    decoding = [counted(lambda context=context: editor.decode(context, "red apple", steps=2)) for context in contexts]
    print(
        f"encoder {reading[2] / reading[0]:.2f}, decoding {decoding[1] / decoding[0]:.2f} times one hole's operations"
    )
    assert decoding[1] <= 2.2 * decoding[0]
    assert tokens_read(CONFIG, holes(1024, 1024, *far), 1) == 2 * 64
    assert tokens_read(CONFIG, holes(1024, 1024, *one), 3) == 3 * 64


def test_rows_read_apart_or_together_are_the_same(editor: LazyEditor):
    """`read_holes` in one call for windows of one size, and row by row."""
    image, mask = picture(512, 512), holes(512, 512, *FAR)
    context = editor.encode(image, mask)
    hole, grid, transformer = context.hole, context.grid, editor.model.transformer
    boxes = windows_around(hole, grid, CONFIG.window)
    for row, box in enumerate(boxes):
        own = HoleTokens(hole.index[row : row + 1], hole.valid[row : row + 1], hole.total)
        with torch.no_grad():
            tokens, negative_offset = read_holes(
                transformer, context.latent, latent_mask(context.mask, grid), own, grid, [box]
            )
        assert negative_offset is not None and context.negative_offset is not None
        assert torch.allclose(tokens[0], context.tokens[row], atol=1e-5) and torch.allclose(
            negative_offset[0], context.negative_offset[row], atol=1e-5
        )
    assert grid_coordinates(boxes[0].grid(grid), CONFIG).shape == (64, 2)


# -- what is read once
# -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("soft", [False, True])
def test_images_taken_from_a_context_are_those_encoded_again(editor: LazyEditor, soft: bool) -> None:
    """Two canvases, one with two holes and one with none, for five edits with seeds of their own."""
    image = picture(160, 192, batch=3)
    masks = torch.cat(
        [holes(160, 192, (0, 0, 40, 50), (100, 120, 150, 170)), holes(160, 192), holes(160, 192, (50, 60, 90, 100))]
    )
    masks = F.avg_pool2d(masks[:, None], 9, 1, 4)[:, 0] if soft else masks
    images, prompts = [2, 0, 0, 1, 2], ["red", "apple", "red", "apple", "red apple"]
    once = taken(editor.encode(image, masks), images)
    again = editor.encode(image[images], masks[images])
    assert torch.equal(once.owner, again.owner) and torch.equal(once.mask, again.mask)
    for context in (once, again):
        assert len(context.tokens) == len(context.owner) == len(context.hole.index)
    decoded = [editor.decode(context, prompts, [1, 2, 3, 4, 5], steps=2) for context in (once, again)]
    assert torch.allclose(decoded[0], decoded[1], atol=1e-5)
    assert not torch.equal(decoded[0][1], decoded[0][2])  # another prompt, another seed
    kept = masks[images][:, None].expand_as(image[images]) == 0
    assert torch.equal(decoded[0][kept], image[images][kept])
