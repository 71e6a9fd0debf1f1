"""What makes an edit fast inside the host, and that it changes nothing: kept keys and values, lazy VAE, attention, out
of memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas
from memory import peak_bytes

SIZE = 192
CANVAS = image_of(random_canvas(np.random.default_rng(3), SIZE, SIZE))
HOLE = mask_of(box_mask(SIZE, SIZE, 30, 20, 70, 60))


@pytest.fixture(scope="module")
def context(lazy: Lazy) -> Any:
    return lazy.encode(CANVAS, HOLE)[0]


@contextmanager
def calls(module: torch.nn.Module) -> Iterator[list[int]]:
    """Batch sizes that a module was called with."""
    seen: list[int] = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    try:
        yield seen
    finally:
        handle.remove()


def decoder_of(lazy: Lazy) -> Any:
    return lazy.model.model.diffusion_model.decoder


@pytest.mark.parametrize(
    "inputs", [{}, {"cfg": 1.0}, {"sampler_name": "dpmpp_2m"}, {"sampler_name": "heun", "denoise": 0.5}]
)
def test_text_keys_and_values_once_per_edit(lazy: Lazy, context: Any, inputs: dict[str, Any]):
    """Both branches of the guidance in one batch, whatever the number of steps."""
    block = decoder_of(lazy).blocks[0].cross_attn
    with calls(block.kv_linear) as prepared, calls(block.q_linear) as steps:
        lazy.decode(context, steps=5, **inputs)
    assert prepared == [1 if inputs.get("cfg") == 1.0 else 2]
    assert len(steps) >= 5
    assert set(steps) == set(prepared)


def test_a_canvas_is_encoded_once_and_then_what_changed(lazy: Lazy):
    """On a large canvas: another mask, and the edit's result under a third one."""
    size = 640
    image = image_of(random_canvas(np.random.default_rng(8), size, size))
    masks = [
        mask_of(box_mask(size, size, *box)) for box in ((100, 100, 160, 160), (400, 420, 460, 480), (300, 40, 350, 90))
    ]
    pixels: list[int] = []
    handle = lazy.vae.first_stage_model.encoder.register_forward_pre_hook(
        lambda _, inputs: pixels.append(inputs[0][0, 0].numel())
    )
    try:
        context = lazy.encode(image, masks[0])[0]
        assert sum(pixels) == size**2
        pixels.clear()
        lazy.encode(image, masks[1])
        assert 0 < sum(pixels) < 0.5 * size**2
        edited = lazy.decode(context)[0]
        pixels.clear()
        lazy.encode(edited, masks[2])
        assert 0 < sum(pixels) < 0.5 * size**2
    finally:
        handle.remove()


def test_the_loaded_model_is_not_in_training(lazy: Lazy):
    """Some of its parts do in training what they must not do in an edit."""
    assert not any(module.training for module in lazy.model.model.diffusion_model.modules())


def test_nothing_is_kept_from_edit_to_edit(lazy: Lazy, context: Any):
    """The same graph with another prompt is another picture; the first prompt again gives the first picture, bit for
    bit.
    """
    first, other, again = (lazy.decode(context, prompt)[0] for prompt in ("panda", "rocket", "panda"))
    assert not torch.equal(first, other)
    assert torch.equal(first, again)


def keys_of_every_step(lazy: Lazy, model: Any, context: Any) -> tuple[int, torch.Tensor]:
    with calls(decoder_of(lazy).blocks[0].cross_attn.kv_linear) as prepared:
        image, _ = lazy.decode(context, model=model, steps=3)
    return len(prepared), image


def test_wrappers_that_may_change_the_prompt_see_every_step(lazy: Lazy, context: Any, comfy: ModuleType):
    """A pack that wraps the model may hand it another text at every step: then nothing is kept, and the result is the
    same.
    """
    wrapped, wrapper = lazy.model.clone(), lazy.model.clone()
    wrapped.set_model_unet_function_wrapper(lambda apply, given: apply(given["input"], given["timestep"], **given["c"]))
    kind = importlib.import_module("comfy.patcher_extension").WrappersMP.APPLY_MODEL
    wrapper.add_wrapper_with_key(kind, "test", lambda executor, *args, **kwargs: executor(*args, **kwargs))
    runs, plain = keys_of_every_step(lazy, lazy.model, context)
    assert runs == 1
    for model in (wrapped, wrapper):
        runs, image = keys_of_every_step(lazy, model, context)
        assert runs == 3
        assert torch.equal(image, plain)


