"""Patches on MODEL and in prompts: `exact` is the host's own masked run with all of them; other presets follow or
refuse them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_models import STOCK, conditioning, make_stock, vae_of
from stock_pairs import EXACT, SIZE, edit, error, host_run, own_steps, two_canvases, two_prompts

pytestmark = pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's, about the last bit of a time


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


# -- exact: whatever lies on MODEL
# --------------------------------------------------------------------------------------
def patched(node: str, *given: Any, **named: Any) -> Callable[[Any], Any]:
    """MODEL through a stock node, "module.Class"; V1 and V3 nodes are called alike."""
    module, name = node.split(".")

    def patch(model: Any) -> Any:
        import importlib

        kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        if hasattr(kind, "define_schema"):
            return kind.execute(model, *given, **named).args[0]
        return getattr(kind(), kind.FUNCTION)(model, *given, **named)[0]

    return patch


class AddsToTokens:
    """As DiffSynth's and Z-Image Fun's control patches do: something for every token of the whole picture, added after
    a block.
    """

    def __init__(self, tokens: int = 320, width: int = 64):
        self.control = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(8)) * 3

    def __call__(self, args: dict[str, Any]) -> dict[str, Any]:
        args["img"] = args["img"] + self.control[:, : args["img"].shape[1]]
        return args


def adds_text_tokens(args: dict[str, Any]) -> dict[str, Any]:
    """As USO's style projector does."""
    more = torch.randn(1, 3, args["txt"].shape[-1], generator=torch.Generator().manual_seed(8)).expand(
        len(args["txt"]), -1, -1
    )
    ids = torch.zeros(len(args["txt"]), 3, args["txt_ids"].shape[-1])
    return {
        **args,
        "txt": torch.cat([args["txt"], more], 1),
        "txt_ids": torch.cat([args["txt_ids"], ids.to(args["txt_ids"])], 1),
    }


def with_patch(setter: str, patch: Any) -> Callable[[Any], Any]:
    def put(model: Any) -> Any:
        clone = model.clone()
        getattr(clone, setter)(patch)
        return clone

    return put


def empty_prompt(model: Any) -> Any:
    return patched("nodes_perpneg.PerpNeg", conditioning("flux", 9), 1.0)(model)


SKIP = {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "0", "single_layers": "1"}
PATCHES: dict[str, Callable[[Any], Any]] = {
    "RescaleCFG": patched("nodes_model_advanced.RescaleCFG", 0.7),
    "Mahiro": patched("nodes_mahiro.Mahiro"),
    "TCFG": patched("nodes_tcfg.TCFG"),
    "FreSca": patched("nodes_fresca.FreSca", 0.8, 1.4, 4),
    "APG": patched("nodes_apg.APG", 0.5, 5.0, -0.5),
    "CFGZeroStar": patched("nodes_cfg.CFGZeroStar"),
    "CFGNorm": patched("nodes_cfg.CFGNorm", 1.0),
    "PerpNeg": empty_prompt,
    "SkipLayerGuidanceDiT": patched("nodes_slg.SkipLayerGuidanceDiT", **SKIP),
    "SkipLayerGuidanceDiTSimple": patched("nodes_slg.SkipLayerGuidanceDiTSimple", 0.0, 1.0, "0", "1"),
    "EasyCache": patched("nodes_easycache.EasyCacheNode", 0.5, 0.0, 1.0, False),
    "LazyCache": patched("nodes_easycache.LazyCacheNode", 0.5, 0.0, 1.0, False),
    "DifferentialDiffusion": patched("nodes_differential_diffusion.DifferentialDiffusion", 1.0),
    "post_input": with_patch("set_model_post_input_patch", adds_text_tokens),
}
"""On Flux."""


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("name", STOCK)
def test_exact_is_the_hosts_own_run_for_images_that_differ_in_hole_and_prompt(lazy: Lazy, name: str, cfg: float):
    if name == "z-image-omni":
        pytest.skip("the host's own run of two images fails with more texts than references")
    context, latent, _ = edit(lazy, name, make_stock(name), "exact", cfg=cfg)
    expected = host_run(make_stock(name), name, context, cfg, "euler")
    assert context.hole.token_mask is not None
    assert error(latent, expected, context) < EXACT
    first = [[two_prompts(name, 3)[0][0][:1], two_prompts(name, 3)[0][1]]]
    same = host_run(make_stock(name), name, context, cfg, "euler", first)
    assert error(same[1:], expected[1:], context.with_(mask=context.mask[1:])) > 3e-5, "a test that the prompts differ"


