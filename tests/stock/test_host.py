"""Stock models made lazy leave the host as it was: LoRA, KSampler, other models, cancelling, batches, outside
pixels.
"""

from __future__ import annotations

import gc
import importlib
import weakref
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_edits import SEED, canvas_and_holes, hole_of, host_run
from stock_models import STOCK, conditioning, make_stock, reads_references, reference, vae_of

SIZE = (256, 320)
ONE_OF_EACH_HOOK = ("flux", "z-image", "sd3", "pixart", "ernie")


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def edit(
    lazy: Lazy, name: str, model: Any, reuse: str = "balanced", picture: Any = None, **widgets: Any
) -> tuple[Any, Tensor, Tensor]:
    """-> CONTEXT, IMAGE, the LATENT's samples."""
    image, mask = picture or canvas_and_holes(*SIZE)
    context, _ = lazy.encode(image, mask, model=model, vae=vae_of(name), reuse=reuse)
    given = {"model": model, "vae": vae_of(name), "positive": conditioning(name, 3), "negative": conditioning(name, 4)}
    return context, *lazy.decode(context, **{**given, "seed": SEED, "steps": 4, "cfg": 3.0, **widgets})


def sample(name: str, model: Any, context: Any) -> Tensor:
    """The host's own sampling of all tokens."""
    return host_run(model, context, conditioning(name, 3), conditioning(name, 4), 3.0, {})


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_lora_counts(lazy: Lazy, name: str):
    """Weight patches of the host, in full and in sparse passes: `exact` equals the host's run, and differs from the run
    without.
    """
    model = make_stock(name).clone()
    keys = [key for key in model.model_state_dict() if key.endswith(("qkv.weight", "to_v.weight"))][:4]
    assert keys
    patches = {key: (torch.randn(model.model_state_dict()[key].shape) * 0.1,) for key in keys}
    assert set(model.add_patches(patches, 1.0)) == set(keys)
    context, _, latent = edit(lazy, name, model, "exact", steps=3)
    expected = hole_of(sample(name, model, context), context)
    assert (hole_of(latent, context) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert (
        hole_of(sample(name, make_stock(name), context), context) - expected
    ).abs().max() > 1e-2 * expected.abs().max()
    with_lora, without = (edit(lazy, name, m, "fast")[2] for m in (model, make_stock(name)))
    assert (with_lora - without).abs().max() > 1e-3


@pytest.mark.parametrize("name", STOCK)
def test_presets_trade_passes_for_fidelity(lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch):
    runs = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    seen: list[Any] = []
    make = runs.Run
    monkeypatch.setattr(runs, "Run", lambda *args: seen.append(make(*args)) or seen[-1])
    model, latents = make_stock(name), {}
    for reuse in ("exact", "balanced", "fast"):
        context, _, latents[reuse] = edit(lazy, name, model, reuse, steps=20, cfg=1.0)
    passes = [run.passes for run in seen]
    balanced = {"full": 3, "sparse": 19} if name in ("pixart", "anima") else {"full": 2, "sparse": 20}
    assert passes == [balanced, {"full": 1, "sparse": 20}]  # and exact is the host's own run
    exact = hole_of(latents["exact"], context)
    errors = [
        float((hole_of(latents[reuse], context) - exact).square().mean().sqrt() / exact.std()) for reuse in latents
    ]
    print(f"{name}: error relative to the hole's spread {dict(zip(latents, errors, strict=True))}")
    assert errors[1] > 1e-6  # they are approximations, and this would notice if they were not run
    assert errors[2] > 1e-6


def test_a_reference_that_the_host_does_not_read_is_none(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """Z-Image on 0.3.75: it lies in the prompt, and nothing takes it."""
    if reads_references():
        pytest.skip("this host's Z-Image reads references")
    without = edit(lazy, "z-image", make_stock("z-image"), "fast")[2]
    monkeypatch.setitem(STOCK, "z-image", replace(STOCK["z-image"], extra=reference))
    assert torch.equal(edit(lazy, "z-image", make_stock("z-image"), "fast")[2], without)


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_stock_nodes_beside_ours_give_the_same_bits(lazy: Lazy, name: str):
    model = make_stock(name)
    context, _, first = edit(lazy, name, model)
    fresh = sample(name, make_stock(name), context)
    assert torch.equal(sample(name, model, context), fresh)
    _, _, again = edit(lazy, name, model)
    assert torch.equal(again, first)
    assert torch.equal(sample(name, model, context), fresh)


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_another_model_sees_nothing_of_the_first(lazy: Lazy, name: str):
    """Same canvas, mask, prompt and seed, other weights; the CONTEXT may even be the same."""
    alone = edit(lazy, name, make_stock(name, seed=1))[2]
    edit(lazy, name, make_stock(name))
    assert torch.equal(edit(lazy, name, make_stock(name, seed=1))[2], alone)


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_cancel_in_the_middle_leaves_nothing(lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch):
    import comfy.model_management as mm

    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    runs: list[Any] = []
    make, progress = edits.Run, edits.progress

    def cancelled(*args: Any) -> Any:
        def callback(step: int, *_: Any) -> None:
            if step == 1:
                raise mm.InterruptProcessingException

        return callback

    def noted(*args: Any) -> Any:
        run = make(*args)
        runs.append(weakref.ref(run))
        return run

    model = make_stock(name)
    with monkeypatch.context() as patch:
        patch.setattr(edits, "Run", noted)
        patch.setattr(edits, "progress", cancelled)
        with pytest.raises(mm.InterruptProcessingException):
            edit(lazy, name, model)
    assert edits.progress is progress
    context, _, _ = edit(lazy, name, model, "exact")
    assert torch.equal(sample(name, model, context), sample(name, make_stock(name), context))
    del model
    mm.cleanup_models()
    gc.collect()
    assert runs
    assert all(run() is None for run in runs), "keys and values of a cancelled run are still alive"


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_edit_after_edit_holds_no_more_than_one(lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch):
    """On one MODEL, as a server keeps it: no edit's keys and values outlive it, nor does any run the edit after it."""
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    runs: list[Any] = []
    make = edits.Run

    def noted(*args: Any) -> Any:
        run = make(*args)
        runs.append(weakref.ref(run))
        return run

    monkeypatch.setattr(edits, "Run", noted)
    model = make_stock(name)
    for _ in range(4):
        edit(lazy, name, model, steps=2)
        gc.collect()
        assert all(run() is None for run in runs[:-1]), "the next edit wraps what the last one left"
        assert runs[-1]() is None or runs[-1]().kept.nbytes == 0
    assert len(runs) == 4


def test_images_of_a_batch_keep_their_own_holes(lazy: Lazy):
    """Two images, two masks of different size: each result is that of the image alone, with its own noise."""
    image, mask = canvas_and_holes(*SIZE)
    other = torch.zeros_like(mask)
    other[:, 100:180, 30:200] = 1
    pair = torch.cat([image, image.flip(1)]), torch.cat([mask, other])
    model = make_stock("flux")
    context, result, latent = edit(lazy, "flux", model, picture=pair)
    assert context.hole.token_mask is not None
    _, _, first = edit(lazy, "flux", model, picture=(pair[0][:1], pair[1][:1]))
    torch.testing.assert_close(latent[:1], first, rtol=1e-4, atol=1e-5)
    outside = pair[1] < 0.5
    assert torch.equal(result[outside], pair[0][outside])
    assert not torch.equal(result[1], pair[0][1])


@pytest.mark.parametrize("name", STOCK)
def test_outside_is_untouched_and_inputs_are_not_written_to(lazy: Lazy, name: str):
    image, mask = canvas_and_holes(250, 310)  # no multiple of a token
    before = image.clone(), mask.clone()
    positive = conditioning(name, 3)
    given = set(positive[0][1])
    _, result, _ = edit(lazy, name, make_stock(name), picture=(image, mask), positive=positive, steps=2)
    outside = mask < 0.5
    assert torch.equal(result[outside], image[outside])
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])
    assert set(positive[0][1]) == given


