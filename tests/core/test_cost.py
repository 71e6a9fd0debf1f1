"""It is lazy: operations and memory of a decoder step follow the hole."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import beside
from benchmarks.holes import hole
from lazy_core import throughput
from lazy_core.config import PRESETS, LazyConfig
from lazy_core.cost import encoder_flops, step_flops
from lazy_core.model import initialise
from lazy_core.networks.context_encoder import ContextEncoder
from lazy_core.networks.decoder import Conditioning, LazyDecoder
from lazy_core.networks.layers import Build
from lazy_core.networks.transformer import store_for_few_rows
from lazy_core.tokens import HoleTokens
from lazy_core.vae.canvas_cache import CanvasCache
from memory import Written, peak_bytes

TEXT = 120


def decoder_on_meta(config: LazyConfig) -> LazyDecoder:
    return LazyDecoder(config, Build(device="meta"))


def step(decoder: LazyDecoder, tokens: int) -> None:
    config = decoder.config
    empty = lambda *shape: torch.empty(*shape, device="meta")  # noqa: E731
    with torch.no_grad():
        context, coordinates, caption = (
            empty(1, tokens, config.encoder_width),
            empty(1, tokens, 2),
            empty(1, TEXT, config.caption_width),
        )
        conditioning = Conditioning(context, coordinates, caption, image_size=(1024, 1024))
        decoder(empty(1, tokens, config.latent_channels * config.patch_size**2), empty(1), conditioning)


def counted(decoder: LazyDecoder, tokens: int) -> int:
    with FlopCounterMode(display=False) as counter:
        step(decoder, tokens)
    return counter.get_total_flops()


def test_operations_of_a_ten_percent_hole():
    """`pixart-xl` at 1024 x 1024 px: 4096 tokens."""
    decoder = decoder_on_meta(PRESETS["pixart-xl"])
    full, hole = counted(decoder, 4096), counted(decoder, 410)
    print(
        f"pixart-xl step at 1024 px: {full / 1e12:.2f} TFLOP on all tokens, {hole / 1e12:.3f} TFLOP at 10 % ="
        f" {100 * hole / full:.2f} %"
    )
    assert hole <= 0.11 * full
    for tokens, measured in ((4096, full), (410, hole)):
        assert abs(step_flops(decoder.config, tokens, TEXT) / measured - 1) < 0.02


def test_operations_of_the_encoder():
    encoder = ContextEncoder(PRESETS["pixart-xl"], Build(device="meta"))
    latent, hole = torch.empty(1, 5, 128, 128, device="meta"), torch.empty(1, 4096, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(latent[:, :4], latent[:, 4:], HoleTokens(hole, hole.bool(), 4096), torch.empty(4096, 2, device="meta"))
    assert abs(encoder_flops(PRESETS["pixart-xl"], 4096) / counter.get_total_flops() - 1) < 0.02


def test_a_steps_time_is_a_blocks_time_scaled(monkeypatch: pytest.MonkeyPatch):
    """The block is timed once for each size, on 1024 tokens at most; beyond, time follows the counted operations."""
    decoder, asked = decoder_on_meta(PRESETS["fluent-small"]), []

    def timed(decoder: LazyDecoder, tokens: int, text_tokens: int, images: int, dtype: torch.dtype) -> float:
        asked.append((tokens, images))
        return 0.25 * images  # seconds

    monkeypatch.setattr(throughput, "block_seconds", timed)
    monkeypatch.setattr(throughput, "_MEASURED", {})
    seconds = lambda tokens, images: throughput.step_seconds(decoder, tokens, TEXT, images, torch.float32)  # noqa: E731
    assert seconds(256, 2) == pytest.approx(2 * 0.25 * decoder.config.depth)
    assert seconds(256, 8) == pytest.approx(4 * seconds(256, 2))
    flops = lambda tokens: step_flops(decoder.config, tokens, TEXT, kept_text=True)  # noqa: E731
    assert seconds(4096, 2) == pytest.approx(seconds(1024, 2) * flops(4096) / flops(1024))
    assert asked == [(256, 2), (1024, 2)]


def test_an_estimated_step_takes_what_a_step_takes():
    """Within a third, in one thread's processor time, as others may use the machine. `benchmarks.saved` measures it in
    the nodes.
    """
    config = replace(PRESETS["fluent-small"], depth=4)
    decoder = LazyDecoder(config, Build()).eval()
    initialise(decoder, torch.Generator().manual_seed(0))
    x, context = torch.randn(2, 256, config.latent_channels * 4), torch.randn(2, 256, config.encoder_width)
    text, threads = torch.randn(2, 16, config.caption_width), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(throughput.time, "perf_counter", time.thread_time)
            patch.setattr(throughput, "_MEASURED", {})
            given = decoder.prepare(Conditioning(context, torch.rand(2, 256, 2), text), shared_timestep=True)
            taken = []
            for _ in range(3):
                begin = time.thread_time()
                decoder.step(x, torch.tensor([500.0, 500.0]), given)
                taken.append(time.thread_time() - begin)
            assert throughput.step_seconds(decoder, 256, 16, 2, torch.float32) == pytest.approx(min(taken), rel=0.33)
    finally:
        torch.set_num_threads(threads)


def peak(decoder: LazyDecoder, hole: int) -> int:
    """Most bytes that a step on the CPU holds beside the weights, from the profiler's record of every allocation and
    release.
    """
    config = decoder.config
    tokens = torch.randn(1, hole, config.latent_channels * config.patch_size**2)
    context, coordinates = torch.randn(1, hole, config.encoder_width), torch.randn(1, hole, 2)
    conditioning = Conditioning(context, coordinates, torch.randn(1, 16, config.caption_width), image_size=(1024, 1024))
    with torch.no_grad():
        return peak_bytes(lambda: decoder(tokens, torch.tensor([500.0]), conditioning))


def test_memory_grows_with_the_hole():
    """Nothing in a step knows N: its peak is a straight line in K, measured at three K."""
    decoder = LazyDecoder(
        replace(PRESETS["pixart-xl"], width=288, depth=2, heads=4, caption_width=64, encoder_width=288), Build()
    )
    small, middle, large = (peak(decoder, tokens) for tokens in (512, 1024, 2048))
    print(f"peak bytes of a step at 512, 1024, 2048 hole tokens: {small:,} {middle:,} {large:,}")
    assert 1.8 < middle / small < 2.2
    assert 1.8 < large / middle < 2.2


def test_weights_column_by_column_are_the_same_weights():
    """And `state_dict`, which a checkpoint is written from, does not tell the difference."""
    decoder = LazyDecoder(PRESETS["tiny"], Build())
    initialise(decoder, torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in decoder.state_dict().items()}
    store_for_few_rows(decoder)
    assert all(torch.equal(value, before[key]) for key, value in decoder.state_dict().items())
    linear = [module for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
    assert linear
    assert all(module.weight.t().is_contiguous() for module in linear)


@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
def test_what_an_edit_writes_beside_its_networks(blend):
    """The new canvas, and those that the cache of canvases keeps and compares: all else follows the hole, here 1 % of
    2048 px.
    """
    image, mask = torch.rand(1, 2048, 2048, 3).movedim(-1, 1), hole("compact", 0.01, 2048)[None]
    known = CanvasCache(1 << 30)
    context = beside.encode(known, image, mask)
    with Written() as first:
        beside.encode(CanvasCache(1 << 30), image, mask)
    with Written() as following:
        beside.encode(known, image, mask.roll(64, -1))
    with Written() as decode:
        beside.decode(context, blend)
    canvases = [each.bytes / image.nbytes for each in (first, following, decode)]
    print(
        f"{blend}: encoding writes {canvases[0]:.2f}, the next canvas {canvases[1]:.2f}, decoding {canvases[2]:.2f}"
        " canvases"
    )
    assert canvases[0] < 2.5
    assert canvases[1] < 3.2
    assert canvases[2] < 1.4