@pytest.mark.parametrize(
    "sampler", ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "er_sde", "ddim", "dpm_adaptive", "uni_pc"]
)
def test_exact_draws_a_samplers_own_noise_as_the_host_does(lazy: Lazy, sampler: str):
    context, latent, _ = edit(lazy, "flux", make_stock("flux"), "exact", sampler_name=sampler)
    assert error(latent, host_run(make_stock("flux"), "flux", context, 4.0, sampler), context) < EXACT


@pytest.mark.parametrize("patch", PATCHES)
def test_exact_with_patches_is_the_hosts_own_run(lazy: Lazy, patch: str):
    put = PATCHES[patch]
    context, latent, _ = edit(lazy, "flux", put(make_stock("flux")), "exact")
    expected = host_run(put(make_stock("flux")), "flux", context, 4.0, "euler")
    assert error(latent, expected, context) < EXACT
    if patch != "DifferentialDiffusion":  # nothing to do for masks without grey
        assert error(host_run(make_stock("flux"), "flux", context, 4.0, "euler"), expected, context) > 1e-4


def test_exact_with_control_patches_on_qwen_image_is_the_hosts_own_run(lazy: Lazy):
    put = with_patch("set_model_double_block_patch", AddsToTokens())
    context, latent, _ = edit(lazy, "qwen-image", put(make_stock("qwen-image")), "exact")
    expected = host_run(put(make_stock("qwen-image")), "qwen-image", context, 4.0, "euler")
    assert error(latent, expected, context) < EXACT
    assert error(host_run(make_stock("qwen-image"), "qwen-image", context, 4.0, "euler"), expected, context) > 1e-2


# -- fast and balanced: followed
# ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "flux",
        "flux-fill",
        "flux-kontext",
        "qwen-image-edit",
        "qwen-image-2.1-edit",
        "z-image",
        "sd3.5-medium",
        "pixart",
    ],
)
def test_each_image_of_a_lazy_batch_is_edited_as_it_is_alone(lazy: Lazy, name: str):
    """With its own prompt, hole and noise. The host's noise for a batch is one draw, of which the first image's comes
    first.
    """
    image, mask = two_canvases()
    model = make_stock(name)
    _, pair, _ = edit(lazy, name, model, "balanced", steps=8)
    for flip in (False, True):
        order = [1, 0] if flip else [0, 1]
        prompts = {
            k: [[two_prompts(name, s)[0][0][order], two_prompts(name, s)[0][1]]]
            for k, s in (("positive", 3), ("negative", 4))
        }
        _, both, _ = edit(lazy, name, model, "balanced", (image[order], mask[order]), steps=8, **prompts)
        alone = {k: [[v[0][0][:1], v[0][1]]] for k, v in prompts.items()}
        _, single, _ = edit(lazy, name, model, "balanced", (image[order][:1], mask[order][:1]), steps=8, **alone)
        torch.testing.assert_close(both[:1], single, rtol=1e-3, atol=1e-4)
        if not flip:
            assert torch.equal(both, pair)


FOLLOWED = [name for name in PATCHES if name not in ("EasyCache", "LazyCache", "post_input")]