def test_a_weak_token_of_a_soft_mask_is_of_the_hole(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """Passes over all tokens take what the run has made of it so far, however weak it is."""
    runs, seen = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.run"), []
    start = runs.Run.start
    monkeypatch.setattr(runs.Run, "start", lambda run, canvas: (seen.append(canvas.hole), start(run, canvas)))
    image, mask = canvas_and_holes(*SIZE)
    mask[:, 20:60, 16:43] = 0.3
    context, _, _ = edit(lazy, "flux", make_stock("flux"), picture=(image, mask), steps=2)
    cells = context.hole.cells(context.grid.cols, context.grid.patch)
    assert float(context.strength[context.strength > 0].min()) < 0.5
    assert torch.equal(seen[0], cells > 0)


def test_a_mask_for_the_model_fits_its_picture_at_any_size(lazy: Lazy):
    """Both are of whole tokens: the host would stretch a smaller mask over the latents."""
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    model, (image, mask) = make_stock("flux-fill"), canvas_and_holes(250, 310)
    context, _ = lazy.encode(image, mask, model=model, vae=vae_of("flux-fill"))
    positive, _ = edits.with_picture(conditioning("flux-fill", 3), conditioning("flux-fill", 4), context)
    given, scale = positive[0][1], context.grid.scale
    assert [scale * side for side in given["concat_latent_image"].shape[-2:]] == list(given["concat_mask"].shape[-2:])
    assert torch.equal(context.grid.crop(given["concat_mask"])[0, 0], mask[0])


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "uni_pc"])
def test_samplers_of_every_kind_run(lazy: Lazy, sampler: str):
    """Several calls a step, memory of earlier steps, noise of their own: nearer to `exact` than another seed is, by
    far.
    """
    model, latents = make_stock("flux"), {}
    for name, reuse, seed in (("lazy", "balanced", 1), ("exact", "exact", 1), ("other", "exact", 2)):
        context, _, latents[name] = edit(lazy, "flux", model, reuse, sampler_name=sampler, steps=5, seed=seed)
    found, exact, other = (hole_of(latents[name], context) for name in ("lazy", "exact", "other"))
    error, apart = (float((each - exact).square().mean().sqrt()) for each in (found, other))
    print(f"{sampler}: {error:.3f} from exact, another seed {apart:.3f}")
    assert 0 < error < 0.3 * apart


