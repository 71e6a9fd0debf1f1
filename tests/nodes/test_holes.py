"""Several holes in one mask, through the nodes: the shipped model draws in each; stock models keep one strip."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, mask_of
from stock_models import make_stock, vae_of

SIDE, FAR = 512, [(32, 32, 80, 80), (432, 432, 480, 480)]
STEPS = 4


@pytest.fixture(scope="module")
def image() -> Tensor:
    """A soft grey-blue canvas [1, H, W, 3]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    return torch.stack([0.4 + 0.1 * x, 0.5 + 0.1 * y, 0.6 + 0 * x], -1)[None]


def mask(*boxes: tuple[int, int, int, int], side: int = SIDE) -> Tensor:
    return mask_of(*[box_mask(side, side, *box) for box in boxes]).amax(0, keepdim=True)


def test_each_far_hole_becomes_what_it_becomes_alone(lazy: Lazy, image: Tensor):
    """Holes of 48 px in opposite corners of 512 px, "a red apple": both red, and both what an edit of that hole alone
    gives.
    """
    context, told = lazy.encode(image, mask(*FAR))
    assert context.owner.tolist() == [0, 0]
    assert told["hole_tokens"] == context.hole_tokens == 18 and told["all_tokens"] == 1024
    both, _ = lazy.decode(context, "a red apple", steps=STEPS)
    for top, left, bottom, right in FAR:
        alone = lazy.edit(image, mask((top, left, bottom, right)), prompt="a red apple", steps=STEPS)
        part = (0, slice(top, bottom), slice(left, right))
        assert (both[part] - alone[part]).abs().max() < 2 / 255
        red, green, blue = both[part][12:36, 12:36].mean((0, 1)).tolist()
        assert red > 1.5 * max(green, blue), "an apple, not a magenta square"
    outside = mask(*FAR) < 0.5
    assert torch.equal(both[outside], image[outside])


def test_figures_count_all_holes(lazy: Lazy, image: Tensor):
    """Two holes of 9 tokens are 18, on both nodes; each is a row of 9."""
    for count in (1, 2):
        context, figures = lazy.encode(image, mask(*FAR[:count]))
        assert figures["hole_tokens"] == 9 * count and context.hole.count == 9
        assert lazy.decode(context, steps=1)[1] is not None


def test_prompts_of_a_batch_go_to_the_holes_of_their_images(lazy: Lazy, image: Tensor):
    """Two images of two holes and of one; each prompt's pixels are what the image's own edit gives."""
    pair, masks = torch.cat([image, image]), torch.cat([mask(*FAR), mask(FAR[1])])
    texts = [lazy.text(word) for word in ("a red apple", "a green frog")]
    positive = [[torch.cat([text[0][0] for text in texts]), texts[0][0][1]]]
    context, _ = lazy.encode(pair, masks)
    assert context.owner.tolist() == [0, 0, 1]
    result, _ = lazy.decode(context, positive=positive, steps=STEPS)
    alone, _ = lazy.decode(lazy.encode(image, masks[:1])[0], positive=texts[0], steps=STEPS)
    assert (result[0] - alone[0]).abs().max() < 2 / 255
    frog = result[1, 444:468, 444:468].mean((0, 1))
    assert frog[1] > frog[0] and frog[1] > frog[2], "green"


def test_several_holes_of_a_stock_model_stay_one_strip(lazy: Lazy):
    picture, holes = torch.rand(1, 256, 256, 3), mask((16, 16, 48, 48), (192, 208, 240, 240), side=256)
    output = lazy.call("LazyEncodeContext", model=make_stock("flux"), vae=vae_of("flux"), image=picture, mask=holes)
    context, told = output.args[0], output.ui["lazydiffusion"][0]
    assert context.hole.owner is None and context.hole.index.shape == (1, 4 + 6)
    assert told["hole_tokens"] == 10