@pytest.mark.parametrize("patch", FOLLOWED)
def test_lazy_steps_on_keys_of_their_own_level_follow_guidance_exactly(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch, patch: str
):
    own_steps(lazy, monkeypatch)
    put = PATCHES[patch]
    context, latent, _ = edit(lazy, "flux", put(make_stock("flux")), "fast")
    assert error(latent, host_run(put(make_stock("flux")), "flux", context, 4.0, "euler"), context) < EXACT


@pytest.mark.parametrize("name", ["qwen-image", "chroma", "sd3.5-medium"])
@pytest.mark.parametrize("layers", ["0", "1"])
def test_skipped_layers_are_counted_in_every_family(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch, name: str, layers: str
):
    """The same conditioning with a block fewer: its calls are numbered by block, its keys and values are others."""
    put = patched("nodes_slg.SkipLayerGuidanceDiT", **{**SKIP, "double_layers": layers, "single_layers": ""})
    with monkeypatch.context() as patch:
        own_steps(lazy, patch)
        context, latent, _ = edit(lazy, name, put(make_stock(name)), "fast", cfg=1.0)
    expected = host_run(put(make_stock(name)), name, context, 1.0, "euler")
    assert error(latent, expected, context) < EXACT
    assert error(host_run(make_stock(name), name, context, 1.0, "euler"), expected, context) > 1e-3


@pytest.mark.parametrize("replaced", [(), (0,), (1,)])
def test_qwen_image_2_1_shares_its_prefix_with_no_run_of_its_own_cache(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch, replaced: tuple[int, ...]
):
    """The host keeps text and references of a run; blocks that patches replace are counted by spans of these."""
    name = "qwen-image-2.1-edit"
    model = make_stock(name)
    for block in replaced:
        model.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", "single_block", block)
    before = host_run(make_stock(name), name, edit(lazy, name, model, "exact")[0], 4.0, "euler")
    with monkeypatch.context() as patch:
        own_steps(lazy, patch)
        context, latent, _ = edit(lazy, name, model, "fast")
    assert error(latent, before, context) < EXACT
    assert torch.equal(host_run(model, name, context, 4.0, "euler"), before) or replaced
    assert model.model.diffusion_model.prefix_cache is None


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "ddim"])
def test_lazy_steps_draw_a_samplers_own_noise_as_the_host_does(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch, sampler: str
):
    own_steps(lazy, monkeypatch)
    context, latent, _ = edit(lazy, "flux", make_stock("flux"), "fast", sampler_name=sampler)
    assert error(latent, host_run(make_stock("flux"), "flux", context, 4.0, sampler), context) < EXACT


def test_prompts_that_a_mask_gives_a_region_are_followed(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    own_steps(lazy, monkeypatch)
    left = torch.zeros(1, *SIZE)
    left[..., :60] = 1
    regions = [
        [text, {**values, "mask": mask, "mask_strength": 1.0}]
        for (text, values), mask in zip(
            [*two_prompts("flux", 3), *two_prompts("flux", 7)], (left, 1 - left), strict=True
        )
    ]
    context, latent, _ = edit(lazy, "flux", make_stock("flux"), "fast", positive=regions)
    expected = host_run(make_stock("flux"), "flux", context, 4.0, "euler", regions)
    assert error(latent, expected, context) < EXACT
    assert error(host_run(make_stock("flux"), "flux", context, 4.0, "euler"), expected, context) > 1e-3


@pytest.mark.parametrize("reuse", ["fast", "balanced"])
def test_a_compiled_model_runs_uncompiled_in_lazy_steps_and_says_so(lazy: Lazy, reuse: str):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model = make_stock("flux").clone()
    set_torch_compile_wrapper(model, backend="eager")
    _, expected, plain = edit(lazy, "flux", make_stock("flux"), reuse)
    _, latent, told = edit(lazy, "flux", model, reuse)
    assert torch.equal(latent, expected)
    assert told["messages"] == [{"code": "patch_without_effect", "patch": "torch.compile"}]
    assert plain["messages"] == []


def test_what_installs_itself_anew_at_every_step_lies_below_the_runs_attention(lazy: Lazy):
    """As core's block-sparse attention does, which then never reaches what it found."""
    from comfy.patcher_extension import CallbacksMP

    calls = {"own": 0}

    def override(function: Any, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        calls["own"] += 1
        return function(q, k, v, *args, **kwargs)

    def install(patcher: Any, timestep: Any, options: Any = None) -> None:
        (options or patcher.model_options)["transformer_options"]["optimized_attention_override"] = override

    model = make_stock("flux").clone()
    install(model, None, model.model_options)
    model.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, "sparse", install)
    _, latent, _ = edit(lazy, "flux", model, "balanced")
    assert calls["own"] > 0
    assert torch.equal(latent, edit(lazy, "flux", make_stock("flux"), "balanced")[1])


def test_a_checkpoints_own_attention_is_used_on_all_tokens(lazy: Lazy):
    """Newer hosts' int8 checkpoints ask for one, which any override makes the host drop."""
    from types import SimpleNamespace

    from comfy.ldm.modules.attention import attention_basic

    model, calls = make_stock("flux"), []

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[0].shape[-2])
        return attention_basic(*args, **kwargs)

    for block in model.model.diffusion_model.double_blocks:
        block.comfy_attention = SimpleNamespace(function=attention)
    edit(lazy, "flux", model, "fast", steps=2)
    assert set(calls) == {320 + STOCK["flux"].text}
    assert len(calls) == 4


