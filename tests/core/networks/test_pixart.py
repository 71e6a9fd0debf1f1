"""The decoder is the paper's: with PixArt-alpha's weights and a full-canvas hole it computes what the host's own PixArt
does.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lazy_core.checkpoint import from_pixart  # where the README says it is
from lazy_core.config import PRESETS
from lazy_core.geometry import Grid
from lazy_core.networks.decoder import Conditioning
from lazy_core.networks.positions import grid_coordinates
from lazy_core.tokens import HoleTokens, patchify, unpatchify

# PixArt-alpha at a width and depth that a CPU builds in a moment; patch, channels and conditioning as in the real one.
SMALL = replace(
    PRESETS["pixart-xl"],
    width=144,
    depth=3,
    heads=4,
    caption_width=64,
    encoder_width=96,
    encoder_depth=2,
    encoder_heads=4,
)


@pytest.fixture(scope="module")
def pixart(comfy):
    import comfy.ldm.pixart.pixartms as pixartms
    import comfy.ops

    torch.manual_seed(0)
    model = pixartms.PixArtMS(
        hidden_size=SMALL.width,
        depth=SMALL.depth,
        num_heads=SMALL.heads,
        caption_channels=SMALL.caption_width,
        micro_condition=True,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.05)
    return model.eval()


@pytest.mark.parametrize("height, width", [(512, 512), (640, 896)])
@torch.no_grad()
def test_full_canvas_equals_pixart(pixart, height: int, width: int):
    lazy = from_pixart(pixart.state_dict(), SMALL).eval()
    grid = Grid(height, width, SMALL.latent_scale, SMALL.patch_size)
    latent = torch.randn(2, 4, *grid.latent_size)
    caption, timestep = torch.randn(2, 7, SMALL.caption_width), torch.tensor([17.0, 801.0])
    expected = pixart(latent, timestep, caption)

    hole = HoleTokens.of(torch.ones(2, grid.tokens, dtype=torch.bool))
    coordinates = grid_coordinates(grid, SMALL)
    mask = torch.ones(2, 1, *grid.latent_size)
    context = lazy.context_encoder(latent, mask, hole, coordinates).tokens
    spread = hole.gather(coordinates.expand(2, -1, -1))
    conditioning = Conditioning(context, spread, caption, hole.token_mask, (height, width))
    tokens = lazy.decoder(hole.gather(patchify(latent, 2)), timestep, conditioning)
    got = unpatchify(tokens, 2, grid.rows, grid.cols)
    assert expected.abs().max() > 0.1  # random weights that do something
    assert (got - expected).abs().max() < 1e-4


def test_foreign_weights_are_named(pixart):
    weights = dict(pixart.state_dict())
    del weights["blocks.1.attn.qkv.weight"]
    weights["blocks.0.extra"] = torch.zeros(1)
    with pytest.raises(
        ValueError, match=r"1 missing \(blocks\.1\.attn\.qkv\.weight\); 1 unexpected \(blocks\.0\.extra\)"
    ):
        from_pixart(weights, SMALL)
