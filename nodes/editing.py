"""One call of Lazy Decode's work, for the nodes that have it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.blend.composite import BLENDS, Blend
from ..lazy_core.context import Context
from ..lazy_core.pipeline import Seeds, lazy_decode
from . import messages
from .checks import check_choice, check_number, check_socket
from .engines import Engine
from .host.conditioning import check_prompt, holes_without_object
from .host.sampling import SAMPLERS, SCHEDULERS, Settings
from .host.timing import Timing
from .host.vae import canvas_encoder, hole_decoder
from .images import decoder, to_bhwc, with_alpha
from .schema import Choice

VAE_DECODES = ("lazy", "full")
AUTO_BLENDS = ("auto", *BLENDS)


def widgets(seed: str, sampler: str) -> list[Any]:
    """The inputs that say how a hole is decoded; the texts are the tooltips of two of them."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip=seed,
        ),
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Denoising steps. 0: as many as suit the model, 4 for the shipped one, 20 for others.",
        ),
        io.Float.Input(
            "cfg",
            default=3.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How strongly the prompt counts; 1 is fastest.",
        ),
        Choice("sampler_name", options=SAMPLERS, default="euler", tooltip=sampler),
        Choice("scheduler", options=SCHEDULERS, default="simple", tooltip="Any of the host's schedulers."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Below 1, the hole's old content shows through: 0 keeps it, 1 ignores it.",
        ),
        Choice(
            "blend",
            options=list(AUTO_BLENDS),
            default="auto",
            tooltip=(
                "How the hole meets the canvas: paste, fade, or match colours along the border (auto, for the"
                " shipped model)."
            ),
        ),
        Choice(
            "vae_decode",
            options=list(VAE_DECODES),
            default="lazy",
            optional=True,
            tooltip=(
                "lazy: only around the hole; with a stock VAE from the canvas's second edit on. full: the whole"
                " picture."
            ),
        ),
    ]


@dataclass(frozen=True)
class Terms:
    """The widgets of Lazy Decode beside the seed, as they came; `checked` holds them against what is offered."""

    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float
    blend: Any
    vae_decode: str

    def checked(self) -> Terms:
        """Raises ValueError before anything is computed."""
        check_number(0, 100, cfg=self.cfg)
        check_number(0, 1, denoise=self.denoise)
        check_choice(SAMPLERS, sampler_name=self.sampler_name)
        check_choice(SCHEDULERS, scheduler=self.scheduler)
        check_choice(AUTO_BLENDS, blend=self.blend)
        check_choice(VAE_DECODES, vae_decode=self.vae_decode)
        return self

    def settings(self, engine: Engine, seed: int, preview: bool) -> Settings:
        return Settings(seed, self.steps or engine.steps, self.cfg, self.sampler_name, self.scheduler, preview)

    def blend_of(self, engine: Engine) -> Blend:
        return engine.blend if self.blend == "auto" else self.blend


def check_links(model: Any, vae: Any, positive: Any, negative: Any) -> None:
    """Raises ValueError for what is not of its socket's type, and for prompts that hold NaN."""
    check_socket("MODEL", model=model)
    check_socket("VAE", vae=vae)
    check_socket("CONDITIONING", positive=positive, negative=negative)
    check_prompt("positive", positive)
    check_prompt("negative", negative)


def decode(
    engine: Engine,
    vae: Any,
    context: Context,
    positive: list,
    negative: list,
    seed: Seeds,
    terms: Terms,
    timing: Timing,
    preview: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fill the holes of a checked context: -> (images [B, 3, H, W], latents [B, C, h, w]), as `lazy_decode`."""
    first = seed if isinstance(seed, int) else seed[0]
    sample = engine.sampler(context, positive, negative, terms.settings(engine, first, preview), timing)
    decode_image = decoder(vae)
    decode_hole = hole_decoder(vae, decode_image) if terms.vae_decode == "lazy" else None
    encode, blend, matte = canvas_encoder(vae), terms.blend_of(engine), engine.matte
    nothing = None if matte is None else holes_without_object(positive, context)
    how = terms.denoise, blend, decode_hole, matte, nothing
    image, latent = lazy_decode(context, sample, encode, decode_image, seed, *how)
    if context.grid.downscale > 1:  # the latent is then of what the model saw
        latent = encode(replace(context.grid, downscale=1).pad(image))
    return image, latent


def as_image(result: Tensor, context: Context, terms: Terms) -> Tensor:
    """What `decode` made [B, 3, H, W] -> the host's IMAGE, with the canvas's alpha; holes are opaque where anything was
    made in them.
    """
    if terms.denoise <= 0 and context.sketch is None:
        context = context.with_(mask=torch.zeros_like(context.mask), weight=None)
    return to_bhwc(with_alpha(result, context))


def told_of(engine: Engine, context: Context, positive: list, negative: list, denoise: float) -> list[messages.Message]:
    """What is to be said of an edit: its prompts, its holes, and what it starts from."""
    prompts, start = messages.of_prompts(positive, negative), messages.of_start(context, denoise)
    return [*prompts, *engine.messages(context, positive), *start]
