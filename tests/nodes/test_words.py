"""What a run says in words, what `auto` means, and inputs that only a caller of the API can send."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from devtools.graphs import WIDGETS
from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas

SIDE = 64
NAN = math.nan


@pytest.fixture(scope="module")
def canvas() -> torch.Tensor:
    return image_of(random_canvas(np.random.default_rng(7), SIDE, SIDE))


@pytest.fixture(scope="module")
def context(lazy: Lazy, canvas: torch.Tensor) -> Any:
    return lazy.encode(canvas, mask_of(box_mask(SIDE, SIDE, 16, 16, 40, 40)))[0]


def decoded(lazy: Lazy, context: Any, **inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """-> IMAGE, what the page is told."""
    links = {"model": lazy.model, "vae": lazy.vae, "negative": lazy.negative, "positive": lazy.text("panda")}
    output = lazy.call("LazyDecode", **{**links, **WIDGETS, "context": context, **inputs})
    return output.args[0], output.ui["lazydiffusion"][0]


def codes(told: dict[str, Any]) -> list[str]:
    return [message["code"] for message in told["messages"]]


# -- messages ----------------------------------------------------------------------------------------------------------
def test_an_ordinary_edit_has_nothing_to_say(lazy: Lazy, context: Any, canvas: torch.Tensor):
    for image in (None, canvas):
        assert codes(decoded(lazy, context, image=image)[1]) == []


def test_what_the_text_encoder_left_out_is_told(lazy: Lazy, context: Any):
    """The text encoder leaves a note with its conditioning; both prompts' are told, each word once."""
    [[text, values]] = lazy.text("panda")
    prompts = [
        [[text, {**values, "lazy_cut": cut, "lazy_unknown": words}]]
        for cut, words in (("and a hat", ["zebra"]), ("", ["zebra", "gnu"]))
    ]
    _, told = decoded(lazy, context, positive=prompts[0], negative=prompts[1])
    assert told["messages"] == [
        {"code": "prompt_cut", "cut": "and a hat"},
        {"code": "unknown_words", "words": ["zebra", "gnu"]},
    ]


@pytest.mark.parametrize(
    ("side", "wide", "told"),
    [
        (200, 40, [{"code": "hole_too_large", "side": 200, "trained": 176}]),  # too thin to be seen smaller
        (272, 100, [{"code": "hole_enlarged", "side": 272, "times": 2}]),
        (176, 100, []),
    ],
)
def test_a_hole_larger_than_those_of_the_training_is_told(lazy: Lazy, side: int, wide: int, told: list[Any]):
    """By both nodes; two holes that are far apart are two, however long the way between them. LATENT is of the
    canvas.
    """
    mask = torch.zeros(1, 320, 480)
    mask[:, 10 : 10 + side, 5 : 5 + wide] = mask[:, :9, 470:] = 1
    picture = torch.linspace(0.2, 0.8, 480)[None, None, :, None].repeat(1, 320, 1, 3)
    context, figures = lazy.encode(picture, mask)
    assert figures["messages"] == told
    links = {"model": lazy.model, "vae": lazy.vae, "negative": lazy.negative, "positive": lazy.text("panda")}
    output = lazy.call("LazyDecode", **{**links, **WIDGETS, "context": context, "steps": 1})
    image, latent = output.args[0], output.args[1]["samples"]
    assert output.ui["lazydiffusion"][0]["messages"] == told
    assert torch.equal(image[mask == 0], picture[mask == 0])
    assert latent.shape[-2:] == (40, 60)
    with torch.inference_mode():
        shown = lazy.vae.decode(latent)[0]
    assert (shown - image[0]).abs().mean() < 0.05


@pytest.mark.parametrize(("denoise", "expected"), [(1.0, []), (0.5, ["black_under_alpha"]), (0.0, [])])
def test_a_canvas_that_is_black_under_its_mask_is_told_where_it_counts(
    lazy: Lazy, canvas: torch.Tensor, denoise: float, expected: list[str]
):
    mask = mask_of(box_mask(SIDE, SIDE, 16, 16, 40, 40))
    black = lazy.encode(torch.where(mask[..., None] > 0, 0.0, canvas), mask)[0]
    assert codes(decoded(lazy, black, denoise=denoise)[1]) == expected
    seen = lazy.encode(canvas, mask)[0]
    assert codes(decoded(lazy, seen, denoise=denoise)[1]) == []


