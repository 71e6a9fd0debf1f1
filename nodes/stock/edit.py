"""A `lazy_core.pipeline.Sample` for stock models: any of the host's samplers and schedulers on the hole's tokens."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...lazy_core.context import Context, StockTerms
from ...lazy_core.kv.policy import HoleInLatent, Policy
from ...lazy_core.kv.split import NEAR
from ...lazy_core.kv.store import KeptKV, Place
from ...lazy_core.pipeline import Sample, fill_hole, grid_noise
from ...lazy_core.tokens import to_strip
from ..checks import hides_tokens
from ..host import control
from ..host.memory import give_memory_back, in_main_memory, where_there_is_room
from ..host.previews import progress
from ..host.sampling import Settings, check_finite, check_steps, run_sampler, with_strength
from ..host.timing import Timing
from ..host.vae import check_vae
from ..memory import retry_when_out_of_memory
from .families import family_of
from .family import Family
from .hooks import control_hooks, hooked
from .passes import Group, drop_time_axis, share_of
from .run import Run


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
    form, family = model.model.latent_format, family_of(model)
    assert family is not None
    patch = family.patch_of(model.model.diffusion_model)
    # ComfyUI 0.3.75 does not say it: there Flux.2 has 128 channels at 1/16, HunyuanImage 2.1 64 at 1/32.
    scale = getattr(form, "spacial_downscale_ratio", {128: 16, 64: 32}.get(form.latent_channels, 8))
    check_vae(vae, form.latent_channels, scale)
    return Latents(type(form).__name__, scale, patch, form.latent_channels)


def wants_fill(model: Any) -> bool:
    """Whether the model takes mask and masked image as channels (Flux Fill)."""
    latent = torch.zeros(1, model.model.latent_format.latent_channels, 4, 4)
    return model.model.concat_cond(noise=latent, device=latent.device, concat_latent_image=latent) is not None


@dataclass(frozen=True)
class Job:
    """What a run of the sampler takes beside the CONTEXT."""

    model: Any
    family: Family
    policy: Policy
    positive: list
    negative: list
    settings: Settings
    timing: Timing


RUNNING = threading.RLock()
"""Held by a run: its hooks lie in modules that runs in other threads share."""


def hole_sampler(
    model: Any, context: Context, positive: list, negative: list, settings: Settings, timing: Timing
) -> Sample:
    """Sample as the host does under a noise mask of the hole's tokens; only the model's calls are lazy, and none is for
    `exact`.
    """
    family = family_of(model)
    assert family is not None
    check_steps(settings)
    policy = family.policies[terms_of(context).reuse]
    job = Job(model, family, policy, *with_picture(positive, negative, context), settings, timing)

    def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        """The host starts from the canvas; it matters where the highest noise level is not noise alone (PixArt)."""
        if denoise >= 1:
            known = context.hole.cut(context.latent, context.grid.patch)
            start = known if context.strength is None else torch.where((context.strength < 1)[..., None], start, known)
        latent = fill_hole(context, start)
        result = context.hole.cut(run_host(job, context, latent, denoise), context.grid.patch)
        check_finite(result, settings)
        return result

    return sample


def terms_of(context: Context) -> StockTerms:
    """Of a CONTEXT that a stock model made."""
    assert context.stock is not None
    return context.stock


def run_host(job: Job, context: Context, latent: Tensor, denoise: float) -> Tensor:
    """Latents [B, C, h, w] whose holes to fill -> filled."""
    if job.policy.cost(job.settings.steps, share_of(groups_of(context), len(context.latent))) >= 1:
        job.timing.passes = {"full": job.settings.steps, "sparse": 0}
        model, strength = with_strength(job.model, context.strength)
        return sample(job, model, context, latent, denoise, strength)
    lazy = job
    if not job.family.counts_text:
        lazy = replace(job, positive=without_idle_masks(job.positive), negative=without_idle_masks(job.negative))
    run = partial(run_once, lazy, context, latent, denoise)
    # The second time with keys and values in main memory.
    return retry_when_out_of_memory(
        "Lazy Decode", lambda: run(where_there_is_room), lambda: run(in_main_memory), give_memory_back
    )


def without_idle_masks(conditioning: list) -> list:
    """A prompt without attention masks of ones: newer hosts hand them to the transformer, though they hide nothing."""
    masks = ((text, values, values.get("attention_mask")) for text, values in conditioning)
    return [
        [
            text,
            values
            if mask is None or hides_tokens(mask)
            else {name: each for name, each in values.items() if name != "attention_mask"},
        ]
        for text, values, mask in masks
    ]


def run_once(job: Job, context: Context, latent: Tensor, denoise: float, place: Place) -> Tensor:
    terms = terms_of(context)
    kept, near = KeptKV(place, terms.kv_dtype), NEAR[terms.visible]
    run = Run(job.model.model, job.family, groups_of(context), job.policy, kept, near)
    model, strength = with_strength(job.model, context.strength)
    with RUNNING, control_hooks(run, job.model), run.control_nets.watched([*job.positive, *job.negative]):
        patched = hooked(model, run, 0 if place is in_main_memory else kept_bytes(job, context))
        try:
            result = sample(job, patched, context, latent, denoise, strength)
        finally:
            run.forget()
    job.timing.passes = {"full": run.passes["full"], "sparse": run.passes["sparse"]}
    job.timing.saved_seconds += run.saved_seconds
    return result


def sample(job: Job, model: Any, context: Context, latent: Tensor, denoise: float, strength: Tensor | None) -> Tensor:
    """The host's own run on all of latents [B, C, h, w] with the holes, of `strength` [B, K], as its noise mask ->
    latents.
    """
    timed, settings = model.model.latent_format.latent_dimensions == 3, job.settings
    noise, mask = grid_noise(context, settings.seed), noise_mask(context, strength)
    parts = [part.unsqueeze(2) if timed else part for part in (noise, latent, mask)]
    result = run_sampler(
        model,
        parts[0],
        parts[1],
        job.positive,
        job.negative,
        settings,
        denoise,
        parts[2],
        progress(model, context, context.grid.patch, job.timing, settings.preview, lambda x: holes_of(context, x)),
    )
    return drop_time_axis(result).float()


def holes_of(context: Context, latent: Tensor) -> Tensor:
    """Latents [B, C, (1,) h, w] -> strips of their hole's tokens [B, C, K p, p]."""
    patch = context.grid.patch
    return to_strip(context.hole.cut(drop_time_axis(latent), patch), patch)


