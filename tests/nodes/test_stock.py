"""Our MODEL, CLIP and VAE among the host's own: samplers, schedulers, prompts, VAE, LoRA, sampling patches, seeds. In
this process.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas, random_mask

HEIGHT, WIDTH = 80, 64
CANVAS = image_of(random_canvas(np.random.default_rng(0), HEIGHT, WIDTH))
HOLE = mask_of(box_mask(HEIGHT, WIDTH, 20, 10, 60, 40))
FULL = torch.ones(1, HEIGHT, WIDTH)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have t:UserWarning"),  # torchsde's, about the last bit of a time
    pytest.mark.filterwarnings("ignore:To copy construct:UserWarning"),  # the host's dpm_fast and dpm_adaptive
]


@pytest.fixture(scope="module")
def context(lazy: Lazy) -> Any:
    return lazy.encode(CANVAS, HOLE)[0]


def is_edit(image: Tensor, mask: Tensor = HOLE) -> bool:
    """Finite, changed in the hole, bit-identical outside."""
    hole = mask > 0
    return bool(
        torch.isfinite(image).all() and torch.equal(image[~hole], CANVAS[~hole]) and (image[hole] != CANVAS[hole]).any()
    )


# -- samplers, seeds, guidance, denoise --------------------------------------------------------------------------------
@pytest.mark.parametrize("which", ["sampler_name", "scheduler"])
def test_every_sampler_and_scheduler_works_and_repeats(lazy: Lazy, context: Any, comfy: ModuleType, which: str):
    """None needs an optional package; each gives the same pixels for the same seed, bit for bit."""
    ksampler = importlib.import_module("comfy.samplers").KSampler
    names = ksampler.SAMPLERS if which == "sampler_name" else ksampler.SCHEDULERS
    problems = {}
    for name in names:
        try:
            first, second = (lazy.decode(context, steps=3, blend="none", **{which: name})[0] for _ in range(2))
            if not is_edit(first):
                problems[name] = "no edit"
            elif not torch.equal(first, second):
                problems[name] = "another result at the second time"
        except Exception as error:
            problems[name] = repr(error)
    assert len(names) >= 9
    assert problems == {}


def test_seed_and_prompt_matter(lazy: Lazy, context: Any):
    results = [lazy.decode(context, prompt=prompt, seed=seed)[0] for prompt in ("panda", "pizza") for seed in (1, 2)]
    assert len({result.numpy().tobytes() for result in results}) == 4


def test_cfg_one_does_without_the_negative_prompt(lazy: Lazy, context: Any):
    def edit(cfg: float, negative: str) -> Tensor:
        return lazy.decode(context, cfg=cfg, negative=lazy.text(negative))[0]

    assert torch.equal(edit(1.0, ""), edit(1.0, "pizza"))
    assert not torch.equal(edit(3.0, ""), edit(3.0, "pizza"))
    assert not torch.equal(edit(1.0, ""), edit(3.0, ""))


def test_denoise_zero_keeps_what_was_there(lazy: Lazy):
    """Whatever prompt and seed: the canvas comes back, bit for bit."""
    context, _ = lazy.encode(CANVAS, FULL)
    results = [
        lazy.decode(context, prompt=prompt, seed=seed, denoise=0.0, blend="none")[0]
        for prompt, seed in (("panda", 1), ("pizza", 2))
    ]
    assert torch.equal(results[0], CANVAS) and torch.equal(results[1], CANVAS)


def test_denoise_below_one_starts_from_what_was_there(lazy: Lazy):
    other = torch.where(HOLE[..., None] > 0, 1 - CANVAS, CANVAS)
    results = {strength: lazy.edit(CANVAS, HOLE, denoise=strength, steps=3) for strength in (0.3, 0.7, 1.0)}
    assert all(is_edit(result) for result in results.values())
    assert not torch.equal(results[0.3], results[0.7])
    hole = HOLE > 0
    assert not torch.equal(
        lazy.edit(other, HOLE, denoise=0.3, steps=3, blend="none")[hole],
        lazy.edit(CANVAS, HOLE, denoise=0.3, steps=3, blend="none")[hole],
    )


# -- same seed, grown mask ---------------------------------------------------------------------------------------------
def noise_given_to_the_sampler(lazy: Lazy, context: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """What Lazy Decode starts from, taken where it enters the host: -> [B, K, C p p]."""
    taken = []
    sample = importlib.import_module("comfy.sample")

    def spy(model: Any, noise: Tensor, *_: Any, **__: Any) -> Tensor:
        taken.append(noise)
        return torch.zeros_like(noise)

    with monkeypatch.context() as patch:
        patch.setattr(sample, "sample", spy)
        lazy.decode(context, seed=77)
    return lazy.core("tokens").from_strip(taken[0], context.grid.patch)


@pytest.mark.parametrize("kind", ["ring", "disjoint", "border", "one pixel"])
def test_grown_mask_keeps_the_noise_of_old_tokens(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    rng = np.random.default_rng(len(kind))
    hole = random_mask(rng, kind, 117, 149)
    image = image_of(random_canvas(rng, 117, 149))
    dilated = lazy.call("LazyMaskDilate", mask=mask_of(hole), pixels=20, shape="circle", fill_holes=True).args[0]
    old, new = lazy.encode(image, mask_of(hole))[0], lazy.encode(image, dilated)[0]
    assert new.hole_tokens > old.hole_tokens
    before, after = (noise_given_to_the_sampler(lazy, context, monkeypatch) for context in (old, new))
    drawn = [
        dict(zip(c.hole.index[c.hole.valid].tolist(), x[c.hole.valid], strict=True))
        for c, x in ((old, before), (new, after))
    ]
    assert all(torch.equal(drawn[1][token], noise) for token, noise in drawn[0].items())
    assert torch.equal(lazy.core("pipeline").hole_noise(new, 77), after)
    assert 0.8 < after[new.hole.valid].std() < 1.2
    assert not torch.equal(lazy.core("pipeline").hole_noise(new, 78), after)


# -- CLIP --------------------------------------------------------------------------------------------------------------
def test_prompts(lazy: Lazy, context: Any):
    plain = lazy.text("panda")[0][0]
    different = [
        "(panda:1.2)",
        "(panda)",
        "(panda:0.5)",
        "",
        "熊猫",
        "向日葵",
        "red apple",
        "panda " * 100,
        "a panda and " + "word " * 97 + "end",
    ]
    texts = {prompt: lazy.text(prompt)[0][0] for prompt in different}
    for prompt, text in texts.items():
        chunks = 1 if len(prompt.split()) <= 15 else 7  # of fifteen words each
        assert text.shape == (1, 16 * chunks, 256), prompt
        assert torch.isfinite(text).all(), prompt
        assert not torch.equal(text, plain), prompt
        assert is_edit(lazy.decode(context, prompt=prompt, steps=1)[0]), prompt
    assert not torch.equal(texts["熊猫"], texts["向日葵"]), "Chinese is known, not one unknown word"
    assert torch.equal(lazy.text("(panda:1.0)")[0][0], plain)
    assert torch.equal(lazy.text("PANDA")[0][0], plain)


@pytest.mark.parametrize(
    "prompt",
    ["a \\(panda\\)", "((panda:1.5) red:0.2", "   \n\t", "🐼", "\0", "panda, pizza; <lora:x:1> embedding:none"],
)
def test_odd_prompts_are_no_error(lazy: Lazy, context: Any, prompt: str):
    assert is_edit(lazy.decode(context, prompt=prompt, steps=1)[0])


def test_stock_conditioning_nodes(lazy: Lazy, context: Any):
    stock, panda, pizza = lazy.stock, lazy.text("panda"), lazy.text("pizza")
    made = {
        "concat": stock.ConditioningConcat().concat(panda, pizza)[0],
        "average": stock.ConditioningAverage().addWeighted(panda, pizza, 0.5)[0],
        "combine": stock.ConditioningCombine().combine(panda, pizza)[0],
        "zero": stock.ConditioningZeroOut().zero_out(panda)[0],
        "range": stock.ConditioningSetTimestepRange().set_range(panda, 0.0, 0.5)[0]
        + stock.ConditioningSetTimestepRange().set_range(pizza, 0.5, 1.0)[0],
    }
    plain = lazy.decode(context, positive=panda, steps=3)[0]
    for name, conditioning in made.items():
        result = lazy.decode(context, positive=conditioning, steps=3)[0]
        assert is_edit(result), name
        assert not torch.equal(result, plain), name


# -- VAE ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(96, 64), (256, 256), (70, 100)])
def test_stock_vae_nodes(lazy: Lazy, height: int, width: int):
    pixels = image_of(*(random_canvas(np.random.default_rng(seed), height, width) for seed in (1, 2)))
    with torch.inference_mode():
        latent = lazy.stock.VAEEncode().encode(lazy.vae, pixels)[0]
        image = lazy.stock.VAEDecode().decode(lazy.vae, latent)[0]
    assert latent["samples"].shape == (2, 8, height // 8, width // 8)
    assert image.shape == (2, height // 8 * 8, width // 8 * 8, 3)
    assert torch.isfinite(image).all() and 0 <= image.min() and image.max() <= 1


def test_latent_of_an_edit_decodes_to_what_the_hole_shows(lazy: Lazy, context: Any):
    """As the model made it: the picture's own texture around the object is put there afterwards."""
    image, latent = lazy.decode(context.with_(texture=None), blend="none")
    with torch.inference_mode():
        decoded = lazy.stock.VAEDecode().decode(lazy.vae, {"samples": latent})[0]
    hole = HOLE > 0
    assert decoded.shape == image.shape
    assert torch.allclose(decoded[hole], image[hole], atol=1e-5)