def test_a_sketch_binds_with_its_strength(lazy: Lazy):
    image, mask = canvas_and_holes(*SIZE)
    model, vae = make_stock("flux"), vae_of("flux")
    context, _ = lazy.encode(image, mask, model=model, vae=vae)
    given = {
        "model": model,
        "vae": vae,
        "positive": conditioning("flux", 3),
        "negative": conditioning("flux", 4),
        "steps": 10,
    }
    distances = []
    for strength in (0.1, 0.5, 0.9):
        sketched = lazy.call("LazySketchCondition", context=context, vae=vae, sketch=1 - image, strength=strength).args[
            0
        ]
        _, latent = lazy.decode(sketched, **given)
        distances.append(float((hole_of(latent, context) - sketched.sketch.tokens).abs().mean()))
    assert distances[0] > distances[1] > distances[2]


def test_partial_denoise_keeps_some_of_the_hole(lazy: Lazy):
    model = make_stock("flux")
    context, _, whole = edit(lazy, "flux", model)
    _, _, none = edit(lazy, "flux", model, denoise=0.0)
    _, _, half = edit(lazy, "flux", model, denoise=0.5)
    start, ends = hole_of(none, context), [hole_of(x, context) for x in (half, whole)]
    assert (ends[0] - start).abs().mean() < (ends[1] - start).abs().mean()


def test_an_empty_mask_returns_the_image(lazy: Lazy):
    image, mask = canvas_and_holes(*SIZE)
    _, result, _ = edit(lazy, "flux", make_stock("flux"), picture=(image, torch.zeros_like(mask)))
    assert torch.equal(result, image)