def test_out_of_memory_is_tried_again_in_a_leaner_way(
    lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    """With the text's keys and values kept there is no room; without them there is, and the picture is the same."""
    expected = lazy.decode(context)[0]
    prepared = lazy.pack.nodes.host.model.PreparedPerBatch
    monkeypatch.setattr(prepared, "__init__", no_room)
    with caplog.at_level("WARNING"):
        assert torch.equal(lazy.decode(context)[0], expected)
    assert "ran out of memory" in caplog.text


def test_out_of_memory_in_the_leaner_way_reaches_the_user(lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoder_of(lazy), "step", no_room)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        lazy.decode(context)
    monkeypatch.undo()
    assert lazy.decode(context)[0].shape == CANVAS.shape


def no_room(*_: Any) -> None:
    raise torch.cuda.OutOfMemoryError("no room")


def test_lazy_and_full_vae_decode_agree(lazy: Lazy, context: Any):
    """And the latents are the same, bit for bit."""
    (quick, latent), (full, same) = (lazy.decode(context, vae_decode=how, blend="none") for how in ("lazy", "full"))
    assert torch.equal(latent, same)
    assert float((quick - full).abs().max()) < 0.1 / 255


def test_lazy_decode_sees_the_neighbourhood_alone(lazy: Lazy, context: Any):
    """24 x 24 latents with a hole of 6 x 6 near a corner: the hole and a halo of 6, as far as there is canvas."""
    first, *_, last = lazy.vae.first_stage_model.decoder
    with shapes(first) as seen, shapes(last) as left:
        lazy.decode(context, vae_decode="lazy")
        lazy.decode(context, vae_decode="full")
    assert seen == [(15, 14), (24, 24)]
    assert left[0] < (4 * 15 - 8, 4 * 14 - 8) and left[1] == (96, 96)  # and less of it, the finer the layer


def test_without_memory_for_the_neighbourhood_the_host_decodes_in_tiles(
    lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch
):
    expected, vae = lazy.decode(context, blend="none")[0], lazy.vae.first_stage_model
    plain = vae.decode
    monkeypatch.setattr(vae, "decode", lambda latent, wanted=None: plain(latent) if wanted is None else no_room())
    assert float((lazy.decode(context, blend="none")[0] - expected).abs().max()) < 0.1 / 255


@contextmanager
def shapes(module: torch.nn.Module) -> Iterator[list[tuple[int, ...]]]:
    seen: list[tuple[int, ...]] = []
    handle = module.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[-2:])))
    try:
        yield seen
    finally:
        handle.remove()


def test_attention_on_a_cpu_is_pytorchs_unless_the_user_chose_one(
    lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch
):
    """`--use-split-cross-attention` and its kin are honoured; the results agree."""
    host = lazy.pack.nodes.host.attention
    chosen: list[int] = []
    original = host.optimized_attention
    monkeypatch.setattr(
        host, "optimized_attention", lambda *args, **kwargs: chosen.append(1) or original(*args, **kwargs)
    )
    plain = lazy.decode(context)[0]
    assert chosen == []
    monkeypatch.setattr(host.host_args, "use_split_cross_attention", True)
    image = lazy.decode(context)[0]
    assert chosen
    assert torch.allclose(image, plain, atol=1e-3)


def peak_of_a_warm_step(lazy: Lazy, side: int) -> int:
    """Most bytes that one call of the model holds in the middle of a run, for the same hole on a canvas of `side`
    px.
    """
    hole = mask_of(box_mask(side, side, 32, 32, 96, 96))
    context, _ = lazy.encode(image_of(random_canvas(np.random.default_rng(1), side, side)), hole)
    given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    model = lazy.model.model.diffusion_model
    handle = model.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
    try:
        lazy.decode(context, steps=3)
    finally:
        handle.remove()
    args, kwargs = given[-1]
    with torch.inference_mode():
        return peak_bytes(lambda: model(*args, **kwargs))


def test_a_warm_step_knows_nothing_of_the_canvas(lazy: Lazy):
    """256, 512 and 1024 px, 16 tokens of hole in each: a step allocates the same, not in proportion to the canvas."""
    peaks = [peak_of_a_warm_step(lazy, side) for side in (256, 512, 1024)]
    print(f"peak bytes of a warm step on 256, 512, 1024 px: {peaks}")
    assert max(peaks) < 1.02 * min(peaks)


def test_fifty_edits_move_nothing_outside(lazy: Lazy):
    """Each edit's result is the next one's canvas: outside each hole bit-identical, and no seam grows where windows
    end.
    """
    rng = np.random.default_rng(8)
    image = image_of(random_canvas(rng, 160, 160))
    for index in range(50):
        top, left = (int(value) for value in rng.integers(0, 100, 2))
        hole = mask_of(box_mask(160, 160, top, left, top + 48, left + 56))
        context, _ = lazy.encode(image, hole)
        quick, full = (
            lazy.decode(context, seed=index, steps=1, cfg=1.0, vae_decode=how)[0] for how in ("lazy", "full")
        )
        assert torch.equal(quick[hole == 0], image[hole == 0])
        assert float((quick - full).abs().max()) < 0.2 / 255, f"edit {index}"
        image = quick