# -- MODEL: LoRA, weight and sampling patches --------------------------------------------------------------------------
def lora(lazy: Lazy, part: str) -> dict[str, Tensor]:
    """A LoRA file's tensors for every matrix below diffusion_model.`part`."""
    generator = torch.Generator().manual_seed(5)
    weights = {
        key: value
        for key, value in lazy.model.model.state_dict().items()
        if key.startswith(f"diffusion_model.{part}.blocks.")
    }
    tensors = {}
    for key, value in weights.items():
        if key.endswith(".weight") and value.dim() == 2:
            name = key[: -len(".weight")]
            tensors[f"{name}.lora_up.weight"] = torch.randn(value.shape[0], 2, generator=generator) * 0.1
            tensors[f"{name}.lora_down.weight"] = torch.randn(2, value.shape[1], generator=generator) * 0.1
    assert len(tensors) > 8
    return tensors


def with_lora(lazy: Lazy, tensors: dict[str, Tensor]) -> Any:
    """As the stock LoRA loaders do it."""
    model, _ = importlib.import_module("comfy.sd").load_lora_for_models(lazy.model, None, tensors, 1.0, 0.0)
    assert len(model.patches) == len(tensors) // 2
    return model


def with_weight_patch(lazy: Lazy) -> Any:
    model = lazy.model.clone()
    key = "diffusion_model.context_encoder.embed.weight"
    assert model.add_patches({key: (torch.ones_like(lazy.model.model.state_dict()[key]),)}, 0.1) == [key]
    return model


