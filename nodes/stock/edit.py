"""A `lazy_core.pipeline.Sample` for stock models: any of the host's samplers and schedulers on the hole's tokens."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import comfy.sample
import comfy.utils
import node_helpers
import torch
from torch import Tensor

from ...lazy_core.context import Context
from ...lazy_core.kept import KeptKV, Place
from ...lazy_core.pipeline import Sample, grid_noise
from ...lazy_core.reuse import Policy, Whole
from ...lazy_core.tokens import from_strip, to_strip
from .. import host
from .families import Family, family_of
from .hooks import hooked
from .run import Canvas, Run, flat


@dataclass(frozen=True)
class Latents:
    """What a CONTEXT for stock models depends on: latents and their tokens, not the checkpoint."""

    form: str
    scale: int
    patch: int
    channels: int

    @property
    def identity(self) -> str:
        return f"stock {self.form} 1/{self.scale} patch {self.patch}"


def latents_of(model: Any, vae: Any) -> Latents:
    """Raises ValueError for a VAE of another kind."""
    form, patch = model.model.latent_format, int(model.model.diffusion_model.patch_size)
    scale = 16 if form.latent_channels == 128 else 8
    host.check_vae(vae, form.latent_channels, scale)
    return Latents(type(form).__name__, scale, patch, form.latent_channels)


def wants_fill(model: Any) -> bool:
    """Whether the model takes mask and masked image as channels (Flux Fill)."""
    return concat_of(model, None, None, torch.zeros(1, model.model.latent_format.latent_channels, 4, 4)) is not None


def concat_of(model: Any, masked: Tensor | None, mask: Tensor | None, latent: Tensor) -> Tensor | None:
    """Channels [B, C', h, w] beside the latent [B, C, h, w]: the host's own, from masked image [B, C, h, w] and mask [B, 1, H, W]."""
    values: dict[str, Any] = {"noise": latent, "device": latent.device, "concat_latent_image": latent if masked is None else masked}
    if mask is not None:
        values["concat_mask"] = mask
    return model.model.concat_cond(**values)


CONCATENATED = ("concat_latent_image", "concat_mask")


@dataclass(frozen=True)
class Job:
    """What all holes of an edit share. `channels`: pictures to concatenate that came with the prompt, as control LoRAs need them."""

    model: Any
    family: Family
    policy: Policy
    positive: list
    negative: list
    settings: Any
    timing: Any
    denoise: float
    channels: dict[str, Tensor]


def hole_sampler(model: Any, context: Context, positive: list, negative: list, settings: Any, timing: Any) -> Sample:
    family = family_of(model)
    assert family is not None
    host.check_steps(settings)
    policy = family.policies[context.reuse or "balanced"]
    channels = {name: value for _, values in positive for name, value in values.items() if name in CONCATENATED}
    positive, negative = with_size(positive, context), with_size(negative, context)

    def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        job = Job(model, family, policy, positive, negative, settings, timing, denoise, channels)
        everything = grid_noise(context, settings.seed)
        if denoise >= 1:  # as the host starts a masked run; it matters where the highest noise level is not noise alone (PixArt)
            start = context.hole.cut(context.latent, context.grid.patch)
        result = torch.zeros_like(start)
        for images in same_holes(context):
            count = int(context.hole.valid[images[0]].sum())
            if count:
                part, tokens = part_of(context, images), (x[images, :count] for x in (noise, start))
                result[images, :count] = one_hole(job, part, everything[images], *tokens)
        host.check_finite(result, settings)
        return result

    return sample


def same_holes(context: Context) -> list[list[int]]:
    """Images that share their hole run as one batch, others one after the other."""
    groups: dict[bytes, list[int]] = {}
    for image, (index, valid) in enumerate(zip(context.hole.index, context.hole.valid, strict=True)):
        groups.setdefault(index[valid].numpy().tobytes(), []).append(image)
    return list(groups.values())


def part_of(context: Context, images: list[int]) -> Context:
    hole = context.hole
    masked = None if context.masked is None else context.masked[images]
    kept = type(hole)(hole.index[images], hole.valid[images], hole.total)
    return context.with_(image=context.image[images], mask=context.mask[images], latent=context.latent[images], hole=kept, masked=masked)


def one_hole(job: Job, context: Context, noise: Tensor, hole_noise: Tensor, start: Tensor) -> Tensor:
    """Noise of the grid [B, C, h, w], the hole's noise and start [B, K, C p p], one hole for all images -> clean tokens."""
    try:
        return run_once(job, context, noise, hole_noise, start, host.where_there_is_room)
    except torch.cuda.OutOfMemoryError:
        logging.warning("Lazy Decode ran out of memory; trying again with keys and values in main memory.")
    host.give_memory_back()
    return run_once(job, context, noise, hole_noise, start, host.in_main_memory)


def run_once(job: Job, context: Context, noise: Tensor, hole_noise: Tensor, start: Tensor, place: Place) -> Tensor:
    base, grid, settings = job.model.model, context.grid, job.settings
    timed = base.latent_format.latent_dimensions == 3
    clean = flat(base.process_latent_in(context.latent.unsqueeze(2) if timed else context.latent))
    whole = Whole(context.hole.index[0][context.hole.valid[0]], grid.rows, grid.cols, grid.patch)
    given = job.channels
    masked, mask = given.get("concat_latent_image", context.masked), given.get("concat_mask", context.mask[:, None].float())
    canvas = Canvas(clean, noise, whole, concat_of(job.model, masked, mask, clean))
    run = Run(base, job.family, canvas, job.policy, KeptKV(place, context.kv_dtype))
    patched = hooked(job.model, run, 0 if place is host.in_main_memory else kept_bytes(job, context))
    strips = (to_strip(x, grid.patch) for x in (hole_noise, start))
    strips = [strip.unsqueeze(2) if timed else strip for strip in strips]
    try:
        result = comfy.sample.sample(
            patched,
            strips[0],
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            job.positive,
            job.negative,
            strips[1],
            denoise=job.denoise,
            callback=host.progress(patched, context, grid.patch, job.timing, job.settings.preview),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=settings.seed,
        )
    finally:
        run.forget()
    job.timing.passes = {"full": run.passes[True], "sparse": run.passes[False]}
    return from_strip(flat(result).float(), grid.patch)


def kept_bytes(job: Job, context: Context) -> int:
    """How much the run will keep, for both conditionings where there is guidance."""
    base, area = job.model.model, context.grid.patch**2
    size = 1 if context.kv_dtype == "fp8" else (base.manual_cast_dtype or base.get_dtype()).itemsize
    numbers = 0
    for conditioning in [job.positive, job.negative][: 1 if job.settings.cfg == 1 else 2]:
        for text, values in conditioning:
            image = context.grid.tokens + sum(x.shape[-1] * x.shape[-2] // area for x in values.get("reference_latents", ()))
            numbers += job.family.kept_numbers(base.diffusion_model, image, text.shape[1])
    return job.policy.at_once(job.settings.steps) * len(context.latent) * numbers * size


def with_size(conditioning: list, context: Context) -> list:
    """Conditioning of the whole picture's size, without what would be squeezed onto a strip."""
    host.check_whole_image_conditions(conditioning)
    sized = node_helpers.conditioning_set_values(conditioning, {"width": context.grid.width, "height": context.grid.height})
    return [[text, {k: v for k, v in values.items() if k not in CONCATENATED}] for text, values in sized]
