"""What lies on MODEL or in a prompt, and what Lazy Decode makes of it: one table, by kind of patch and by what the
patch does.

A stock model at `exact` is sampled by the host itself (`nodes/stock/edit.py`), so whatever works there works here. The
table is about steps that compute the hole's tokens alone, of our own models and of stock ones at `fast` and `balanced`.
docs/stock.md has it with measurements.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..messages import Message, message
from ..stock.families import family_of
from .seen import (
    LOOKS_AROUND,
    REPLACES_LAYERS,
    RUNS_THE_MODEL,
    Seen,
    attention_masks,
    compiled,
    context_windows,
    guidance_that,
    inner_patches,
    mask_functions,
    other_gpus,
    overrides,
    patches_of_all_tokens,
    pictures_beside,
    references,
    replaced,
    replaced_in,
    spatial_conditions,
    step_caches,
    transformer_wrappers,
    weight_hooks,
)


# -- verdicts ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """What becomes of a patch. `refused` stops the edit before it samples, with `why`; the others become messages on
    the node.
    """

    kind: Literal["approximate", "without effect", "refused"]
    why: str = ""


def refused(why: str) -> Verdict:
    return Verdict("refused", why)


APPROXIMATE = Verdict("approximate")
WITHOUT_EFFECT = Verdict("without effect")
CODES = {"approximate": "approximate_patch", "without effect": "patch_without_effect"}
TO_EXACT = "Set reuse to exact on Encode Context, or remove it."
REMOVE = "Remove it."


# -- rules ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """`find` names the patches of one kind; `ours`, `stock`: what becomes of them with our models, and with stock ones
    unless `exact`.

    None means that they act as ever. `always`: for stock models at `exact`, too.
    """

    find: Callable[[Seen], list[str]]
    ours: Verdict | None
    stock: Verdict | None
    always: bool = False


OWN_STEPS = "skips model calls by what changed in the whole picture, while these steps compute the hole alone."
NO_LAYERS = "changes layers that a LazyDiffusion model does not have."
RULES: tuple[Rule, ...] = (
    Rule(step_caches, refused(f"{OWN_STEPS} {REMOVE}"), refused(f"{OWN_STEPS} {TO_EXACT}")),
    Rule(
        other_gpus,
        refused(f"splits the prompts between GPUs. {REMOVE}"),
        refused(f"splits the prompts between GPUs. {TO_EXACT}"),
    ),
    Rule(
        context_windows,
        refused(f"cuts pictures into windows. {REMOVE}"),
        refused(f"cuts pictures into windows. {TO_EXACT}"),
    ),
    Rule(inner_patches, refused(f"{NO_LAYERS} {REMOVE}"), None),
    Rule(
        patches_of_all_tokens,
        None,
        refused(f"adds to all tokens inside the transformer, while these steps compute the hole's alone. {TO_EXACT}"),
    ),
    Rule(replaced, refused(f"{NO_LAYERS} {REMOVE}"), None),
    Rule(functools.partial(replaced, kinds=lambda kind: kind == "dit"), None, APPROXIMATE),
    Rule(
        transformer_wrappers,
        refused(f"wraps the host's transformers, and a LazyDiffusion model is none of them. {REMOVE}"),
        APPROXIMATE,
    ),
    Rule(compiled, None, WITHOUT_EFFECT),
    Rule(
        mask_functions,
        WITHOUT_EFFECT,
        WITHOUT_EFFECT,
        always=True,
    ),
    Rule(
        functools.partial(guidance_that, uses=REPLACES_LAYERS),
        refused(f"runs the model a second time with layers replaced that it does not have. {REMOVE}"),
        None,
    ),
    Rule(
        functools.partial(guidance_that, uses=RUNS_THE_MODEL),
        refused(
            "runs the model on a prompt of its own, which knows nothing of the hole. Remove it and use the negative"
            " prompt."
        ),
        None,
    ),
    Rule(
        functools.partial(guidance_that, uses=LOOKS_AROUND),
        refused(f"filters a picture, and the hole's tokens lie in a row here. {REMOVE}"),
        None,
    ),
    Rule(
        overrides,
        refused(
            "replaces the host's attention, which a LazyDiffusion model calls by itself. Remove it; ComfyUI's own flags"
            " choose."
        ),
        None,
    ),
    Rule(
        spatial_conditions,
        None,
        refused(f"belongs to a place in the whole picture, which steps on the hole alone do not see. {TO_EXACT}"),
    ),
    Rule(attention_masks, None, refused(f"cannot be applied to hole tokens. {TO_EXACT}")),
    Rule(
        references,
        None,
        refused(f"is not supported in this model yet. {TO_EXACT}"),
    ),
    Rule(
        pictures_beside,
        None,
        refused(f"is laid beside the canvas in this model, as one wider picture, which is not supported. {TO_EXACT}"),
    ),
    Rule(weight_hooks, None, APPROXIMATE),
)


def examine(model: Any, positive: list, negative: list, reuse: str | None = None, soft: bool = False) -> list[Message]:
    """Return messages about patches on MODEL that act differently here. `reuse` of a stock model's CONTEXT, None for
    our own models; `soft`: whether its mask is.

    Raises ValueError for one that cannot be honoured, naming it and what to do.
    """
    seen = Seen(model, [*positive, *negative], family_of(model), soft)
    told: list[Message] = []
    for rule in RULES:
        verdict = rule.ours if seen.family is None else rule.stock
        if verdict is None or (reuse == "exact" and not rule.always):
            continue
        for name in dict.fromkeys(rule.find(seen)):
            if verdict.kind == "refused":
                raise ValueError(f"{name} {verdict.why}")
            told.append(message(CODES[verdict.kind], patch=name))
    return told


def refuse_replaced(transformer_options: dict[str, Any] | None) -> None:
    """Raises ValueError where guidance runs a model of ours with layers replaced, which no look at MODEL could
    foresee.
    """
    if found := replaced_in(transformer_options or {}):
        raise ValueError(f"{found[0]} {NO_LAYERS} {REMOVE}")
