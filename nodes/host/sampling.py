"""The host's samplers and schedulers on the strip of hole tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...lazy_core.context import Context
from ...lazy_core.diffusion.differential import joined, relative
from ...lazy_core.pipeline import Sample
from ...lazy_core.tokens import from_strip, to_strip
from ..memory import retry_when_out_of_memory
from .conditioning import check_conditioning, same_every_step, with_context
from .memory import give_memory_back
from .model import PreparedPerBatch, transformer_of
from .previews import progress
from .timing import Timing

SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS
DRAW_NO_NOISE = ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep")
DRAW_NO_NOISE += ("gradient_estimation", "uni_pc", "uni_pc_bh2")  # their steps follow from the start's noise alone


def inpainting_noise(sampler: Any, noise: Tensor, extra: dict[str, Any]) -> Tensor:
    """The noise that the host puts over what lies outside the mask: for some samplers (ddim) another draw than the
    hole's.
    """
    if not getattr(sampler, "inpaint_options", {}).get("random", False):
        return noise
    generator = torch.Generator("cpu").manual_seed(extra.get("seed", 41) + 1)
    return torch.randn(noise.shape, generator=generator, device="cpu").to(noise)


@dataclass(frozen=True)
class Settings:
    """The widgets of Lazy Decode that the host's samplers take."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    preview: bool = False  # a canvas shows the hole while it is made, whatever --preview-method says


def hole_sampler(
    model: Any, context: Context, positive: list, negative: list, settings: Settings, timing: Timing
) -> Sample:
    """Run any of the host's samplers and schedulers on the strip of hole tokens, with a model of ours."""
    config = transformer_of(model).config
    check_steps(settings)
    check_conditioning("positive", positive, config.caption_width)
    check_conditioning("negative", negative, config.caption_width)

    patched, strength = with_strength(model, context.strength)
    noise_mask = (
        None
        if strength is None
        else to_strip(strength[..., None].repeat(1, 1, config.patch_size**2), config.patch_size)
    )

    def run(noise: Tensor, start: Tensor, denoise: float, prepared: PreparedPerBatch | None) -> Tensor:
        strip = run_sampler(
            patched,
            to_strip(noise, config.patch_size),
            to_strip(start, config.patch_size),
            with_context(positive, context, context.tokens, prepared),
            with_context(negative, context, context.negative_tokens, prepared),
            settings,
            denoise,
            noise_mask,
            progress(model, context, config.patch_size, timing, settings.preview),
        )
        return from_strip(strip.float(), config.patch_size)

    def frugal(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        if not same_every_step(model, [*positive, *negative]):
            return run(noise, start, denoise, None)

        def kept_between_steps() -> Tensor:
            prepared = PreparedPerBatch()
            tokens = run(noise, start, denoise, prepared)
            timing.calls = prepared.rows / len(noise)
            return tokens

        def make_room() -> None:
            transformer_of(model).graphs.clear()
            give_memory_back()

        # The second time without keeping the text's keys and values between steps.
        return retry_when_out_of_memory(
            "Lazy Decode", kept_between_steps, lambda: run(noise, start, denoise, None), make_room
        )

    def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        tokens = frugal(noise, start, denoise)
        check_finite(tokens, settings)
        return tokens

    return sample


def run_sampler(
    model: Any,
    noise: Tensor,
    start: Tensor,
    positive: list,
    negative: list,
    settings: Settings,
    denoise: float,
    noise_mask: Tensor | None,
    callback: Any,
) -> Tensor:
    """Run the sampler and scheduler of `settings` from the latent `start`, as the host's KSampler does."""
    return comfy.sample.sample(
        model,
        noise,
        settings.steps,
        settings.cfg,
        settings.sampler,
        settings.scheduler,
        positive,
        negative,
        start,
        denoise=denoise,
        noise_mask=noise_mask,
        callback=callback,
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=settings.seed,
    )


def with_strength(model: Any, strength: Tensor | None) -> tuple[Any, Tensor | None]:
    """Return the MODEL and the values [R, K] of a noise mask by which a soft mask's tokens of `strength` [R, K] join
    later.

    Nothing changes for a hard mask, None. What a Differential Diffusion node put on the model is used as it is.
    """
    if strength is None:
        return model, None
    if "denoise_mask_function" not in model.model_options:
        model, strength = model.clone(), relative(strength)
        model.set_model_denoise_mask_function(tokens_that_joined)
    return model, strength


def tokens_that_joined(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """The host's kind of function of a noise mask, called at every step: see `lazy_core.diffusion.differential`."""
    sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
    ends = sigmas[0], max(sigmas[-1], sampling.sigma_min)
    now, first, last = (float(sampling.timestep(each)) for each in (sigma[0], *ends))
    final = float(sigma[0]) <= float(sigmas[-2]) * (1 + 1e-6)
    return joined(denoise_mask, now, first, last, final).to(denoise_mask)


def check_steps(settings: Settings) -> None:
    if settings.steps < 1:
        raise ValueError(f"steps is {settings.steps}, expected at least 1.")


def check_finite(tokens: Tensor, settings: Settings) -> None:
    if not bool(torch.isfinite(tokens).all()):
        how = (
            f"sampler {settings.sampler}, scheduler {settings.scheduler} and {settings.steps}"
            f" step{'s'[: settings.steps != 1]}"
        )
        raise ValueError(f"the result holds NaN, made by {how}. Choose another scheduler or sampler, or more steps.")