# -- fast and balanced: approximate or refused, in a sentence
# -----------------------------------------------------------
class CacheLike:
    name = "EasyCache"


def with_options(**options: Any) -> Callable[[Any], Any]:
    def put(model: Any) -> Any:
        clone = model.clone()
        clone.model_options = {**clone.model_options, **options}
        return clone

    return put


REFUSED: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "EasyCache": ("flux", PATCHES["EasyCache"], r"EasyCache skips model calls.*Set reuse to exact"),
    "LazyCache": ("flux", PATCHES["LazyCache"], r"LazyCache skips model calls.*Set reuse to exact"),
    "multigpu": (
        "flux",
        with_options(multigpu_clones={"cuda:1": None}),
        r"MultiGPU splits the prompts.*Set reuse to exact",
    ),
    "context windows": (
        "flux",
        with_options(context_handler=CacheLike()),
        r"CacheLike cuts pictures into windows.*Set reuse to exact",
    ),
    "double_block": (
        "qwen-image",
        with_patch("set_model_double_block_patch", AddsToTokens()),
        r"AddsToTokens \(double_block\) adds to all tokens.*Set reuse to exact",
    ),
    "post_input": (
        "flux",
        PATCHES["post_input"],
        r"adds_text_tokens \(post_input\) adds to all tokens.*Set reuse to exact",
    ),
    "attn1_patch": (
        "flux",
        with_patch("set_model_attn1_patch", AddsToTokens()),
        r"AddsToTokens \(attn1_patch\) adds to all tokens.*Set reuse to exact",
    ),
}


@pytest.mark.parametrize("reuse", ["fast", "balanced"])
@pytest.mark.parametrize("patch", REFUSED)
def test_patches_that_lazy_steps_cannot_follow_are_refused_before_sampling(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch, patch: str, reuse: str
):
    import comfy.sample

    name, put, sentence = REFUSED[patch]
    monkeypatch.setattr(comfy.sample, "sample", lambda *_, **__: pytest.fail("sampled"))
    with pytest.raises(ValueError, match=sentence):
        edit(lazy, name, put(make_stock(name)), reuse)


@pytest.mark.parametrize("key", ["area", "gligen", "set_area_to_bounds"])
def test_what_belongs_to_a_place_in_the_picture_is_refused(lazy: Lazy, key: str):
    prompt = [[text, {**values, key: True}] for text, values in two_prompts("flux", 3)]
    with pytest.raises(ValueError, match=rf"{key} belongs to a place in the whole picture.*Set reuse to exact"):
        edit(lazy, "flux", make_stock("flux"), "balanced", positive=prompt)


