"""A prompt for each hole of one canvas: stock ConditioningSetMask and ConditioningCombine, one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, mask_of

SIDE, STEPS = 512, 4
BOXES = [(48, 48, 112, 112), (48, 400, 112, 464), (400, 48, 464, 112), (400, 400, 464, 464)]
PROMPTS = ["a red apple", "a green frog", "a sunflower", "a pizza"]
LEVEL = 1 / 255


@pytest.fixture(scope="module")
def image() -> Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    return torch.stack([0.4 + 0.1 * x, 0.5 + 0.1 * y, 0.6 + 0 * x], -1)[None]


def mask(*boxes: tuple[int, int, int, int]) -> Tensor:
    return mask_of(*[box_mask(SIDE, SIDE, *box) for box in boxes]).amax(0, keepdim=True)


def part(box: tuple[int, int, int, int]) -> tuple[Any, ...]:
    top, left, bottom, right = box
    return 0, slice(top, bottom), slice(left, right)


def masked(lazy: Lazy, prompt: str, region: Tensor) -> list:
    return lazy.stock.ConditioningSetMask().append(lazy.text(prompt), region, "default", 1.0)[0]


def combined(lazy: Lazy, *conditionings: list) -> list:
    result = conditionings[0]
    for each in conditionings[1:]:
        [result] = lazy.stock.ConditioningCombine().combine(result, each)
    return result


def messages(lazy: Lazy, context: Any, positive: list) -> list[str]:
    output = lazy.call(
        "LazyDecode", **given(lazy, context, positive), steps=1, cfg=1.0, sampler_name="euler", scheduler="simple"
    )
    return [each["code"] for each in output.ui["lazydiffusion"][0]["messages"]]


def given(lazy: Lazy, context: Any, positive: list) -> dict[str, Any]:
    names = {"model": lazy.model, "vae": lazy.vae, "context": context, "positive": positive, "negative": lazy.negative}
    return {**names, "seed": 0, "denoise": 1.0, "blend": "none"}


def test_four_prompts_in_four_holes_are_what_each_hole_is_by_itself(lazy: Lazy, image: Tensor):
    """As with one prompt for all holes of the same context, and as in an edit of that hole alone, on the same noise."""
    context, _ = lazy.encode(image, mask(*BOXES))
    positive = combined(lazy, *[masked(lazy, p, mask(box)) for p, box in zip(PROMPTS, BOXES, strict=True)])
    together, _ = lazy.decode(context, positive=positive, steps=STEPS, blend="none")
    for prompt, box in zip(PROMPTS, BOXES, strict=True):
        same, _ = lazy.decode(context, prompt, steps=STEPS, blend="none")
        assert (together[part(box)] - same[part(box)]).abs().max() <= LEVEL
        alone = lazy.edit(image, mask(box), prompt=prompt, steps=STEPS, blend="none")
        assert (together[part(box)] - alone[part(box)]).abs().max() <= LEVEL
    outside = mask(*BOXES) < 0.5
    assert torch.equal(together[outside], image[outside])
    colours = [together[part(box)][16:48, 16:48].mean((0, 1)) for box in BOXES]
    assert colours[0].argmax() == 0 and colours[1].argmax() == 1, "an apple is red, a frog green"


def test_a_prompt_without_a_mask_serves_the_holes_that_are_left(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(*BOXES[:3]))
    positive = combined(lazy, masked(lazy, PROMPTS[1], mask(BOXES[1])), lazy.text(PROMPTS[0]))
    together, _ = lazy.decode(context, positive=positive, steps=STEPS)
    for index, prompt in ((0, PROMPTS[0]), (1, PROMPTS[1]), (2, PROMPTS[0])):
        same, _ = lazy.decode(context, prompt, steps=STEPS)
        assert (together[part(BOXES[index])] - same[part(BOXES[index])]).abs().max() <= LEVEL


def test_the_negative_prompt_may_differ_from_hole_to_hole(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(*BOXES[:2]))
    negative = combined(lazy, masked(lazy, "a red apple", mask(BOXES[0])), lazy.negative)
    both, _ = lazy.decode(context, "a panda", negative=negative, steps=STEPS)
    plain, _ = lazy.decode(context, "a panda", steps=STEPS)
    assert (both[part(BOXES[1])] - plain[part(BOXES[1])]).abs().max() <= LEVEL
    assert (both[part(BOXES[0])] - plain[part(BOXES[0])]).abs().max() > 5 * LEVEL


def test_all_holes_are_made_in_one_go(lazy: Lazy, image: Tensor, monkeypatch: pytest.MonkeyPatch):
    """One run of the encoder and one VAE encode; as many calls of the decoder as an edit of one hole."""
    transformer = lazy.model.model.diffusion_model
    calls = {"encoder": 0, "decoder": 0, "vae": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(transformer.context_encoder, "forward", counted("encoder", transformer.context_encoder.forward))
    monkeypatch.setattr(transformer, "forward", counted("decoder", transformer.forward))
    monkeypatch.setattr(lazy.vae, "encode", counted("vae", lazy.vae.encode))
    shifted = (image + 0.01).clamp(0, 1)  # a canvas that no cache has seen
    context, told = lazy.encode(shifted, mask(*BOXES))
    positive = combined(lazy, *[masked(lazy, p, mask(box)) for p, box in zip(PROMPTS, BOXES, strict=True)])
    lazy.decode(context, positive=positive, steps=STEPS, cfg=1.0)
    assert told["encoder_ran"] and calls == {"encoder": 1, "decoder": STEPS, "vae": 1}


def test_a_hole_without_a_prompt_is_an_error_that_names_it(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(*BOXES[:2]))
    with pytest.raises(ValueError, match=r"the hole at \(400, 48\) px lies under no prompt's mask.*without a mask"):
        lazy.decode(context, positive=masked(lazy, "a panda", mask(BOXES[0])))


def test_a_masked_prompt_for_some_of_the_steps_is_refused(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(BOXES[0]))
    positive = masked(lazy, "a panda", mask(BOXES[0]))
    [positive] = lazy.stock.ConditioningSetTimestepRange().set_range(positive, 0.0, 0.5)
    with pytest.raises(ValueError, match=r"a prompt with a mask also has end_percent.*Remove one of the two"):
        lazy.decode(context, positive=positive)


def test_a_prompts_mask_that_is_to_count_less_is_refused(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(BOXES[0]))
    [positive] = lazy.stock.ConditioningSetMask().append(lazy.text("a panda"), mask(BOXES[0]), "default", 0.5)
    with pytest.raises(ValueError, match=r"a prompt's mask has strength 0.5, expected 1"):
        lazy.decode(context, positive=positive)


def test_a_hole_under_several_prompts_is_said_on_the_node(lazy: Lazy, image: Tensor):
    context, _ = lazy.encode(image, mask(BOXES[0]))
    top, left, bottom, right = BOXES[0]
    parts = [mask((top, left, bottom, left + 40)), mask((top, left + 40, bottom, right))]
    shared = combined(lazy, *[masked(lazy, p, region) for p, region in zip(PROMPTS, parts, strict=False)])
    assert messages(lazy, context, shared) == ["prompts_share_hole"]
    assert messages(lazy, context, masked(lazy, "a panda", mask(BOXES[0]))) == []