@pytest.mark.parametrize("size", [SIDE, SIDE - 8])
def test_another_image_is_told_and_not_used(lazy: Lazy, context: Any, canvas: torch.Tensor, size: int):
    plain, _ = decoded(lazy, context)
    image, told = decoded(lazy, context, image=1 - canvas[:, :size])
    assert codes(told) == ["other_image"]
    assert torch.equal(image, plain)


def test_messages_are_those_that_the_page_has_sentences_for(lazy: Lazy):
    """In both languages, and no others."""
    messages = lazy.node_module("messages")
    with pytest.raises(KeyError, match=r"no message 'nonsense', expected one of .*prompt_cut"):
        messages.message("nonsense")


# -- saved -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("inputs", "calls"),
    [
        ({"cfg": 1.0}, 2),
        ({"cfg": 3.0}, 4),
        ({"cfg": 1.0, "sampler_name": "heun"}, 3),
    ],  # heun's last step is a single call
)
def test_saved_is_what_all_tokens_would_take_less_what_the_hole_took(
    lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch, inputs: dict[str, Any], calls: int
):
    """Two steps, where a block on all tokens takes a quarter of a second for each image and branch of guidance."""
    throughput = lazy.core("throughput")
    monkeypatch.setattr(throughput, "block_seconds", lambda decoder, tokens, text, images, dtype: 0.25 * images)
    monkeypatch.setattr(throughput, "_MEASURED", {})
    depth = lazy.model.model.diffusion_model.config.depth
    told = decoded(lazy, context, **inputs)[1]
    assert told["saved_ms"] == pytest.approx(1000 * 0.25 * depth * calls - 2 * told["step_ms"])


def test_nothing_is_saved_where_all_tokens_are_computed_or_none(lazy: Lazy, canvas: torch.Tensor):
    for value in (0.0, 1.0):
        context = lazy.encode(canvas, torch.full((1, SIDE, SIDE), value))[0]
        assert decoded(lazy, context)[1]["saved_ms"] == 0


# -- auto --------------------------------------------------------------------------------------------------------------
def test_auto_is_what_the_shipped_model_is_used_with(lazy: Lazy, context: Any):
    image, told = decoded(lazy, context, steps=0, blend="auto")
    assert told["steps"] == 4
    assert torch.equal(image, decoded(lazy, context, steps=4, blend="poisson")[0])
    assert not torch.equal(image, decoded(lazy, context, steps=4, blend="feather")[0])


def test_steps_of_a_checkpoint():
    """One that does not say takes its preset's, as the shipped one does; one without a preset takes 20."""
    from lazy_core.config import PRESETS, LazyConfig

    old = PRESETS["fluent-small"].to_json().replace('"steps": 4, ', "")
    assert '"steps"' not in old
    assert LazyConfig.from_json(old).steps == 4
    assert LazyConfig.from_json('{"format": 1}').steps == 20
    assert LazyConfig.from_json('{"format": 1, "steps": 7, "preset": "fluent-small"}').steps == 7


