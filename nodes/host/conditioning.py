"""CONDITIONING: what it may carry, and the hole's tokens in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import node_helpers
import torch
from torch import Tensor

from ...lazy_core.context import Context
from ...lazy_core.prompts import PromptPerHole, prompt_per_hole
from .model import PreparedPerBatch

SAME_AT_EVERY_STEP = {
    "denoise_mask_function",
    "transformer_options",
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "disable_cfg1_optimization",
}


def check_prompt(name: str, conditioning: list) -> None:
    """Raises ValueError for text that holds NaN, as a prompt weight like (word:nan) makes it."""
    if not all(bool(torch.isfinite(text).all()) for text, _ in conditioning):
        raise ValueError(f"{name} holds NaN or infinite numbers. Check the weights in its prompt, such as (word:1.2).")


def check_conditioning(name: str, conditioning: list, width: int) -> None:
    """Raises ValueError for text that another model's CLIP encoded."""
    for text, _ in conditioning:
        if text.shape[-1] != width:
            raise ValueError(
                f"{name} is {text.shape[-1]} wide, expected {width}: another CLIP encoded it. "
                "Connect the CLIP of Load Lazy Model to its prompt."
            )


def same_every_step(model: Any, conditioning: list) -> bool:
    """False where a node may hand the model other conditionings from step to step: wrappers, hooks, samplers'
    replacements.
    """
    options = model.model_options
    wrapped = options.get("transformer_options", {}).get("wrappers") or any(model.wrappers.values())
    known = options.keys() <= SAME_AT_EVERY_STEP
    return known and not wrapped and not any(values.get("hooks") for _, values in conditioning)


def with_context(conditioning: list, context: Context, tokens: Tensor, prepared: PreparedPerBatch | None) -> list:
    """Conditioning that carries the hole's `tokens` to the model; prompts with a mask become one prompt for each hole.

    Raises ValueError for what only makes sense on a whole image.
    """
    check_whole_image_conditions(conditioning)
    conditioning = [[of_rows(text, context), values] for text, values in conditioning]
    conditioning = by_hole(conditioning, context)
    keys = context.hole.token_mask
    values = {
        "lazy_tokens": tokens,
        "lazy_index": context.seen.index,
        "lazy_token_mask": None if keys is None else keys.long(),
        "lazy_edges": context.edges,
        "lazy_grid": context.seen.grid,
        "lazy_sizes": context.seen.sizes,
        "lazy_prepared": prepared,
        "width": context.grid.width,
        "height": context.grid.height,
    }
    return node_helpers.conditioning_set_values(conditioning, values)


def of_rows(text: Tensor, context: Context) -> Tensor:
    """A batch of prompts [T, L, W], which the host repeats for the images, as one for each hole [R, L, W]; one prompt
    stays one.
    """
    return text if len(text) == 1 else text[context.owner % len(text)]


def one_plain_prompt(conditioning: list) -> bool:
    """Whether it is one prompt, for all of an image and of the run."""
    text, values = conditioning[0]
    all_of_it = all(values.get(name) is None for name in ("mask", *OF_A_PART))
    always = all(values.get(name, usual) == usual for name, usual in ONE_PROMPT_ONLY.items())
    return len(conditioning) == len(text) == 1 and all_of_it and always


def prompts_of_images(conditionings: list[list]) -> list:
    """Prompts of `one_plain_prompt`, each for one image of a batch -> one conditioning with a prompt for each."""
    length = math.lcm(*(conditioning[0][0].shape[1] for conditioning in conditionings))
    text = torch.cat([spread(conditioning[0][0], 1, length) for conditioning in conditionings])
    nothing = [bool(ask_for_nothing(*conditioning[0]).all()) for conditioning in conditionings]
    marks = [mark if flag else None for mark, flag in zip(marks_of(text), nothing, strict=True)]
    return [[text, {**conditionings[0][0][1], "lazy_nothing": marks}]]


def marks_of(text: Tensor) -> list[float]:
    """A number for each prompt of [T, L, W] that another text does not have; one that is repeated has it."""
    return text.double().mean((1, 2)).tolist()


def ask_for_nothing(text: Tensor, values: dict[str, Any]) -> Tensor:
    """Which of the prompts [T, L, W] ask for no object: [T] bool. What a node mixed into them since counts as one."""
    said = values.get("lazy_nothing") or [None]
    said = said if len(said) == len(text) else said[:1] * len(text)
    pairs = zip(said, marks_of(text), strict=True)
    return torch.tensor(
        [mark is not None and math.isclose(mark, now, rel_tol=1e-5, abs_tol=1e-9) for mark, now in pairs]
    )