def test_a_context_of_other_latents_is_refused(lazy: Lazy):
    image, mask = canvas_and_holes(*SIZE)
    context, _ = lazy.encode(image, mask, model=make_stock("pixart"), vae=vae_of("pixart"))
    given = {
        "model": make_stock("flux"),
        "vae": vae_of("flux"),
        "positive": conditioning("flux", 3),
        "negative": conditioning("flux", 4),
    }
    with pytest.raises(ValueError, match="another model"):
        lazy.decode(context, **given)


def test_out_of_memory_tries_again_with_keys_in_main_memory(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    _, _, expected = edit(lazy, "flux", make_stock("flux"))
    places: list[Any] = []
    once = edits.run_once

    def short(*args: Any) -> Tensor:
        places.append(args[-1])
        if len(places) == 1:
            raise torch.cuda.OutOfMemoryError("no room")
        return once(*args)

    monkeypatch.setattr(edits, "run_once", short)
    _, _, latent = edit(lazy, "flux", make_stock("flux"))
    assert torch.equal(latent, expected)
    assert places == [edits.where_there_is_room, edits.in_main_memory]


def test_keys_go_to_main_memory_when_the_device_is_full(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    host = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.memory")
    device = torch.device("cuda")
    monkeypatch.setattr(host.mm, "minimum_inference_memory", lambda: 1000)
    monkeypatch.setattr(host.mm, "get_free_memory", lambda _: 5000)
    assert host.where_there_is_room(3999, device)
    assert not host.where_there_is_room(4000, device)
    assert host.where_there_is_room(10**12, torch.device("cpu"))
    assert not host.in_main_memory(1, device)


@pytest.mark.parametrize("name", STOCK)
def test_what_lies_in_main_memory_gives_the_same_bits(lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch):
    """Fetched ahead of each call, for every family's order of calls, with and without guidance."""
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    expected = [edit(lazy, name, make_stock(name), cfg=cfg)[2] for cfg in (1.0, 3.0)]
    monkeypatch.setattr(edits, "where_there_is_room", lambda size, device: False)
    assert all(
        torch.equal(edit(lazy, name, make_stock(name), cfg=cfg)[2], e)
        for cfg, e in zip((1.0, 3.0), expected, strict=True)
    )


def test_an_edit_that_would_cost_more_lazily_is_the_hosts_own_run(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """One step, or a hole of nearly everything: a pass ahead and the steps after it are more than the steps alone."""
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    runs, begin = [], edits.Run.__init__
    monkeypatch.setattr(edits.Run, "__init__", lambda run, *args: runs.append(run) or begin(run, *args))
    image, mask = canvas_and_holes(*SIZE)
    for holes, steps, lazily in ((mask, 4, True), (mask, 1, False), (torch.ones_like(mask), 4, False)):
        runs.clear()
        made = []
        for reuse in ("fast", "exact"):
            context, _ = lazy.encode(image, holes, model=make_stock("flux"), vae=vae_of("flux"), reuse=reuse)
            prompts: dict[str, Any] = {"positive": conditioning("flux", 3), "negative": conditioning("flux", 4)}
            made.append(lazy.decode(context, model=make_stock("flux"), vae=vae_of("flux"), steps=steps, **prompts)[1])
        assert bool(runs) == lazily
        assert torch.equal(made[0], made[1]) != lazily


@pytest.mark.parametrize("name", STOCK)
def test_the_host_is_told_the_bytes_that_are_kept(lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch):
    """To the byte, with and without guidance; two passes' where it interpolates; scales of fp8 are not counted."""
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    told, held = [], []
    hooked, forget = edits.hooked, edits.Run.forget
    monkeypatch.setattr(edits, "hooked", lambda model, run, size: told.append(size) or hooked(model, run, size))

    def noted(run: Any) -> None:
        held.append(most[0])
        most[0] = 0
        forget(run)

    def kept(kv: Any, *args: Any) -> None:
        keep(kv, *args)
        stored = [each for pairs in (kv.pairs, kv.later) for pair in pairs.values() for each in pair]
        most[0] = max(most[0], sum(each.values.nbytes for each in stored))

    most, keep = [0], edits.KeptKV.keep
    monkeypatch.setattr(edits.KeptKV, "keep", kept)
    monkeypatch.setattr(edits.Run, "forget", noted)
    for reuse, cfg, steps in (("fast", 1.0, 2), ("fast", 3.0, 2), ("balanced", 3.0, 18)):
        edit(lazy, name, make_stock(name), reuse, cfg=cfg, steps=steps)
    image, mask = canvas_and_holes(*SIZE)
    context, _ = lazy.encode(image, mask, model=make_stock(name), vae=vae_of(name), kv_dtype="fp8")
    given = {
        "model": make_stock(name),
        "vae": vae_of(name),
        "positive": conditioning(name, 3),
        "negative": conditioning(name, 4),
    }
    lazy.decode(context, **given, steps=2, cfg=1.0)
    assert told == held
    assert told[1] > told[0] > 0 if name == "z-image-omni" else told[1] == 2 * told[0] > 0  # its prompts differ
    assert told[2] == 2 * told[1]
    assert told[3] == told[0] // 4


def test_room_is_made_beside_the_model_and_not_in_its_place(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    host = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.memory")
    monkeypatch.setattr(host.mm, "minimum_inference_memory", lambda: 1000)
    loaded = [SimpleNamespace(device=torch.device(kind), model_loaded_memory=lambda: 5000) for kind in ("cuda", "cpu")]
    monkeypatch.setattr(
        host.mm, "current_loaded_models", loaded
    )  # others on the card can go, what other programs hold cannot
    monkeypatch.setattr(host.mm, "get_free_memory", lambda _: 7000)
    inner = SimpleNamespace(memory_required=lambda shape: 10 * shape[0] * shape[-1] * shape[-2])
    model = SimpleNamespace(load_device=torch.device("cuda"), model=inner, model_size=lambda: 6000)
    assert (
        inner.memory_required([2, 16, 10, 10]) == 2000
    )  # 3000 are left beside the model, what it needs, and the host's reserve
    assert host.with_room_for(model, [1, 16, 10, 10], 0) == [1, 16, 10, 10]
    assert host.with_room_for(model, [1, 16, 10, 10], 2000) == [1, 16, 20, 10]
    assert host.with_room_for(model, [1, 16, 10, 10], 10**9) == [1, 16, 25, 10]
    assert host.with_room_for(model, [1, 16, 1, 10, 10], 2000) == [1, 16, 1, 20, 10]
    model.model_size = lambda: 20000
    assert host.with_room_for(model, [1, 16, 10, 10], 10**9) == [1, 16, 10, 10]
    model.load_device = torch.device("cpu")
    assert host.with_room_for(model, [1, 16, 10, 10], 10**9) == [1, 16, 10, 10]


@pytest.mark.parametrize("name", ONE_OF_EACH_HOOK)
def test_eight_bits_are_near(lazy: Lazy, name: str):
    """One part in thirty of what keys of an earlier step cost anyway, or less: the smaller memory, not another
    picture.
    """
    image, mask = canvas_and_holes(*SIZE)
    results = []
    for kv_dtype in ("model", "fp8"):
        context, _ = lazy.encode(image, mask, model=make_stock(name), vae=vae_of(name), kv_dtype=kv_dtype)
        given = {
            "model": make_stock(name),
            "vae": vae_of(name),
            "positive": conditioning(name, 3),
            "negative": conditioning(name, 4),
        }
        results.append(hole_of(lazy.decode(context, **given, seed=SEED, steps=4, cfg=3.0)[1], context))
    error = float((results[1] - results[0]).square().mean().sqrt() / results[0].std())
    print(f"{name}: error of eight bits relative to the hole's spread {error:.1e}")
    assert 0 < error < 0.05


def test_full_passes_have_the_memory_of_the_whole_latent(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """The host makes room for what it is told will be sampled: a strip would be told too little."""
    import comfy.sampler_helpers

    told: list[Any] = []
    estimate = comfy.sampler_helpers.estimate_memory
    monkeypatch.setattr(
        comfy.sampler_helpers,
        "estimate_memory",
        lambda model, shape, *rest: told.append(list(shape)) or estimate(model, shape, *rest),
    )
    context, _, _ = edit(lazy, "flux", make_stock("flux"))
    assert told == [[1, 16, *context.grid.latent_size]]
