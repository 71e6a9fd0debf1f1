"""VAEs that see the whole picture (GroupNorm, attention): with a record, holes decode like the whole."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.recorded import random_vae, sequence
from benchmarks.stock import load_pack
from lazy_core.vae.autoencoder_kl.atlas import Atlas, UnexpectedShapeError
from lazy_core.vae.autoencoder_kl.decoder import Records
from lazy_core.vae.autoencoder_kl.hole_pass import HOLE_HALOS, decode_holes, with_probes
from lazy_core.vae.autoencoder_kl.record import Parts, decode_and_record
from lazy_core.vae.windows import windows

SIDE = 32  # latents: a canvas of 256 px


@pytest.fixture(scope="module", params=["sdxl", "flux"])
def vae(request: pytest.FixtureRequest, comfy: Any) -> Any:
    return random_vae(request.param, 32)


@pytest.fixture(scope="module")
def sdxl(comfy: Any) -> Any:
    return random_vae("sdxl", 32)


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
    return importlib.import_module(f"{pack.__name__}.nodes.host.kl_decoder").parts_of(vae.decoder)


def boxes_of(cells: Tensor) -> list[Any]:
    return [window.valid for window in windows(cells, HOLE_HALOS[0])]


@pytest.mark.parametrize("kind", ["compact", "corner", "two parts"])
def test_what_was_recorded_comes_back(vae: Any, pack: Any, kind: str):
    """Recording changes nothing; the recorded latent's own holes differ by their halo alone; the canvas is untouched
    elsewhere.
    """
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes(kind)
    full, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    assert torch.equal(full, decode(vae, latent))
    record = with_probes(parts, lambda x: decode(vae, x), record)
    canvas = torch.rand(3, 8 * SIDE, 8 * SIDE, generator=torch.Generator().manual_seed(1))
    result, _ = decode_holes(parts, lambda x: decode(vae, x), latent, canvas, boxes_of(cells), record)
    print(f"{kind}: {quality(result, full, cells):.1f} dB")
    assert quality(result, full, cells) > 45
    far = (
        torch.nn.functional.max_pool2d(cells[None].float(), 3, 1, 1)[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
        == 0
    )
    inside = result != canvas
    assert not bool((inside & far).any()) or kind == "two parts"  # whose boxes are not tight
    assert torch.equal(full, decode(vae, latent))  # and nothing of it stays with the decoder


def test_other_content_is_near_and_nearer_than_without_probes(vae: Any, pack: Any, monkeypatch: pytest.MonkeyPatch):
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes("compact")
    other = torch.where(cells, 1.3 * noise(vae, 2) + 0.3, latent)
    canvas, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    full = decode(vae, other)

    def decoded() -> tuple[Tensor, Any]:
        known = with_probes(parts, lambda x: decode(vae, x), record)
        return decode_holes(parts, lambda x: decode(vae, x), other, canvas[0], boxes_of(cells), known)

    result, after = decoded()
    with monkeypatch.context() as patched:
        patched.setattr("lazy_core.vae.autoencoder_kl.probes.spread", lambda canvas: [])
        without, _ = decoded()
    print(f"{quality(result, full, cells):.1f} dB, without probes {quality(without, full, cells):.1f} dB")
    assert quality(result, full, cells) > quality(without, full, cells) + 3
    assert float(record.moved(other)[~cells].max()) == 0 < float(record.moved(other)[cells].min())
    assert float(after.moved(other).max()) == 0
    assert after.edits == 1


def test_tiles_are_noticed(vae: Any, pack: Any):
    """Where the host runs out of memory it decodes in tiles, which a record knows nothing of."""
    latent, parts, cells = noise(vae, 0), parts_of(vae, pack), holes("compact")
    with pytest.raises(UnexpectedShapeError):
        decode_and_record(parts, lambda x: decode(vae, x[..., :20]), latent)
    canvas, record = decode_and_record(parts, lambda x: decode(vae, x), latent)
    record = with_probes(parts, lambda x: decode(vae, x), record)
    with pytest.raises(UnexpectedShapeError):
        decode_holes(parts, lambda x: decode(vae, x[..., :-1, :]), latent, canvas[0], boxes_of(cells), record)
    assert torch.equal(canvas, decode(vae, latent))


def test_pieces_of_a_strip_lie_apart():
    from lazy_core.geometry import Box

    strip = Atlas.of([Box(0, 0, 20, 12), *(Box(i, i, i + 6, i + 6) for i in range(9))], 2)
    covered = strip.covered(torch.zeros(0))
    assert int(covered.sum()) == sum(box.times(2).area for box in strip.pieces)
    grown = [slot.grown(1) for slot in strip.slots]
    assert not any(a.overlaps(b) for i, a in enumerate(grown) for b in strip.slots[i + 1 :])


# -- records -----------------------------------------------------------------------------------------------------------
WIDE = 48  # latents: large enough for a hole beside the probes


class Counted:
    """A decoder that notes what it was given."""

    def __init__(self, vae: Any):
        self.vae, self.sizes = vae, []

    def __call__(self, latent: Tensor) -> Tensor:
        self.sizes.append(tuple(latent.shape[-2:]))
        return decode(self.vae, latent)

    @property
    def fulls(self) -> int:
        return self.sizes.count((WIDE, WIDE))


def content(vae: Any, seed: int) -> Tensor:
    """Latents of a photograph's kind: some smooth, some not."""
    noise = torch.randn(1, vae.decoder.z_shape[1], WIDE, WIDE, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 7, 1, 3)
    return 0.5 * noise + smooth * (0.3 / smooth.std())


