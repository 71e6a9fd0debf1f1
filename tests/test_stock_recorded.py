"""VAEs that see the whole picture (GroupNorm, attention): with a record, holes decode like the whole."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.recorded import random_vae
from lazy_core.lazy_vae import windows
from lazy_core.recorded import HALOS, Parts, decode_and_record, decode_holes, with_patches
from lazy_core.records import Records
from lazy_core.strip import NotWholeError, Strip

SIDE = 32  # latents: a canvas of 256 px


@pytest.fixture(scope="module", params=["sdxl", "flux"])
def vae(request: pytest.FixtureRequest, comfy: Any) -> Any:
    return random_vae(request.param, 32)


def decode(vae: Any, latent: Tensor) -> Tensor:
    with torch.inference_mode():
        return ((vae.decode(latent) + 1) / 2).clamp(0, 1)


def noise(vae: Any, seed: int) -> Tensor:
    return torch.randn(1, vae.decoder.z_shape[1], SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def holes(kind: str) -> Tensor:
    cells = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    if kind == "compact":
        cells[10:16, 11:18] = True
    elif kind == "corner":
        cells[:6, -7:] = True
    elif kind == "two parts":
        cells[1:4, 1:4] = cells[27:30, 25:29] = True
    return cells


def quality(result: Tensor, full: Tensor, cells: Tensor) -> float:
    error = (result - full[0])[:, cells.repeat_interleave(8, 0).repeat_interleave(8, 1)]
    return float(-10 * error.square().mean().clamp_min(1e-20).log10())


def parts_of(vae: Any, pack: Any) -> Parts:
    return importlib.import_module(f"{pack.__name__}.nodes.stock.vae").parts_of(vae.decoder)


def boxes_of(cells: Tensor) -> list[Any]:
    return [window.right for window in windows(cells, HALOS[0])]


@pytest.mark.parametrize("kind", ["compact", "corner", "two parts"])
def test_what_was_recorded_comes_back(vae: Any, pack: Any, kind: str):
    """Recording changes nothing; the recorded latent's own holes differ by their halo alone; the canvas is untouched elsewhere."""
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes(kind)
    full, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    assert torch.equal(full, decode(vae, latent))
    record = with_patches(parts, lambda x: decode(vae, x), record)
    canvas = torch.rand(3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(1))
    result, _ = decode_holes(parts, lambda x: decode(vae, x), latent, canvas, boxes_of(cells), record)
    print(f"{kind}: {quality(result, full, cells):.1f} dB")
    assert quality(result, full, cells) > 45
    far = torch.nn.functional.max_pool2d(cells[None].float(), 3, 1, 1)[0].repeat_interleave(8, 0).repeat_interleave(8, 1) == 0
    inside = result != canvas
    assert not bool((inside & far).any()) or kind == "two parts"  # whose boxes are not tight
    assert torch.equal(full, decode(vae, latent))  # and nothing of it stays with the decoder


def test_other_content_is_near_and_nearer_than_without_patches(vae: Any, pack: Any, monkeypatch: pytest.MonkeyPatch):
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes("compact")
    other = torch.where(cells, 2 * noise(vae, 2) + 1, latent)
    canvas, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    full = decode(vae, other)

    def decoded() -> tuple[Tensor, Any]:
        known = with_patches(parts, lambda x: decode(vae, x), record)
        return decode_holes(parts, lambda x: decode(vae, x), other, canvas[0], boxes_of(cells), known)

    result, after = decoded()
    with monkeypatch.context() as patched:
        patched.setattr("lazy_core.patches.spread", lambda canvas: [])
        without, _ = decoded()
    print(f"{quality(result, full, cells):.1f} dB, without patches {quality(without, full, cells):.1f} dB")
    assert quality(result, full, cells) > quality(without, full, cells) + 6
    assert float(record.moved(other)[~cells].max()) == 0 < float(record.moved(other)[cells].min())
    assert float(after.moved(other).max()) == 0
    assert after.edits == 1


def test_tiles_are_noticed(vae: Any, pack: Any):
    """Where the host runs out of memory it decodes in tiles, which a record knows nothing of."""
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes("compact")
    with pytest.raises(NotWholeError):
        decode_and_record(parts, lambda x: decode(vae, x[..., :20]), latent)
    canvas, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    record = with_patches(parts, lambda x: decode(vae, x), record)
    with pytest.raises(NotWholeError):
        decode_holes(parts, lambda x: decode(vae, x[..., :-1, :]), latent, canvas[0], boxes_of(cells), record)
    assert torch.equal(canvas, decode(vae, latent))


def test_pieces_of_a_strip_lie_apart():
    from lazy_core.geometry import Box

    strip = Strip.of([Box(0, 0, 20, 12), *(Box(i, i, i + 6, i + 6) for i in range(9))], 2)
    covered = strip.covered(torch.zeros(0))
    assert int(covered.sum()) == sum(box.times(2).area for box in strip.pieces)
    grown = [place.grown(1) for place in strip.places]
    assert not any(a.overlaps(b) for i, a in enumerate(grown) for b in strip.places[i + 1 :])
