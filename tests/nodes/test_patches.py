"""What stock nodes put on our MODEL or CLIP: honoured, or refused in a sentence that names it; nothing is without
effect in silence.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas

HEIGHT, WIDTH = 80, 64
CANVAS = image_of(random_canvas(np.random.default_rng(0), HEIGHT, WIDTH))
HOLE = mask_of(box_mask(HEIGHT, WIDTH, 20, 10, 60, 40))


@pytest.fixture(scope="module")
def context(lazy: Lazy) -> Any:
    return lazy.encode(CANVAS, HOLE)[0]


@pytest.fixture(scope="module")
def plain(lazy: Lazy, context: Any) -> Tensor:
    return lazy.decode(context, steps=3)[1]


def through(lazy: Lazy, node: str, *given: Any, **named: Any) -> Any:
    """Our MODEL through a stock node, "module.Class"."""
    module, name = node.split(".")
    kind = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
    if hasattr(kind, "define_schema"):
        output = kind.execute(lazy.model, *given, **named)
        return getattr(output, "args", output)[0]  # HyperTile returns a tuple
    return getattr(kind(), kind.FUNCTION)(lazy.model, *given, **named)[0]


HONOURED: dict[str, Callable[[Lazy], Any]] = {
    "RenormCFG": lambda lazy: through(lazy, "nodes_lumina2.RenormCFG", 100.0, 0.2),
    "RescaleCFG": lambda lazy: through(lazy, "nodes_model_advanced.RescaleCFG", 0.7),
    "Mahiro": lambda lazy: through(lazy, "nodes_mahiro.Mahiro"),
    "TCFG": lambda lazy: through(lazy, "nodes_tcfg.TCFG"),
    "APG": lambda lazy: through(lazy, "nodes_apg.APG", 0.5, 5.0, 0.0),
    "CFGZeroStar": lambda lazy: through(lazy, "nodes_cfg.CFGZeroStar"),
    "CFGNorm": lambda lazy: through(lazy, "nodes_cfg.CFGNorm", 1.0),
    "Epsilon Scaling": lambda lazy: through(lazy, "nodes_eps.EpsilonScaling", 1.05),
    "ModelSamplingSD3": lambda lazy: through(lazy, "nodes_model_advanced.ModelSamplingSD3", shift=1.5),
}


@pytest.mark.parametrize("patch", HONOURED)
def test_guidance_that_needs_no_picture_is_honoured(lazy: Lazy, context: Any, plain: Tensor, patch: str):
    output = lazy.decode(context, model=HONOURED[patch](lazy), steps=3)[1]
    assert torch.isfinite(output).all()
    assert not torch.equal(output, plain)
    assert torch.equal(lazy.decode(context, steps=3)[1], plain), "the patch stayed in the model"


def test_guidance_sees_each_answer_of_the_model(lazy: Lazy, context: Any):
    """RenormCFG, with a norm that nothing exceeds, is guidance as it is; with another one, its answer has that norm at
    most.
    """
    free, tight = (through(lazy, "nodes_lumina2.RenormCFG", 100.0, norm) for norm in (0.0, 0.2))
    without = lazy.decode(context, steps=1)[1]
    torch.testing.assert_close(lazy.decode(context, model=free, steps=1)[1], without, rtol=1e-4, atol=1e-4)
    smaller = lazy.decode(context, model=tight, steps=1)[1]
    tokens = [context.hole.cut(each, context.grid.patch) for each in (smaller, without)]
    assert tokens[0].norm() < 0.5 * tokens[1].norm()


def with_options(lazy: Lazy, **options: Any) -> Any:
    clone = lazy.model.clone()
    clone.model_options = {**clone.model_options, **options}
    return clone


def with_transformer_options(lazy: Lazy, **options: Any) -> Any:
    clone = lazy.model.clone()
    clone.model_options["transformer_options"] = {**clone.model_options["transformer_options"], **options}
    return clone


def with_wrapper(lazy: Lazy) -> Any:
    from comfy.patcher_extension import WrappersMP

    def around(executor: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(*args, **kwargs)

    clone = lazy.model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "some", around)
    return clone


class Windows:
    pass


SKIP = {"scale": 3.0, "start_percent": 0.0, "end_percent": 1.0, "double_layers": "0", "single_layers": ""}
REFUSED: dict[str, tuple[Callable[[Lazy], Any], str]] = {
    "PerpNeg": (
        lambda lazy: through(lazy, "nodes_perpneg.PerpNeg", lazy.text(""), 1.0),
        r"PerpNeg runs the model on a prompt of its own.*Remove it and use the negative prompt",
    ),
    "EasyCache": (
        lambda lazy: through(lazy, "nodes_easycache.EasyCacheNode", 0.2, 0.15, 0.95, False),
        r"EasyCache skips model calls.*Remove it",
    ),
    "LazyCache": (
        lambda lazy: through(lazy, "nodes_easycache.LazyCacheNode", 0.2, 0.15, 0.95, False),
        r"LazyCache skips model calls.*Remove it",
    ),
    "PAG": (
        lambda lazy: through(lazy, "nodes_pag.PerturbedAttentionGuidance", 3.0),
        r"PerturbedAttentionGuidance runs the model a second time with layers replaced.*Remove it",
    ),
    "SAG": (
        lambda lazy: through(lazy, "nodes_sag.SelfAttentionGuidance", 0.5, 2.0),
        r"SelfAttentionGuidance \(attn1\) changes layers.*Remove it",
    ),
    "SkipLayerGuidanceDiT": (
        lambda lazy: through(lazy, "nodes_slg.SkipLayerGuidanceDiT", **SKIP),
        r"SkipLayerGuidanceDiT runs the model a second time with layers replaced.*Remove it",
    ),
    "SkipLayerGuidanceDiTSimple": (
        lambda lazy: through(lazy, "nodes_slg.SkipLayerGuidanceDiTSimple", 0.0, 1.0, "0", ""),
        r"SkipLayerGuidanceDiTSimple runs the model a second time with layers replaced.*Remove it",
    ),
    "HyperTile": (
        lambda lazy: through(lazy, "nodes_hypertile.HyperTile", 256, 2, 0, False),
        r"HyperTile \(attn1_patch\) changes layers.*Remove it",
    ),
    "ToMe": (
        lambda lazy: through(lazy, "nodes_tomesd.TomePatchModel", 0.3),
        r"TomePatchModel \(attn1_patch\) changes layers.*Remove it",
    ),
    "FreSca": (lambda lazy: through(lazy, "nodes_fresca.FreSca", 0.8, 1.4, 4), r"FreSca filters a picture.*Remove it"),
    "attention override": (
        lambda lazy: with_transformer_options(lazy, optimized_attention_override=lambda f, *a, **k: f(*a, **k)),
        r"replaces the host's attention.*Remove it",
    ),
    "wrapper": (with_wrapper, r"with_wrapper wraps the host's transformers.*Remove it"),
    "context windows": (
        lambda lazy: with_options(lazy, context_handler=Windows()),
        r"Windows cuts pictures into windows.*Remove it",
    ),
    "other GPUs": (
        lambda lazy: with_options(lazy, multigpu_clones={"cuda:1": 0}),
        r"MultiGPU splits the prompts.*Remove it",
    ),
}


@pytest.mark.parametrize("patch", REFUSED)
def test_what_our_model_cannot_follow_is_refused_before_sampling(
    lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch, patch: str
):
    put, sentence = REFUSED[patch]
    model = put(lazy)
    monkeypatch.setattr(importlib.import_module("comfy.sample"), "sample", lambda *_, **__: pytest.fail("sampled"))
    with pytest.raises(ValueError, match=sentence):
        lazy.decode(context, model=model, steps=3)


def test_layers_replaced_in_the_middle_of_sampling_are_refused_too(lazy: Lazy, context: Any):
    """By guidance whose code does not show it."""
    from comfy.samplers import calc_cond_batch

    hidden = {"run": calc_cond_batch}

    def post(args: dict[str, Any]) -> Tensor:
        options = {**args["model_options"]}
        options["transformer_options"] = {
            "patches_replace": {"dit": {("double_block", 0): post}},
            **options["transformer_options"],
        }
        hidden["run"](args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"]

    model = lazy.model.clone()
    model.set_model_sampler_post_cfg_function(post)
    with pytest.raises(ValueError, match=r"changes layers that a LazyDiffusion model does not have. Remove it"):
        lazy.decode(context, model=model)


@pytest.mark.parametrize("node", ["FreeU", "FreeU_V2"])
def test_nodes_that_ask_for_a_unet_hear_that_it_is_none(lazy: Lazy, node: str):
    with pytest.raises(
        ValueError, match=r"no 'model_channels': the node that asks for it is made for UNets. Remove it"
    ):
        through(lazy, f"nodes_freelunch.{node}", 1.1, 1.2, 0.9, 0.2)


def test_clip_set_last_layer_is_refused(lazy: Lazy):
    clip = lazy.stock.CLIPSetLastLayer().set_last_layer(lazy.clip, -2)[0]
    with (
        pytest.raises(ValueError, match=r"one layer to read, the last. Remove CLIP Set Last Layer"),
        torch.inference_mode(),
    ):
        lazy.stock.CLIPTextEncode().encode(clip, "panda")
    assert torch.isfinite(lazy.text("panda")[0][0]).all()


def test_without_patches_the_node_says_nothing(lazy: Lazy, context: Any):
    given = {
        "model": lazy.model,
        "vae": lazy.vae,
        "context": context,
        "positive": lazy.text("panda"),
        "negative": lazy.negative,
    }
    widgets = {
        "seed": 1,
        "steps": 1,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        "blend": "none",
    }
    assert lazy.call("LazyDecode", **given, **widgets).ui["lazydiffusion"][0]["messages"] == []


# -- what a function does, by its code
# ----------------------------------------------------------------------------------
def test_names_are_found_in_closures_and_helpers(lazy: Lazy):
    table = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.functions")

    def inner(x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x, x)

    def outer(args: Any) -> Any:
        return inner(args)

    assert "conv2d" in table.names_used(outer)
    assert "conv2d" in table.names_used(lambda x: [inner(each) for each in x])
    assert "conv2d" not in table.names_used(lambda x: x)
    assert table.name_of(outer) == "test_names_are_found_in_closures_and_helpers"
    assert table.name_of(Windows()) == "Windows"
    clone = lazy.model.clone()
    clone.set_model_sampler_cfg_function(lambda cond, uncond, scale: cond)  # the host wraps those of three arguments
    assert table.name_of(clone.model_options["sampler_cfg_function"]) == "test_names_are_found_in_closures_and_helpers"