def box_at(top: int, left: int, height: int = 7, width: int = 6) -> Tensor:
    cells = torch.zeros(WIDE, WIDE, dtype=torch.bool)
    cells[top : top + height, left : left + width] = True
    return cells


NIGHTLY = [pytest.param(*case, marks=pytest.mark.nightly) for case in (("astronaut", 50), ("flat", 10), ("flat", 50))]


@pytest.mark.parametrize(("canvas", "count"), [("astronaut", 10), *NIGHTLY])
def test_many_edits_do_not_drift(comfy: Any, canvas: str, count: int):
    """Each edit's result is the next one's canvas. `sequence` compares every hole with a full decode, and all else bit
    for bit.
    """
    load_pack()
    edits = sequence(random_vae("sdxl", 32), canvas, 384, count)
    few = count * 3 // 10
    early, late = (sorted(edit.psnr for edit in part if not edit.full) for part in (edits[:few], edits[-few:]))
    middle = early[len(early) // 2], late[len(late) // 2]
    worst, rim, full = (
        min(edit.psnr for edit in edits),
        min(edit.rim for edit in edits),
        sum(edit.full for edit in edits),
    )
    print(
        f"{canvas}: medians of the first and last {few} {middle} dB, worst {worst} dB, worst rim {rim} dB, {full}"
        " decoded in full"
    )
    assert full < 0.4 * count
    assert worst > 33  # 32 channels: 64 are at 44, and true sizes above that
    if count >= 50:  # the very first edits are the nearest
        assert middle[1] > middle[0] - 6  # the canvas is another by then
    assert rim > min(worst - 4, 42)  # no edge that a full decode lacks


def test_the_first_decode_is_the_full_one_and_others_are_near(sdxl: Any, pack: Any):
    """Another hole on the same canvas, the same one again, another canvas, another VAE."""
    parts, counted, records = parts_of(sdxl, pack), Counted(sdxl), Records(limit=256 << 20)
    latent, cells = content(sdxl, 0), box_at(10, 12)
    canvas = decode(sdxl, latent)

    def edit(name: str, latent: Tensor, cells: Tensor) -> float:
        return quality(
            records.decode(name, parts, counted, latent, canvas, cells[None])[0], decode(sdxl, latent), cells
        )

    assert edit("a", torch.where(cells, content(sdxl, 1), latent), cells) > 100  # bit for bit
    again = edit("a", torch.where(cells, content(sdxl, 2), latent), cells)
    other = box_at(25, 3)
    elsewhere = edit(
        "a", torch.where(other, content(sdxl, 3), latent), other
    )  # what the first hole showed is gone again
    print(f"the same hole {again:.1f} dB, another {elsewhere:.1f} dB")
    assert counted.fulls == 1
    assert min(again, elsewhere) > 32
    assert max(again, elsewhere) < 100
    edit("a", content(sdxl, 4), cells)
    assert counted.fulls == 2
    edit("b", latent, cells)
    assert counted.fulls == 3
    edit("a", latent, torch.ones_like(cells))  # nothing is left of the canvas
    assert counted.fulls == 4


def test_records_are_bounded_and_edits_of_one_hole_replace_each_other(sdxl: Any, pack: Any):
    parts, counted = parts_of(sdxl, pack), Counted(sdxl)
    latent, cells = content(sdxl, 0), box_at(10, 12)
    canvas, records = decode(sdxl, latent), Records(limit=256 << 20)
    for seed in range(4):
        records.decode("a", parts, counted, torch.where(cells, content(sdxl, seed), latent), canvas, cells[None])
    assert len(records.cache) == 2
    one = records.cache.bytes // 2
    small = Records(limit=one + one // 2)
    for seed in range(3):
        small.decode("a", parts, counted, content(sdxl, seed), canvas, cells[None])
        assert len(small.cache) == 1
        assert small.cache.bytes <= small.cache.limit
    nothing = Records(limit=1 << 30, free=lambda: 0)
    nothing.decode("a", parts, counted, latent, canvas, cells[None])
    assert len(nothing.cache) == 0


def test_a_batch_goes_image_by_image(sdxl: Any, pack: Any):
    parts, counted, records = parts_of(sdxl, pack), Counted(sdxl), Records(limit=256 << 20)
    latents, cells = torch.cat([content(sdxl, 0), content(sdxl, 1)]), torch.stack([box_at(3, 5), box_at(20, 20)])
    canvas = torch.cat([decode(sdxl, each) for each in latents.split(1)])
    first = records.decode("a", parts, counted, latents, canvas, cells)
    assert torch.equal(first, canvas)
    edited = torch.where(cells[:, None], torch.cat([content(sdxl, 2), content(sdxl, 3)]), latents)
    second = records.decode("a", parts, counted, edited, canvas, cells)
    assert counted.fulls == 2
    assert min(quality(second[i], decode(sdxl, edited[i : i + 1]), cells[i]) for i in range(2)) > 32


def test_a_host_that_went_over_to_tiles_is_left_to_it(sdxl: Any, pack: Any, monkeypatch: pytest.MonkeyPatch):
    parts, records, latent = parts_of(sdxl, pack), Records(limit=256 << 20), content(sdxl, 0)
    canvas, calls, cells = decode(sdxl, latent), [], box_at(3, 5)
    monkeypatch.setattr("lazy_core.vae.autoencoder_kl.decoder.BACKOFF", 3)

    def tiled(x: Tensor) -> Tensor:
        calls.append(x.shape)
        return torch.cat([decode(sdxl, half) for half in x.split(WIDE // 2, 3)], 3)

    expected = tiled(latent)
    for _ in range(4):
        assert torch.equal(records.decode("a", parts, tiled, latent, canvas, cells[None]), expected)
    assert len(calls) == 1 + 2 + 3  # the second to fourth did not try
    assert len(records.cache) == 0
    again = Counted(sdxl)  # there is memory again
    records.decode("a", parts, again, latent, canvas, cells[None])
    assert len(records.cache) == 1


@pytest.mark.parametrize(
    "wrong", [KeyError, *(pytest.param(each, marks=pytest.mark.nightly) for each in (ValueError, RuntimeError))]
)
def test_no_edit_fails_for_the_sake_of_time(
    sdxl: Any, pack: Any, monkeypatch: pytest.MonkeyPatch, wrong: type[Exception]
):
    parts, records, latent, cells = parts_of(sdxl, pack), Records(limit=256 << 20), content(sdxl, 0), box_at(3, 5)
    canvas, other = decode(sdxl, latent), torch.where(cells, content(sdxl, 1), latent)
    records.decode("a", parts, Counted(sdxl), latent, canvas, cells[None])

    def fails(*given: Any) -> Any:
        raise wrong("on purpose")

    monkeypatch.setattr("lazy_core.vae.autoencoder_kl.probes.shares", fails)
    assert torch.equal(records.decode("a", parts, Counted(sdxl), other, canvas, cells[None]), decode(sdxl, other))

    class CancelledError(Exception):
        pass

    def cancelled(x: Tensor) -> Tensor:
        raise CancelledError

    with pytest.raises(CancelledError):
        Records(limit=1 << 20).decode("a", parts, cancelled, latent, canvas, cells[None])


def test_nothing_finite_nothing_recorded_and_nothing_to_do(sdxl: Any, pack: Any):
    parts, records, latent = parts_of(sdxl, pack), Records(limit=256 << 20), content(sdxl, 0)
    canvas, cells, broken = decode(sdxl, latent), box_at(3, 5), torch.full_like(content(sdxl, 0), torch.nan)
    records.decode("a", parts, Counted(sdxl), broken, canvas, cells[None])
    assert len(records.cache) == 0
    counted = Counted(sdxl)
    assert torch.equal(records.decode("a", parts, counted, latent, canvas, torch.zeros_like(cells)[None]), canvas)
    assert counted.sizes == []
    small = latent[..., :6, :6]  # too small for probes
    picture = decode(sdxl, small)
    for _ in range(2):
        assert torch.equal(
            records.decode("a", parts, Counted(sdxl), small, picture, cells[None, :6, :6] | True), picture
        )
    assert len(records.cache) == 0
    tight = Records(limit=1 << 10)
    for expected in (1, 1):  # decoded in full each time, and recorded for nothing only once
        again = Counted(sdxl)
        tight.decode("a", parts, again, latent, canvas, cells[None])
        assert again.fulls == expected
    assert tight.take_backoff(f"a/{tuple(latent.shape)}/")


# -- nodes -------------------------------------------------------------------------------------------------------------
def as_host_vae(module: Any) -> Any:
    """The host's VAE object, around a decoder narrower than any that it loads."""
    import comfy.model_management as mm
    import comfy.sd
    from comfy.model_patcher import ModelPatcher

    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    vae.downscale_ratio = vae.upscale_ratio = 8
    vae.latent_channels, vae.output_channels, vae.first_stage_model = module.decoder.z_shape[1], 3, module
    vae.process_input, vae.process_output = lambda image: image * 2 - 1, lambda image: ((image + 1) / 2).clamp(0, 1)
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: 1 << 20
    vae.patcher = ModelPatcher(module, load_device=vae.device, offload_device=mm.vae_offload_device())
    return vae


def with_latents_like_noise(vae: Any) -> Any:
    """As trained ones have them: what a model makes of noise does not stand out of the canvas."""
    vae = copy.deepcopy(vae)
    scale = {4: 1 / 0.18215, 16: 1 / 0.3611}[vae.decoder.z_shape[1]] / float(
        vae.encode(torch.randn(1, 3, 64, 64)).std()
    )
    for parameter in (
        *vae.encoder.conv_out.parameters(),
        *getattr(vae, "quant_conv", torch.nn.Identity()).parameters(),
    ):
        parameter.data *= scale ** (0.5 if hasattr(vae, "quant_conv") else 1)
    return vae


def test_lazy_decode_with_a_stock_vae(vae: Any, lazy: Any, comfy: Any):
    """The first edit is the full decode's bit for bit; the next ones decode around the hole; the canvas is untouched;
    `full` is as ever.
    """
    from host_graphs import box_mask, image_of, mask_of, random_canvas
    from stock_models import conditioning, make_stock

    name = "pixart" if vae.decoder.z_shape[1] == 4 else "flux"
    model, stock = make_stock(name), as_host_vae(with_latents_like_noise(vae))
    image, hole = (
        image_of(random_canvas(np.random.default_rng(0), 384, 384)),
        mask_of(box_mask(384, 384, 96, 80, 128, 112)),
    )
    with torch.inference_mode():
        context, _ = lazy.encode(image, hole, model=model, vae=stock, reuse="fast")
        given = {
            "model": model,
            "vae": stock,
            "positive": conditioning(name, 3),
            "negative": conditioning(name, 4),
            "steps": 1,
            "denoise": 0.05,  # models of random weights make of noise what no canvas has
            "blend": "none",
        }
        edits = [
            [lazy.decode(context, seed=seed, vae_decode=how, **given)[0] for how in ("lazy", "full")]
            for seed in (1, 2, 3)
        ]
    assert torch.equal(*edits[0])
    for quick, full in edits[1:]:
        psnr = float(-10 * (quick - full)[hole > 0].square().mean().log10())
        print(f"{name}: {psnr:.1f} dB")
        assert 35 < psnr < 100
        assert torch.equal(quick[hole == 0], image[hole == 0])


def test_what_a_record_cannot_know_decodes_in_full(lazy: Any, pack: Any, vae: Any):
    stock = importlib.import_module(f"{pack.__name__}.nodes.host.vae")
    import comfy.sd

    assert stock.hole_decoder(lazy.vae, lambda x: x) is not None
    assert stock.hole_decoder(comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)}), lambda x: x) is None
    assert stock.parts_of(vae.decoder) is not None
    assert stock.parts_of(vae.encoder) is None
    other = copy.deepcopy(vae.decoder)
    other.mid.extra = torch.nn.Linear(2, 2)
    assert stock.parts_of(other) is None
    other = copy.deepcopy(vae.decoder)
    other.conv_in._conv_forward = lambda *given: None  # as packs for seamless tiling do
    assert stock.parts_of(other) is None
    other = copy.deepcopy(vae.decoder)
    other.conv_out.padding_mode = "circular"
    assert stock.parts_of(other) is None
    handle = vae.decoder.mid.register_forward_hook(lambda *given: None)
    assert stock.parts_of(vae.decoder) is None
    handle.remove()
    assert stock.parts_of(vae.decoder) is not None