def holes_without_object(conditioning: list, context: Context) -> Tensor:
    """Which holes [R] bool have a prompt for no object, and no other."""
    masked, rest = of_masks(conditioning)
    result = torch.full((len(context.owner),), bool(rest))
    for text, values in rest:
        flags = ask_for_nothing(text, values)
        result &= flags[context.owner % len(flags)]
    if masked:
        number = prompts_of_holes(masked, context).number
        for index, (text, values) in enumerate(masked):
            chosen = number == index
            flags = ask_for_nothing(text, values)
            result[chosen] = flags[context.owner[chosen] % len(flags)]
    return result


def by_hole(conditioning: list, context: Context) -> list:
    """Prompts of which some have a mask -> those without one, in which each hole [R, L, W] under a mask has its prompt.

    Raises ValueError where a hole lies under no mask and every prompt has one.
    """
    masked, rest = of_masks(conditioning)
    if not masked:
        return conditioning
    chosen = prompts_of_holes(masked, context)
    if not rest:
        if len(bare := (chosen.number < 0).nonzero()):
            first = context.hole.index[bare[0, 0]][context.hole.valid[bare[0, 0]]][0]
            row, col = divmod(int(first), context.grid.cols)
            side = context.grid.token_pixels
            raise ValueError(
                f"the hole at ({col * side}, {row * side}) px lies under no prompt's mask, and every prompt has one."
                " Combine them with a prompt without a mask: it serves the holes that are left."
            )
        rest = [[masked[0][0], {name: each for name, each in masked[0][1].items() if name not in MASK}]]
    rows = len(context.hole.index)
    length = math.lcm(*(text.shape[1] for text, _ in conditioning))  # the host's way to batch prompts that differ
    texts = [spread(text, rows, length) for text, _ in masked]
    merged = []
    for text, values in rest:
        each = spread(text, rows, length).clone()
        for number, own in enumerate(texts):
            each[chosen.number == number] = own[chosen.number == number].to(each)
        merged.append([each, values])
    return merged


MASK = ("mask", "mask_strength", "set_area_to_bounds")  # what ConditioningSetMask writes
OF_A_PART = ("area", "control", "gligen")  # what makes no sense on hole tokens
ONE_PROMPT_ONLY = {"start_percent": 0.0, "end_percent": 1.0, "hooks": None}


def of_masks(conditioning: list) -> tuple[list, list]:
    """-> (prompts with a mask, prompts without)."""
    masked = [entry for entry in conditioning if entry[1].get("mask") is not None]
    return masked, [entry for entry in conditioning if entry[1].get("mask") is None]


def prompts_of_holes(masked: list, context: Context) -> PromptPerHole:
    """Which of the prompts with a mask each hole is given."""
    regions = [values["mask"] if values["mask"].dim() == 3 else values["mask"][None] for _, values in masked]
    return prompt_per_hole(context.mask, context.hole, context.grid, [region.cpu() for region in regions])


def holes_of_several_prompts(conditioning: Sequence, context: Context) -> int:
    """How many holes lie under more than one prompt's mask to a good part."""
    masked = of_masks(list(conditioning))[0]
    return int(prompts_of_holes(masked, context).shared.sum()) if masked else 0


def spread(text: Tensor, rows: int, length: int) -> Tensor:
    """[1 or R, L, W] -> [R, length, W]: attention to a text that is repeated is attention to the text."""
    return text.expand(rows, -1, -1).repeat(1, length // text.shape[1], 1)


def check_whole_image_conditions(conditioning: list) -> None:
    for _, values in of_masks(conditioning)[0]:
        if (strength := values.get("mask_strength", 1.0)) != 1.0:
            raise ValueError(
                f"a prompt's mask has strength {strength}, expected 1: a hole has one prompt, whole. Set it to 1 in"
                " Conditioning (Set Mask)."
            )
        for name, usual in ONE_PROMPT_ONLY.items():
            if values.get(name, usual) != usual:
                raise ValueError(
                    f"a prompt with a mask also has {name}, which Lazy Decode cannot give to one hole of several."
                    " Remove one of the two, or edit that hole by itself."
                )
    for _, values in conditioning:
        if found := [name for name in OF_A_PART if values.get(name) is not None]:
            raise ValueError(
                f"the conditioning has {found[0]}, which Lazy Decode cannot apply to hole tokens. Remove that node."
            )
