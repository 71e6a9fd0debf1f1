"""Channels, ranges, shapes and empty batches of images and masks as other nodes make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas

HOLE = mask_of(box_mask(48, 64, 10, 10, 40, 40))
BLENDS = ("none", "feather", "poisson")


def canvas(height: int = 48, width: int = 64) -> Tensor:
    return image_of(random_canvas(np.random.default_rng(12), height, width))


def node(lazy: Lazy, context: Any, **inputs: Any) -> dict[str, Any]:
    """What Lazy Decode tells the page."""
    from devtools.graphs import WIDGETS

    given = {
        "model": lazy.model,
        "vae": lazy.vae,
        "context": context,
        "negative": lazy.negative,
        "positive": lazy.text("panda"),
    }
    return lazy.call("LazyDecode", **{**given, **WIDGETS, **inputs}).ui["lazydiffusion"][0]


def codes(told: dict[str, Any]) -> list[str]:
    return [each["code"] for each in told["messages"]]


# -- alpha
# ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blend", BLENDS)
def test_alpha_in_alpha_out(lazy: Lazy, blend: str):
    """Kept where the canvas is kept, opaque in the hole; colours are those of the same edit without alpha."""
    image, alpha = canvas(), torch.rand(1, 48, 64, 1)
    result = lazy.edit(torch.cat([image, alpha], -1), HOLE, blend=blend)
    assert result.shape == (1, 48, 64, 4)
    assert torch.equal(result[..., :3], lazy.edit(image, HOLE, blend=blend))
    assert torch.equal(result[..., 3][HOLE == 0], alpha[..., 0][HOLE == 0]) and (result[..., 3][HOLE == 1] == 1).all()


def test_alpha_under_a_soft_mask_and_two_masks(lazy: Lazy):
    image = torch.cat([canvas(), torch.full((1, 48, 64, 1), 0.2)], -1)
    result = lazy.edit(image, torch.cat([HOLE, HOLE * 0.5]))
    assert torch.allclose(result[..., 3][0, HOLE[0] == 1], torch.tensor(1.0)) and torch.allclose(
        result[1, 20, 20, 3], torch.tensor(0.6)
    )
    assert torch.equal(result[:, HOLE[0] == 0], image.expand(2, -1, -1, -1)[:, HOLE[0] == 0])


# -- ranges
# --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blend", BLENDS)
def test_canvases_beyond_0_and_1_come_back_outside(lazy: Lazy, blend: str):
    image = canvas() * 6 - 1
    result = lazy.edit(image, HOLE, blend=blend)
    assert torch.equal(result[HOLE == 0], image[HOLE == 0])
    assert torch.isfinite(result).all() and result.min() >= image.min() and result.max() <= image.max()


def test_the_hole_of_a_bright_canvas_is_bright(lazy: Lazy):
    """A plain sky of 4 around the hole: poisson closes the gap there; the encoder sees white."""
    image = torch.full((1, 48, 64, 3), 4.0)
    result = lazy.edit(image, HOLE, blend="poisson")
    assert result[HOLE == 1].mean() > 2
    context, _ = lazy.encode(image, HOLE)
    white, _ = lazy.encode(image.clamp(0, 1), HOLE)
    assert torch.allclose(context.tokens, white.tokens, atol=1e-3)


@pytest.mark.parametrize("alpha", [False, True])
def test_denoise_0_is_the_canvas(lazy: Lazy, alpha: bool):
    image = canvas() * 3 - 1
    image = torch.cat([image, torch.rand(1, 48, 64, 1)], -1) if alpha else image
    for mask in (HOLE, HOLE * 0.4):
        assert torch.equal(lazy.edit(image, mask, denoise=0.0), image)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (15, 64), (64, 3)])
def test_canvases_smaller_than_a_token(lazy: Lazy, height: int, width: int):
    image, mask = canvas(height, width), torch.ones(1, height, width)
    mask[:, 0, 0] = 0 if height > 1 else 1
    for blend in BLENDS:
        result = lazy.edit(image, mask, blend=blend)
        assert result.shape == image.shape and torch.isfinite(result).all()
        assert torch.equal(result[mask == 0], image[mask == 0]) and not torch.equal(result, image)


# -- shapes
# --------------------------------------------------------------------------------------------------------------
SHAPES = {
    "[H, W]": lambda mask: mask[0],
    "[1, H, W]": lambda mask: mask,
    "[1, 1, H, W]": lambda mask: mask[None],
    "[1, H, W, 1]": lambda mask: mask[..., None],
    "[H, W, 1]": lambda mask: mask[0, ..., None],
    "bool": lambda mask: mask > 0,
    "half": lambda mask: mask.half(),
    "uint8": lambda mask: mask.to(torch.uint8),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_all_shapes(lazy: Lazy, shape: str):
    context, _ = lazy.encode(canvas(), SHAPES[shape](HOLE))
    assert torch.equal(context.mask, HOLE > 0)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_of_masks_with_a_channel(lazy: Lazy, size: int):
    masks = torch.rand(size, 48, 64).round()
    for given in (masks[:, None], masks[..., None]):
        context, _ = lazy.encode(canvas(), given)
        assert torch.equal(context.mask, masks > 0)


def test_a_picture_is_no_mask(lazy: Lazy):
    with pytest.raises(
        ValueError, match=r"mask has shape \(1, 48, 64, 3\), expected \[batch, height, width\]\. Convert it"
    ):
        lazy.encode(canvas(), canvas())


# -- nothing there
# -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("images", "masks"), [(0, 0), (0, 1), (1, 0), (2, 0)])
def test_batches_of_none(lazy: Lazy, images: int, masks: int):
    """A detector that found nothing."""
    image = canvas().expand(images, -1, -1, -1)
    context, told = lazy.encode(image, HOLE.expand(masks, -1, -1))
    assert told["hole_tokens"] == 0 and told["messages"] == [] and not told["encoder_ran"]
    result, latent = lazy.decode(context)
    assert torch.equal(result, image) and len(latent) == images


@pytest.mark.parametrize("size", [(48, 64), (64, 64)])
def test_no_mask_painted(lazy: Lazy, size: tuple[int, int]):
    """Load Image hands on 64 x 64 zeros whatever the picture's size."""
    image = canvas(*size)
    context, told = lazy.encode(image, torch.zeros(1, 64, 64))
    assert codes(told) == ["no_mask_painted"] and told["hole_tokens"] == 0
    assert torch.equal(lazy.decode(context)[0], image)


