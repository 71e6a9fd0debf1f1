"""Encoding of what changed: the same latents as of a full encode, at the cost of the change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lazy_core.checkpoint import load_model
from lazy_core.vae.canvas_cache import CanvasCache
from lazy_core.vae.tiny import TinyVAE

SHIPPED = Path(__file__).resolve().parents[3] / "models" / "fluent-small.safetensors"
DATA = Path(__file__).resolve().parents[2] / "data"
SIDE = 640  # px


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    model, _ = load_model(SHIPPED)
    assert model.vae is not None
    return model.vae


@pytest.fixture(scope="module")
def photo() -> Tensor:
    with Image.open(DATA / "astronaut.jpg") as file:
        pixels = torch.from_numpy(np.asarray(file.convert("RGB").resize((SIDE, SIDE))).copy())
    return pixels.movedim(-1, 0)[None].float() / 255


def counted(vae: TinyVAE, pixels: list[int]) -> Callable[[Tensor], Tensor]:
    def encode(image: Tensor) -> Tensor:
        pixels.append(image.shape[0] * image.shape[-2] * image.shape[-1])
        with torch.inference_mode():
            return vae.encode(image * 2 - 1)

    return encode


def painted(image: Tensor, *boxes: tuple[int, int, int, int], seed: int = 0) -> Tensor:
    """Noise in boxes of px (top, left, bottom, right): harder than anything a hole is filled with."""
    result, draw = image.clone(), torch.Generator().manual_seed(seed)
    for top, left, bottom, right in boxes:
        result[..., top:bottom, left:right] = torch.rand(1, 3, bottom - top, right - left, generator=draw)
    return result


PLACES = {
    "compact": [(201, 203, 300, 309)],
    "corner": [(0, 560, 90, 640)],
    "two parts": [(8, 8, 60, 60), (500, 520, 560, 590)],
    "a pixel": [(333, 222, 334, 223)],
}


@pytest.mark.parametrize("place", PLACES)
def test_equals_the_full_encode(vae: TinyVAE, photo: Tensor, place: str):
    pixels: list[int] = []
    encode, canvases = counted(vae, pixels), CanvasCache(limit=1 << 28)
    canvases.encode("vae", encode, photo)
    after = painted(photo, *PLACES[place])
    latent, full = canvases.encode("vae", encode, after), encode(after)
    print(f"{place}: worst {float((latent - full).abs().max()):.1e}, {sum(pixels[1:-1]) / SIDE**2:.2f} of the canvas")
    torch.testing.assert_close(latent, full, rtol=0, atol=2e-5)
    assert sum(pixels[1:-1]) < 0.5 * SIDE**2


def test_fifty_edits_do_not_drift(vae: TinyVAE, photo: Tensor):
    encode, canvases = counted(vae, []), CanvasCache(limit=1 << 28)
    image, draw = photo, torch.Generator().manual_seed(3)
    latent = canvases.encode("vae", encode, image)
    for index in range(50):
        top, left = (int(x) for x in torch.randint(0, SIDE - 80, (2,), generator=draw))
        image = painted(image, (top, left, top + 80, left + 80), seed=index)
        latent = canvases.encode("vae", encode, image)
    torch.testing.assert_close(latent, encode(image), rtol=0, atol=1e-4)


def test_a_known_canvas_is_not_encoded(vae: TinyVAE, photo: Tensor):
    pixels: list[int] = []
    encode, canvases = counted(vae, pixels), CanvasCache(limit=1 << 28)
    first = canvases.encode("vae", encode, photo)
    pixels.clear()
    assert torch.equal(canvases.encode("vae", encode, photo.clone()), first)
    assert not pixels


def test_what_callers_do_to_images_and_latents_later_is_their_own(vae: TinyVAE, photo: Tensor):
    encode, canvases = counted(vae, []), CanvasCache(limit=1 << 28)
    image = photo.clone()
    first = canvases.encode("vae", encode, image)
    expected = first.clone()
    image.zero_()
    first.zero_()
    canvases.encode("vae", encode, photo).zero_()
    assert torch.equal(canvases.encode("vae", encode, photo), expected)


def test_batches_image_by_image(vae: TinyVAE, photo: Tensor):
    """One image known, one nearly known, two new ones in one batch."""
    sizes: list[int] = []
    encode, canvases = counted(vae, []), CanvasCache(limit=1 << 28)

    def watched(image: Tensor) -> Tensor:
        sizes.append(len(image))
        return encode(image)

    canvases.encode("vae", watched, photo)
    batch = torch.cat([photo.flip(-1), photo, painted(photo, (100, 100, 150, 150)), photo.flip(-2)])
    latent = canvases.encode("vae", watched, batch)
    assert sizes == [1, 1, 2]
    torch.testing.assert_close(latent, encode(batch), rtol=0, atol=2e-5)


def test_vaes_and_sizes_are_kept_apart(vae: TinyVAE, photo: Tensor):
    pixels: list[int] = []
    encode, canvases = counted(vae, pixels), CanvasCache(limit=1 << 28)
    for name, image in (("one", photo), ("other", photo), ("one", photo[..., :320]), ("one", photo)):
        canvases.encode(name, encode, image)
    assert pixels == [SIDE**2, SIDE**2, SIDE * 320]


def test_bounded_in_bytes(vae: TinyVAE, photo: Tensor):
    canvases = CanvasCache(limit=4 * photo.nbytes)
    for seed in range(8):
        canvases.encode("vae", counted(vae, []), painted(photo, (0, 0, SIDE, SIDE), seed=seed))
    assert 0 < canvases.cache.bytes <= 4 * photo.nbytes
    assert canvases.cache.bytes == sum(canvas.get_ram_usage() for _, canvas in canvases.cache.under(""))


def test_not_a_number_is_never_known(vae: TinyVAE, photo: Tensor):
    encode, canvases = counted(vae, []), CanvasCache(limit=1 << 28)
    broken = photo.clone()
    broken[..., 300, 300] = torch.nan
    canvases.encode("vae", encode, broken)
    torch.testing.assert_close(canvases.encode("vae", encode, photo), encode(photo), rtol=0, atol=2e-5)
