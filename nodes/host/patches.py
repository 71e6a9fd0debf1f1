"""What lies on MODEL or in a prompt, and what Lazy Decode makes of it: one table, by kind of patch and by what the
patch does.

A stock model at `exact` is sampled by the host itself (`nodes/stock/edit.py`), so whatever works there works here. The
table is about steps that compute the hole's tokens alone, of our own models and of stock ones at `fast` and `balanced`.
docs/stock.md has it with measurements.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..checks import hides_tokens
from ..messages import Message, message
from ..stock.families import Family, family_of
from .functions import name_of, names_used


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


# -- what is there ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """A MODEL with its prompts, as the table's rules look at them."""

    model: Any
    conditioning: list
    family: Family | None
    soft: bool = False  # whether the mask is soft

    @property
    def options(self) -> dict[str, Any]:
        return self.model.model_options

    @property
    def transformer(self) -> dict[str, Any]:
        return self.options.get("transformer_options", {})

    def wrappers(self, kind: str) -> dict[Any, list]:
        """By key: those that a node added to the patcher, and those that lie in its options."""
        found: dict[Any, list] = {}
        for source in (getattr(self.model, "wrappers", {}), self.transformer.get("wrappers", {})):
            for key, functions in source.get(kind, {}).items():
                found.setdefault(key, []).extend(functions)
        return found

    def guidance(self) -> Iterator[Any]:
        """Every function that makes one answer of the model's answers to both prompts."""
        for name in ("sampler_cfg_function", "sampler_calc_cond_batch_function"):
            if name in self.options:
                yield self.options[name]
        for name in ("sampler_pre_cfg_function", "sampler_post_cfg_function"):
            yield from self.options.get(name, ())

    def values(self, name: str) -> list[Any]:
        return [values[name] for _, values in self.conditioning if values.get(name) is not None]


# -- rules ------------------------------------------------------------------------------------------------------------
UNET = {
    "input_block_patch",
    "input_block_patch_after_skip",
    "middle_block_patch",
    "middle_block_after_patch",
    "output_block_patch",
    "emb_patch",
    "forward_timestep_embed_patch",
    "attn2_patch",
    "attn2_output_patch",
}
"""Patches of UNets' layers, which no stock transformer has: the host's own run does not call them either."""
RUNS_THE_MODEL = {"calc_cond_batch", "calc_cond_uncond_batch", "apply_model"}
REPLACES_LAYERS = {"set_model_options_patch_replace"}
LOOKS_AROUND = {"fft", "conv2d", "interpolate", "avg_pool2d", "unfold", "grid_sample", "gaussian_blur"}


def step_caches(seen: Seen) -> list[str]:
    cache = seen.transformer.get("easycache")
    return [] if cache is None else [str(getattr(cache, "name", type(cache).__name__))]


def other_gpus(seen: Seen) -> list[str]:
    models = getattr(seen.model, "additional_models", {}).get("multigpu")
    return ["MultiGPU"] if models or seen.options.get("multigpu_clones") else []


def context_windows(seen: Seen) -> list[str]:
    handler = seen.options.get("context_handler")
    return [] if handler is None else [type(handler).__name__]


def inner_patches(seen: Seen, but: Iterable[str] = ()) -> list[str]:
    found = seen.transformer.get("patches", {})
    return [f"{name_of(patch)} ({kind})" for kind, patches in found.items() if kind not in but for patch in patches]


def replaced(seen: Seen, kinds: Callable[[str], bool] = bool) -> list[str]:
    return replaced_in(seen.transformer, kinds)


def replaced_in(transformer: dict[str, Any], kinds: Callable[[str], bool] = bool) -> list[str]:
    found = transformer.get("patches_replace", {})
    return [
        f"{name_of(patch)} ({kind})" for kind, patches in found.items() if kinds(kind) for patch in patches.values()
    ]


def transformer_wrappers(seen: Seen) -> list[str]:
    return [name_of(each) for functions in seen.wrappers(WrappersMP.DIFFUSION_MODEL).values() for each in functions]


def compiled(seen: Seen) -> list[str]:
    return ["torch.compile"] if COMPILE_KEY in seen.wrappers(WrappersMP.APPLY_MODEL) else []


def mask_functions(seen: Seen) -> list[str]:
    """Differential Diffusion and its like: used as they are under a soft mask, and with nothing to do under a hard
    one.
    """
    function = seen.options.get("denoise_mask_function")
    return [] if function is None or seen.soft else [name_of(function)]


def overrides(seen: Seen) -> list[str]:
    function = seen.transformer.get("optimized_attention_override")
    return [] if function is None else [name_of(function)]


def guidance_that(seen: Seen, uses: set[str]) -> list[str]:
    return [name_of(function) for function in seen.guidance() if names_used(function) & uses]


def spatial_conditions(seen: Seen) -> list[str]:
    return [name for name in ("control", "area", "gligen", "set_area_to_bounds") if any(map(is_set, seen.values(name)))]


def is_set(value: Any) -> bool:
    return value is not False


def attention_masks(seen: Seen) -> list[str]:
    """Masks that hide something; those that do not are dropped, by the host or by `stock.edit`."""
    if seen.family is None or not seen.family.text_in_sequence:
        return []
    return ["an attention mask" for mask in seen.values("attention_mask") if hides_tokens(mask)][:1]


def references(seen: Seen) -> list[str]:
    code = getattr(getattr(type(seen.model.model.diffusion_model), "_forward", None), "__code__", None)
    refused = seen.family is not None and seen.family.references == "refused"
    if not refused or code is None or "ref_latents" not in code.co_varnames:
        return []
    return ["a reference picture"][: len(seen.values("reference_latents"))]


def weight_hooks(seen: Seen) -> list[str]:
    return ["a hook on the prompt"] if seen.values("hooks") else []


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
        functools.partial(inner_patches, but=UNET),
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
        refused(f"comes before the picture's own tokens in this model, which is not supported yet. {TO_EXACT}"),
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