# -- inputs that the page cannot send ----------------------------------------------------------------------------------
WRONG = {
    "model": ("a.safetensors", r"model is 'a\.safetensors', expected a MODEL\. Connect .*Load Lazy Model"),
    "vae": ("x", r"vae is 'x', expected a VAE\. Connect .*Load Lazy Model"),
    "context": (None, r"context is null, expected a CONTEXT\. Connect .*Encode Context"),
    "positive": ("red apple", r"positive is 'red apple', expected a CONDITIONING\. Connect CLIP Text Encode"),
    "negative": (None, r"negative is null, expected a CONDITIONING"),
    "cfg": (NAN, r"cfg is NaN, expected a number from 0 to 100"),
    "denoise": (NAN, r"denoise is NaN, expected a number from 0 to 1"),
    "sampler_name": (None, r"sampler_name is null, expected one of euler, "),
    "scheduler": ("magic", r"scheduler is 'magic', expected one of "),
    "blend": ("glue", r"blend is 'glue', expected one of auto, none, feather, poisson"),
    "vae_decode": ("half", r"vae_decode is 'half', expected one of lazy, full"),
    "image": (3, r"image is 3, expected an IMAGE\. Connect Load Image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_decode_names_the_input_that_is_wrong(lazy: Lazy, context: Any, name: str, monkeypatch: pytest.MonkeyPatch):
    """Before anything is sampled, but for `image`, which no result depends on."""
    value, says = WRONG[name]
    if name != "image":
        host = lazy.node_module("host.sampling")
        monkeypatch.setattr(host.comfy.sample, "sample", lambda *_, **__: pytest.fail("it was sampled"))
    with pytest.raises(ValueError, match=says):
        decoded(lazy, **{"context": context, name: value})


@pytest.mark.parametrize("name", ["positive", "negative"])
def test_a_prompt_weight_that_is_no_number_is_refused(lazy: Lazy, context: Any, name: str):
    with pytest.raises(ValueError, match=rf"{name} holds NaN.*weights in its prompt"):
        decoded(lazy, context, **{name: lazy.text("(panda:nan)")})


ENCODE_WRONG = {
    "model": ("x", r"model is 'x', expected a MODEL"),
    "vae": (1.5, r"vae is 1\.5, expected a VAE"),
    "image": ("picture.png", r"image is 'picture\.png', expected an IMAGE\. Connect Load Image"),
    "mask": ([1, 2], r"mask is a list, expected a MASK\. Connect the MASK of Load Image"),
    "reuse": ("always", r"reuse is 'always', expected one of "),
    "kv_dtype": ("int4", r"kv_dtype is 'int4', expected one of "),
}


@pytest.mark.parametrize("name", ENCODE_WRONG)
def test_encode_names_the_input_that_is_wrong(lazy: Lazy, canvas: torch.Tensor, name: str):
    value, says = ENCODE_WRONG[name]
    with pytest.raises(ValueError, match=says):
        lazy.encode(**{"image": canvas, "mask": mask_of(box_mask(SIDE, SIDE, 0, 0, 9, 9)), name: value})


def test_null_is_an_optional_input_left_out(lazy: Lazy, canvas: torch.Tensor):
    mask = mask_of(box_mask(SIDE, SIDE, 16, 16, 40, 40))
    context = lazy.encode(canvas, mask, reuse=None, kv_dtype=None)[0]
    assert torch.equal(context.tokens, lazy.encode(canvas, mask)[0].tokens)
    plain, _ = decoded(lazy, context)
    assert torch.equal(decoded(lazy, context, vae_decode=None, image=None)[0], plain)
    links = {"context": context, "vae": lazy.vae, "sketch": canvas, "strength": 0.5}
    sketched = [
        lazy.call("LazySketchCondition", **links, **more).args[0] for more in ({}, {"sketch_mask": None, "kind": None})
    ]
    assert torch.equal(sketched[0].sketch.tokens, sketched[1].sketch.tokens)


@pytest.mark.parametrize(
    ("node", "inputs", "says"),
    [
        ("LazyModelLoader", {"model_name": None}, r"model_name is null, expected one of .*fluent-small"),
        (
            "LazyMaskDilate",
            {"mask": "x", "pixels": 1, "shape": "circle", "fill_holes": True},
            r"mask is 'x', expected a MASK",
        ),
        (
            "LazyMaskDilate",
            {"mask": torch.zeros(1, 8, 8), "pixels": 1, "shape": None, "fill_holes": True},
            r"shape is null, expected one of circle",
        ),
    ],
)
def test_other_nodes_name_the_input_that_is_wrong(lazy: Lazy, node: str, inputs: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        lazy.call(node, **inputs)


def test_full_memory_is_told_in_words(lazy: Lazy, canvas: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """Python's own MemoryError has an empty message."""

    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(lazy.node_module("context"), "to_bchw", full)
    with pytest.raises(MemoryError, match=r"main memory is full\. Scale the canvas down"):
        lazy.encode(canvas, mask_of(box_mask(SIDE, SIDE, 0, 0, 9, 9)))


def test_search_words_are_given_where_the_host_knows_them(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """0.3.75's schema raises for a word that it does not know."""
    module = lazy.node_module("schema")
    words = {node: lazy.nodes[node].GET_SCHEMA() for node in lazy.nodes}
    known = [getattr(each, "search_aliases", None) for each in words.values()]
    assert all(known) or not any(known)
    if all(known):
        assert {"inpaint", "local edit", "paint", "局部重绘"} <= set(words["LazyDecode"].search_aliases)
        for node in ("LazyCanvas", "LazyResult"):
            assert {"inpaint", "mask", "paint", "edit", "local edit", "局部重绘"} <= set(words[node].search_aliases)
    assert re.search(r"[Ii]npaint.*hole.*local edit", words["LazyDecode"].description)
    assert module.Options(["a"]) == "COMBO" and "COMBO" == module.Options(["a"]) and module.Options(["a"]) == ["a"]
    assert module.Options(["a"]) != "INT" and module.Options(["a"]) != ["b"]