@pytest.mark.parametrize(
    "patched",
    [with_weight_patch, lambda lazy: with_lora(lazy, lora(lazy, "context_encoder"))],
    ids=["add_patches", "LoRA"],
)
def test_patched_encoder_encodes_again_and_changes_the_result(lazy: Lazy, patched: Callable[[Lazy], Any]):
    image = image_of(random_canvas(np.random.default_rng(9), HEIGHT, WIDTH))
    plain, _ = lazy.encode(image, HOLE)
    before, _ = lazy.decode(plain)
    model = patched(lazy)
    context, told = lazy.encode(image, HOLE, model=model)
    assert told["encoder_ran"] is True
    assert not torch.equal(context.tokens, plain.tokens)
    after, _ = lazy.decode(context, model=model)
    assert not torch.equal(after, before)
    assert lazy.encode(image, HOLE, model=model)[1]["encoder_ran"] is False
    again, told = lazy.encode(image, HOLE)
    assert told["encoder_ran"] is False
    assert torch.equal(lazy.decode(again)[0], before), "the patch stayed in the model"


def test_the_same_lora_applied_anew_does_not_encode_again(lazy: Lazy):
    """As it happens with every queued edit under --cache-none: same canvas, same mask, same weights."""
    image, tensors = image_of(random_canvas(np.random.default_rng(10), HEIGHT, WIDTH)), lora(lazy, "context_encoder")
    first, second = (lazy.encode(image, HOLE, model=with_lora(lazy, tensors))[1] for _ in range(2))
    assert (first["encoder_ran"], second["encoder_ran"]) == (True, False)