def test_attention_masks_are_refused_unless_they_hide_nothing(lazy: Lazy):
    def prompt(mask: Tensor) -> list:
        return [[text, {**values, "attention_mask": mask}] for text, values in two_prompts("qwen-image", 3)]

    ones = torch.ones(2, STOCK["qwen-image"].text)
    edit(lazy, "qwen-image", make_stock("qwen-image"), "fast", positive=prompt(ones), steps=1)
    some = ones.clone()
    some[:, -2:] = 0
    with pytest.raises(ValueError, match=r"attention mask cannot be applied to hole tokens.*Set reuse to exact"):
        edit(lazy, "qwen-image", make_stock("qwen-image"), "fast", positive=prompt(some))
    context, latent, _ = edit(lazy, "qwen-image", make_stock("qwen-image"), "exact", positive=prompt(some))
    expected = host_run(make_stock("qwen-image"), "qwen-image", context, 4.0, "euler", prompt(some))
    assert error(latent, expected, context) < EXACT


def test_references_of_a_family_that_has_none_are_refused_once_its_host_reads_them(
    lazy: Lazy, monkeypatch: pytest.MonkeyPatch
):
    model = make_stock("hidream")
    prompt = [
        [text, {**values, "reference_latents": [torch.randn(1, 16, 12, 12)]}]
        for text, values in two_prompts("hidream", 3)
    ]
    edit(lazy, "hidream", model, "fast", positive=prompt, steps=1)
    monkeypatch.setattr(type(model.model.diffusion_model), "_forward", lambda self, x, ref_latents=None: x)
    with pytest.raises(ValueError, match=r"a reference picture is not supported in this model yet.*Set reuse to exact"):
        edit(lazy, "hidream", model, "fast", positive=prompt)


def test_a_picture_that_hidream_lays_beside_the_canvas_is_refused(lazy: Lazy):
    """As HiDream-E1 does, by InstructPixToPixConditioning; `exact` leaves it to the host."""
    picture = torch.randn(1, 16, 32, 56)
    prompt = [
        [text, {**values, "concat_latent_image": picture, "conditioning_llama3": torch.randn(2, 3, 4, 10)}]
        for text, values in two_prompts("hidream", 3)
    ]
    with pytest.raises(ValueError, match=r"a picture to edit from is laid beside the canvas.*Set reuse to exact"):
        edit(lazy, "hidream", make_stock("hidream"), "fast", positive=prompt)


