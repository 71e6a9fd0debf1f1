"""What lies on MODEL and in its prompts, by kind of patch and by what the patch does: each function names those of one
kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..checks import hides_tokens
from ..stock.family import Family
from .control import follows_tokens
from .functions import name_of, names_used


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


def inner_patches(seen: Seen, chosen: Callable[[str, Any], bool] = lambda kind, patch: True) -> list[str]:
    found = ((kind, patch) for kind, patches in seen.transformer.get("patches", {}).items() for patch in patches)
    return [f"{name_of(patch)} ({kind})" for kind, patch in found if chosen(kind, patch)]


def patches_of_all_tokens(seen: Seen) -> list[str]:
    """But for those that act on the hole's tokens as well (`control.on_hole`), and those that nobody calls."""
    return inner_patches(seen, lambda kind, patch: kind not in UNET and not follows_tokens(patch))


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
    return [name for name in ("area", "gligen", "set_area_to_bounds") if any(map(is_set, seen.values(name)))]


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


def pictures_beside(seen: Seen) -> list[str]:
    name = seen.family.widened_by if seen.family is not None else None
    return [] if name is None else ["a picture to edit from"][: len(seen.values(name))]


def weight_hooks(seen: Seen) -> list[str]:
    return ["a hook on the prompt"] if seen.values("hooks") else []