def test_an_empty_mask_is_an_empty_mask(lazy: Lazy):
    assert codes(lazy.encode(canvas(), torch.zeros(1, 48, 64))[1]) == []
    with pytest.raises(ValueError, match="mask is 64 x 64 px, expected the image's 64 x 48"):
        lazy.encode(canvas(), torch.ones(1, 64, 64))


# -- black under alpha
# ---------------------------------------------------------------------------------------------------
def test_black_under_alpha_is_told_where_it_is_started_from(lazy: Lazy):
    black = torch.where(HOLE[..., None] > 0, 0.0, canvas().clamp_min(0.1))
    context, other = (lazy.encode(image, HOLE)[0] for image in (black, canvas().clamp_min(0.1)))
    assert [codes(node(lazy, context, denoise=denoise)) for denoise in (1.0, 0.7, 0.0)] == [
        [],
        ["black_under_alpha"],
        [],
    ]
    assert codes(node(lazy, other, denoise=0.7)) == []

    def sketched(sketch: Tensor, **inputs: Any) -> list[str]:
        known = lazy.call(
            "LazySketchCondition", context=context, vae=lazy.vae, sketch=sketch, strength=0.4, **inputs
        ).args[0]
        return codes(node(lazy, known))

    assert sketched(canvas().clamp_min(0.1)) == []
    assert sketched(black) == ["black_under_alpha"]
    assert sketched(canvas().clamp_min(0.1), sketch_mask=HOLE * 0) == ["black_under_alpha"]


def test_messages_have_a_sentence_in_both_languages(lazy: Lazy):
    text = (Path(__file__).resolve().parents[2] / "web" / "js" / "messages.js").read_text(encoding="utf-8")
    english, chinese = text.split("  zh: {")
    for code in ("no_mask_painted", "black_under_alpha"):
        assert code in lazy.pack.nodes.messages.CODES and f"{code}:" in english and f"{code}:" in chinese