def replacing(model: Any) -> Any:
    def nearly(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        return extra["original_block"](args)

    clone = model.clone()
    clone.set_model_patch_replace(nearly, "dit", "double_block", 1)
    return clone


def test_what_acts_nearly_or_not_at_all_is_said_on_the_node(lazy: Lazy):
    _, plain, _ = edit(lazy, "flux", make_stock("flux"), "fast")
    _, latent, told = edit(lazy, "flux", replacing(make_stock("flux")), "fast")
    assert told["messages"] == [{"code": "approximate_patch", "patch": "replacing (dit)"}]
    assert torch.equal(latent, plain)
    for reuse in ("fast", "exact"):
        _, _, told = edit(lazy, "flux", PATCHES["DifferentialDiffusion"](make_stock("flux")), reuse)
        assert told["messages"] == [{"code": "patch_without_effect", "patch": "DifferentialDiffusion"}]


def test_a_block_that_runs_twice_is_an_error_and_not_a_wrong_picture(lazy: Lazy):
    def twice(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        extra["original_block"](dict(args))
        return extra["original_block"](args)

    model = make_stock("flux").clone()
    model.set_model_patch_replace(twice, "dit", "double_block", 0)
    with pytest.raises(ValueError, match=r"more often than once.*Set reuse to exact"):
        edit(lazy, "flux", model, "fast")


def test_a_wrapper_that_splits_calls_is_an_error_and_not_a_wrong_picture(lazy: Lazy):
    """The second half would read the keys and values of the first one's prompt."""

    def each_prompt(apply: Any, given: dict[str, Any]) -> Tensor:
        x, t, c = given["input"], given["timestep"], given["c"]
        halves = [slice(0, len(x) // 2), slice(len(x) // 2, len(x))]
        cut = [{k: v[half] if isinstance(v, Tensor) else v for k, v in c.items()} for half in halves]
        return torch.cat([apply(x[half], t[half], **part) for half, part in zip(halves, cut, strict=True)])

    model = make_stock("flux")
    model.set_model_unet_function_wrapper(each_prompt)
    with pytest.raises(ValueError, match="a wrapper on MODEL splits calls"):
        edit(lazy, "flux", model, "fast")
    assert edit(lazy, "flux", model, "exact")[1].isfinite().all()


def test_calls_that_no_patch_accounts_for_are_an_error_and_not_a_wrong_picture(lazy: Lazy):
    """As where a pack replaces a model's method and leaves out blocks, which no look at MODEL can see."""
    model = make_stock("flux")
    blocks = model.model.diffusion_model.double_blocks
    runs = blocks[1].forward
    blocks[1].forward = lambda img, txt, *args, **kwargs: (img, txt)
    with pytest.raises(ValueError, match=r"made 3 attention calls, expected 4.*Set reuse to exact"):
        edit(lazy, "flux", model, "fast")
    blocks[1].forward = runs
    assert torch.equal(edit(lazy, "flux", model, "fast")[1], edit(lazy, "flux", make_stock("flux"), "fast")[1])


# -- beside stock nodes, and in threads
# ---------------------------------------------------------------------------------
@pytest.mark.parametrize("patch", ["SkipLayerGuidanceDiT", "Mahiro", "PerpNeg", "RescaleCFG"])
def test_the_same_patched_model_gives_ksampler_the_same_bits_before_and_after(lazy: Lazy, patch: str):
    model = PATCHES[patch](make_stock("flux"))
    context, _ = lazy.encode(*two_canvases(), model=model, vae=vae_of("flux"))
    before = host_run(model, "flux", context, 4.0, "euler")
    for reuse in ("fast", "exact"):
        edit(lazy, "flux", model, reuse)
        assert torch.equal(host_run(model, "flux", context, 4.0, "euler"), before)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", ["pixart", "flux", "sd3", "qwen-image-2.1-edit"])
def test_two_edits_in_threads_are_right(lazy: Lazy, name: str, shared: bool):
    """On one MODEL, or on two of the same kind."""
    model = make_stock(name)
    models = [model, model] if shared else [model, make_stock(name, seed=1)]
    prompts = {
        "positive": two_prompts(name, 3),
        "negative": two_prompts(name, 4),
    }  # drawn by a generator that threads share
    expected = [
        edit(lazy, name, each, "balanced", seed=seed, steps=6, **prompts)[1] for seed, each in enumerate(models)
    ]
    results: dict[int, Any] = {}

    def run(seed: int) -> None:
        with torch.inference_mode():
            try:
                results[seed] = edit(lazy, name, models[seed], "balanced", seed=seed, steps=6, **prompts)[1]
            except Exception as problem:
                results[seed] = problem

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, Tensor) for result in results.values()), results
    assert all(torch.equal(results[seed], expected[seed]) for seed in (0, 1))


def test_hooks_in_a_models_modules_leave_other_threads_alone(lazy: Lazy):
    """A pass that another thread's run makes through the same module is computed as if nothing lay there."""
    import importlib

    runs = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.run")
    run = runs.Run.__new__(runs.Run)
    run.under_way = runs.Pass("sparse", ("some",), runs.Prefix(1), 1, 1, thread=threading.get_ident() + 1)
    ones = torch.ones(1)
    assert run.positions(lambda: ones, 0) is ones
    assert run.attend(lambda q, k, v: q, ones, ones, ones) is ones
    assert not run.is_sparse
