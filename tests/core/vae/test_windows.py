"""Lazy VAE: windows around the holes decode like the whole picture, at the hole's cost."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lazy_core.checkpoint import load_model
from lazy_core.geometry import Box
from lazy_core.vae.tiny import TinyVAE
from lazy_core.vae.windows import HALO, decode_windows, windows

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "fluent-small.safetensors"
DATA = Path(__file__).resolve().parents[2] / "data"
SIDE = 64  # latents: a canvas of 512 px
LEVEL = 1 / 255


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    model, _ = load_model(SHIPPED)
    assert model.vae is not None
    return model.vae


def decode(vae: TinyVAE, latent: Tensor, right: Box | None = None) -> Tensor:
    with torch.inference_mode():
        return (vae.decode(latent, right) / 2 + 0.5).clamp(0, 1)


def decode_holes(vae: TinyVAE, latent: Tensor, canvas: Tensor, cells: Tensor) -> Tensor:
    return decode_windows(partial(decode, vae), partial(decode, vae), latent, canvas, cells)


def picture(kind: str) -> Tensor:
    """[1, 3, 512, 512]: one colour, smooth clouds of colour with sharp edges, noise, or a photograph."""
    if kind not in ("flat", "clouds", "noise"):
        with Image.open(DATA / f"{kind}.jpg") as file:
            pixels = torch.from_numpy(np.asarray(file.resize((8 * SIDE, 8 * SIDE))).copy())
        return pixels.movedim(-1, 0)[None].float() / 255
    draw = torch.Generator().manual_seed(5)
    if kind == "flat":
        return torch.tensor([0.7, 0.5, 0.3]).view(1, 3, 1, 1).expand(1, 3, 8 * SIDE, 8 * SIDE).contiguous()
    if kind == "noise":
        return torch.rand(1, 3, 8 * SIDE, 8 * SIDE, generator=draw)
    scales = [torch.rand(1, 3, side, side, generator=draw) for side in (4, 16, 64, 256)]
    clouds = sum(
        torch.nn.functional.interpolate(s, size=(8 * SIDE, 8 * SIDE), mode="bicubic") * w
        for s, w in zip(scales, (4, 2, 1, 0.5))
    )
    assert isinstance(clouds, Tensor)
    return ((clouds / 7.5 + (clouds > 4).float() * 0.3) % 1).clamp(0, 1)


def holes(kind: str) -> Tensor:
    """Touched latents [1, 64, 64], about 10 % of them."""
    cells = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    if kind == "compact":
        cells[:, 20:40, 24:44] = True
    elif kind == "corner":
        cells[:, :20, -20:] = True
    elif kind == "two parts":
        cells[:, 4:18, 4:18] = cells[:, 44:58, 40:54] = True
    return cells


@pytest.mark.parametrize("canvas", ["flat", "clouds", "noise", "astronaut", "coffee"])
@pytest.mark.parametrize("hole", ["compact", "corner", "two parts"])
def test_windows_equal_the_full_decode(vae: TinyVAE, canvas: str, hole: str):
    """The hole shows another picture than its surroundings; every canvas is a hard one for somebody."""
    image, cells = picture(canvas), holes(hole)
    other = picture("coffee" if canvas != "coffee" else "flat")
    with torch.inference_mode():
        latent = torch.where(cells[:, None], vae.encode(other * 2 - 1), vae.encode(image * 2 - 1))
    pixels, before = cells.repeat_interleave(8, 1).repeat_interleave(8, 2), image.clone()
    full, lazy = decode(vae, latent), decode_holes(vae, latent, image, cells)
    error = (lazy - full).movedim(1, -1)[pixels]
    quality = -10 * error.square().mean().clamp_min(1e-20).log10()
    print(f"{canvas}, {hole}: {quality:.1f} dB, worst pixel {error.abs().max() / LEVEL:.3f} levels")
    assert quality > 80
    assert error.abs().max() < 0.2 * LEVEL
    assert (lazy - full).movedim(1, -1)[near(cells)].abs().max() < 0.5 * LEVEL, "what poisson reads beside the hole"
    assert torch.equal(image, before)


def near(cells: Tensor) -> Tensor:
    """Pixels of the smallest boxes around the parts of a hole and one latent more."""
    result = torch.zeros(1, 8 * SIDE, 8 * SIDE, dtype=torch.bool)
    for part in windows(cells[0], HALO):
        part.valid.times(8).cut(result).fill_(True)
    return result


@pytest.mark.parametrize(
    "right", [Box(6, 6, 18, 18), Box(0, 6, 3, 20), Box(20, 0, 24, 24), Box(0, 0, 24, 24), Box(9, 11, 10, 12)], ids=str
)
@pytest.mark.parametrize("trained", [True, False])
def test_wanted_latents_are_decoded_as_in_the_whole_window(vae: TinyVAE, trained: bool, right: Box):
    """Up to rounding, on latents of white noise, which are harder than any picture's."""
    torch.manual_seed(3)
    used = vae if trained else TinyVAE(vae.config)
    latent = torch.randn(2, vae.config.latent_channels, 24, 24)
    part, whole = decode(used, latent, right), decode(used, latent)
    assert part.shape == (2, 3, 8 * right.height, 8 * right.width)
    assert (part - right.times(8).cut(whole)).abs().max() < 0.5 * LEVEL


def test_cost_follows_the_hole(vae: TinyVAE):
    """Counted operations: a compact hole of 10 % in 512 px costs less than a quarter of the full decode."""
    latent = torch.zeros(1, vae.config.latent_channels, SIDE, SIDE)
    canvas = torch.zeros(1, 3, 8 * SIDE, 8 * SIDE)
    with FlopCounterMode(display=False) as full:
        decode(vae, latent)
    with FlopCounterMode(display=False) as lazy:
        decode_holes(vae, latent, canvas, holes("compact"))
    share = lazy.get_total_flops() / full.get_total_flops()
    print(f"lazy decode of a 10 % hole: {100 * share:.1f} % of the full decode's operations")
    assert share <= 0.22


def test_windows_contain_every_hole_and_never_overlap():
    dice = random.Random(0)
    for _ in range(200):
        height, width, halo = dice.randrange(1, 40), dice.randrange(1, 40), dice.randrange(1, 6)
        cells = torch.rand(height, width, generator=torch.Generator().manual_seed(dice.randrange(10**9))) < dice.choice(
            [0.005, 0.05, 0.5]
        )
        decoded, right = (torch.zeros(height, width, dtype=torch.int64) for _ in range(2))
        for part in windows(cells, halo):
            part.computed.cut(decoded).add_(1)
            part.valid.cut(right).add_(1)
        assert int(decoded.max()) <= 1
        grown = torch.nn.functional.max_pool2d(cells[None].float(), 3, 1, 1)[0] > 0
        assert bool((right[grown] == 1).all())  # the hole and the latents next to it, each in one window
        far = torch.nn.functional.max_pool2d(cells[None].float(), 2 * halo + 1, 1, halo)[0] > 0
        assert bool((decoded[far] == 1).all())


def test_a_large_hole_is_decoded_in_full(vae: TinyVAE):
    """And then equals the full decode bit for bit."""
    cells = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    latent = torch.randn(1, vae.config.latent_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    result = decode_holes(vae, latent, picture("flat"), cells)
    assert torch.equal(result, decode(vae, latent))


def test_nothing_is_decoded_without_a_hole():
    def never(*given: object) -> Tensor:
        raise AssertionError("decoded")

    canvas = picture("flat")
    assert decode_windows(never, never, torch.zeros(1, 8, SIDE, SIDE), canvas, holes("none")).shape == canvas.shape
