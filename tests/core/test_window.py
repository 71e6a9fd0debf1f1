"""On a canvas that is larger than its window, the encoder reads what lies around the hole: bounded cost, known
positions.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lazy_core.config import PRESETS, LazyConfig
from lazy_core.context import Context
from lazy_core.geometry import Grid
from lazy_core.holes import windows_around
from lazy_core.masks import hole_token_mask
from lazy_core.networks.transformer import LazyTransformer
from lazy_core.pipeline import encode_context, hole_coordinates
from lazy_core.tokens import HoleTokens

TOKEN = 16  # px
CONFIG = replace(PRESETS["tiny"], window=8, vae=None, text=None)


@pytest.fixture(scope="module")
def transformer() -> LazyTransformer:
    torch.manual_seed(0)
    return LazyTransformer(CONFIG)


def local(image: Tensor) -> Tensor:
    """A VAE encoder without any neighbourhood: every latent is its 8 x 8 pixels' mean, and their brightness."""
    mean = F.avg_pool2d(image, 8)
    return torch.cat([mean, mean.mean(1, keepdim=True)], 1)


def encode(transformer: LazyTransformer, image: Tensor, mask: Tensor) -> Context:
    return encode_context(transformer, local, image, mask, "test")


def scene(rows: int, cols: int, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, rows * TOKEN, cols * TOKEN, generator=torch.Generator().manual_seed(seed))


def box(rows: int, cols: int, top: int, left: int, bottom: int, right: int) -> Tensor:
    """Mask [1, H, W] of a hole in tokens."""
    mask = torch.zeros(1, rows * TOKEN, cols * TOKEN)
    mask[:, top * TOKEN : bottom * TOKEN, left * TOKEN : right * TOKEN] = 1
    return mask


def test_a_scene_inside_a_large_canvas_is_read_like_the_scene(transformer: LazyTransformer):
    """The same context and the same positions, wherever the scene lies in the canvas; a hole takes part in the VAE's
    fill only nearby.
    """
    small, hole = torch.full((1, 3, 128, 128), 0.3), box(8, 8, 3, 3, 5, 5)
    small[..., 20:40, 60:100] = 0.8
    alone = encode(transformer, small, hole)
    large, mask = torch.full((1, 3, 640, 960), 0.3), torch.zeros(1, 640, 960)
    large[..., 160:288, 320:448], mask[:, 160:288, 320:448] = small, hole
    inside = encode(transformer, large, mask)
    assert alone.view is None
    assert inside.view is not None
    assert inside.seen.grid == alone.grid
    assert torch.equal(hole_coordinates(inside, transformer), hole_coordinates(alone, transformer))
    assert torch.allclose(inside.tokens, alone.tokens, atol=1e-5)


def test_far_content_is_not_read_and_near_content_is(transformer: LazyTransformer):
    image, mask = scene(20, 30), box(20, 30, 9, 14, 11, 16)
    tokens = encode(transformer, image, mask).tokens
    far, near = image.clone(), image.clone()
    far[..., :32, :32] = 0
    near[..., 8 * TOKEN : 9 * TOKEN, 14 * TOKEN : 16 * TOKEN] = 0
    assert torch.equal(encode(transformer, far, mask).tokens, tokens)
    assert not torch.equal(encode(transformer, near, mask).tokens, tokens)


@pytest.mark.parametrize(
    ("hole", "expected"),
    [
        ((9, 14, 11, 16), (6, 11, 14, 19)),  # in the middle
        ((0, 0, 2, 2), (0, 0, 8, 8)),  # in a corner
        ((18, 29, 20, 30), (12, 22, 20, 30)),
        ((2, 3, 14, 6), (0, 0, 16, 8)),  # taller than the window: two tokens around it
        ((0, 0, 20, 30), None),  # everything
    ],
)
def test_where_the_window_lies(hole: tuple[int, int, int, int], expected: tuple[int, int, int, int] | None):
    grid = Grid(20 * TOKEN, 30 * TOKEN, 8, 2)
    boxes = windows_around(HoleTokens.of(hole_token_mask(box(20, 30, *hole) > 0, grid)), grid, 8)
    assert [(b.top, b.left, b.bottom, b.right) for b in boxes] == ([expected] if expected else [])


def test_a_batchs_windows_are_each_as_large_as_its_hole_asks_for(transformer: LazyTransformer):
    """An image without a hole has no row; each row is what it is alone, however large the others' holes are."""
    images = torch.cat([scene(20, 20, 1), scene(20, 20, 2), scene(20, 20, 3)])
    masks = torch.cat([box(20, 20, 2, 2, 4, 4), box(20, 20, 12, 10, 15, 14), torch.zeros(1, 320, 320)])
    together = encode(transformer, images, masks)
    assert together.tokens.shape[:2] == (2, 12) and together.owner.tolist() == [0, 1]
    larger = torch.cat([masks[:1], box(20, 20, 2, 3, 14, 6), masks[2:]])
    own = windows_around(HoleTokens.of(hole_token_mask(larger[:2] > 0, together.grid)), together.grid, 8)
    assert [window.size for window in own] == [(8, 8), (16, 8)]
    for given in (masks, larger):
        together = encode(transformer, images, given)
        for index in (0, 1):
            alone = encode(transformer, images[index : index + 1], given[index : index + 1])
            count = alone.hole.count
            assert torch.allclose(together.tokens[index, :count], alone.tokens[0], atol=1e-5)
            coordinates = [hole_coordinates(context, transformer) for context in (together, alone)]
            assert torch.equal(coordinates[0][index, :count], coordinates[1][0])


def test_small_canvases_are_read_whole(transformer: LazyTransformer):
    context = encode(transformer, scene(8, 6), box(8, 6, 1, 1, 3, 3))
    assert context.view is None
    assert context.seen.grid == context.grid


def test_the_encoders_cost_does_not_grow_with_the_canvas():
    """`pixart-xl`'s encoder, counted on `meta`: 1 % of 2048 px and the same hole on 4096 px cost what 1024 px do;
    memory with them.

    4096 x 4096 px: without the window 65,536 tokens, whose attention alone is 16 times that of 2048 px.
    """
    flops = {side: counted(PRESETS["pixart-xl"], side) for side in (1024, 2048, 4096)}
    print({side: f"{count / 1e12:.2f} TFLOP" for side, count in flops.items()})
    assert flops[4096] == flops[2048] == flops[1024]
    assert counted(replace(PRESETS["pixart-xl"], window=None), 2048) > 4 * flops[2048]


def counted(config: LazyConfig, side: int) -> int:
    with torch.device("meta"):
        encoder = LazyTransformer(replace(config, depth=1)).context_encoder
    grid = Grid(side, side, config.latent_scale, config.patch_size)
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    mask[:, 300:500, 300:500] = True
    hole = HoleTokens.of(hole_token_mask(mask, grid))
    boxes = windows_around(hole, grid, config.window)
    seen = boxes[0].grid(grid) if boxes else grid
    height, width = seen.latent_size
    empty = lambda *shape: torch.empty(*shape, device="meta")  # noqa: E731
    near = hole.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(
            empty(1, config.latent_channels, height, width), empty(1, 1, height, width), near, empty(seen.tokens, 2)
        )
    return counter.get_total_flops()