def test_lora_on_the_decoder_changes_the_result(lazy: Lazy, context: Any):
    model = with_lora(lazy, lora(lazy, "decoder"))
    plain = lazy.decode(context)[0]
    assert not torch.equal(lazy.decode(context, model=model)[0], plain)
    assert torch.equal(lazy.decode(context)[0], plain), "the patch stayed in the model"


def test_each_prompt_gets_its_own_context(lazy: Lazy, context: Any):
    """What `lazy_core` does without the host: the negative prompt's tokens are not the prompt's, and that is all that
    `against` does.
    """
    assert context.negative_offset is not None, "the shipped model guides style"
    guided, plain = (
        lazy.decode(context.with_(negative_offset=negative_offset), cfg=3.0)[0]
        for negative_offset in (context.negative_offset, None)
    )
    assert not torch.equal(guided, plain)
    same = [
        lazy.decode(context.with_(negative_offset=negative_offset), cfg=1.0)[0]
        for negative_offset in (context.negative_offset, None)
    ]
    assert torch.equal(*same)
    swapped = context.with_(tokens=context.negative_tokens, negative_offset=-context.negative_offset)
    little = lazy.decode(context, cfg=0.25)[0]
    other = lazy.decode(swapped, positive=lazy.negative, negative=lazy.text("panda"), cfg=0.75)[
        0
    ]  # exchanged: cfg becomes 1 - cfg
    assert torch.allclose(other, little, atol=1e-3)


def test_sampling_patch_changes_the_result_and_keeps_the_context(lazy: Lazy):
    image = image_of(random_canvas(np.random.default_rng(11), HEIGHT, WIDTH))
    context, _ = lazy.encode(image, HOLE)
    model = (
        importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingSD3().patch(lazy.model, shift=3.0)[0]
    )
    assert lazy.encode(image, HOLE, model=model)[1]["encoder_ran"] is False
    plain, shifted = (lazy.decode(context, model=given, steps=3)[0] for given in (lazy.model, model))
    assert not torch.equal(plain, shifted)


def test_the_hosts_noise_levels_are_those_of_the_checkpoint(lazy: Lazy):
    """The shipped file asks for more steps near the noise; the stock scheduler follows, and so does the pack without
    ComfyUI.
    """
    sampling, own = lazy.model.get_model_object("model_sampling"), lazy.core("diffusion.parametrisation")
    shift = lazy.model.model.diffusion_model.config.shift
    levels = importlib.import_module("comfy.samplers").calculate_sigmas(sampling, "simple", 8)
    assert shift > 1
    torch.testing.assert_close(levels, own.parametrisation("flow_x0").sigmas(8, shift=shift))