def noise_mask(context: Context, strength: Tensor | None = None) -> Tensor:
    """[B, 1, h, w], 1 = hole: whole tokens; of a soft mask their `strength` [B, K]."""
    grid, hole = context.grid, context.hole
    cells = torch.zeros(len(hole.index), hole.total)
    cells[hole.valid.nonzero()[:, 0], hole.index[hole.valid]] = (
        1 if strength is None else strength[hole.valid].to(cells)
    )
    return cells.view(-1, 1, grid.rows, grid.cols).repeat_interleave(grid.patch, 2).repeat_interleave(grid.patch, 3)


def groups_of(context: Context) -> list[Group]:
    """Images that share their hole are computed together in steps on the hole alone; those without one in none."""
    groups: dict[bytes, list[int]] = {}
    grid, hole = context.grid, context.hole
    for image, (index, valid) in enumerate(zip(hole.index, hole.valid, strict=True)):
        if bool(valid.any()):
            groups.setdefault(index[valid].numpy().tobytes(), []).append(image)
    first = [(hole.index[images[0]][hole.valid[images[0]]], images) for images in groups.values()]
    return [Group(tuple(images), HoleInLatent(index, grid.rows, grid.cols, grid.patch)) for index, images in first]


def kept_bytes(job: Job, context: Context) -> int:
    """How much the run will keep, for both conditionings where there is guidance."""
    base, transformer = job.model.model, job.model.model.diffusion_model
    size = 1 if terms_of(context).kv_dtype == "fp8" else (base.manual_cast_dtype or base.get_dtype()).itemsize
    numbers = 0
    for conditioning in [job.positive, job.negative][: 1 if job.settings.cfg == 1 else 2]:
        for text, values in conditioning:
            prefix = job.family.prefix_of(transformer, text.shape[1], told(job.family, values))
            numbers += job.family.kept_numbers(transformer, context.grid.tokens, prefix)
            numbers += control.kept_numbers(job.model.model_options.get("transformer_options", {}), context.grid.tokens)
    return job.policy.at_once(job.settings.steps) * len(context.latent) * numbers * size


def told(family: Family, values: dict[str, Any]) -> dict[str, Any]:
    """A prompt's conditions that have tokens of their own, by the names that the transformer gets them by."""
    outputs = [*values.get("clip_vision_outputs", ())]
    outputs += [each.get("clip_vision_output") for each in values.get("unclip_conditioning", ())]
    seen = [each.last_hidden_state[:, :, None] for each in outputs if each is not None]
    more = {each.told: values[each.given] for each in family.more_text if each.given in values}
    return {"ref_latents": values.get("reference_latents"), "siglip_feats": seen, **more}


def with_picture(positive: list, negative: list, context: Context) -> tuple[list, list]:
    """Conditioning of the picture's size, and with the channels that an inpainting or control model concatenates.

    Those that came with the prompt (control LoRAs) are used for the negative prompt, too.
    """
    names = ("concat_latent_image", "concat_mask")
    channels = {name: value for _, values in positive for name, value in values.items() if name in names}
    masked = terms_of(context).masked
    if masked is not None:
        mask = context.grid.pad(context.mask[:, None].float())  # in whole tokens, as `masked` is
        channels = {"concat_latent_image": masked, "concat_mask": mask, **channels}
    known = {**channels, "width": context.grid.width, "height": context.grid.height}
    own = [[[text, {**known, **without_size(values)}] for text, values in each] for each in (positive, negative)]
    return own[0], own[1]


def without_size(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("width", "height")}
