from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io

from ..lazy_core.composite import BLENDS
from ..lazy_core.cost import step_flops
from ..lazy_core.pipeline import lazy_decode
from . import host
from .context import ContextType
from .images import check_context, decoder, not_offered, to_bhwc
from .stock import edit as stock
from .vae import canvas_encoder, hole_decoder

VAE_DECODES = ("lazy", "full")


class LazyDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazyDecode",
            display_name="Lazy Decode",
            category="lazydiffusion",
            description="Generates the hole, and only the hole: each step costs what the hole costs. Outside the mask nothing changes.",
            inputs=[
                io.Model.Input("model", tooltip="The model that made the CONTEXT."),
                io.Vae.Input("vae", tooltip="The VAE that made the CONTEXT."),
                ContextType.Input("context", tooltip="From Encode Context or Sketch Condition."),
                io.Conditioning.Input("positive", tooltip="What the hole should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show; an empty prompt is fine."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same result.",
                ),
                io.Int.Input(
                    "steps",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps. 4 are enough for the shipped model, others as always.",
                ),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="How strongly the prompt counts; 1 is fastest."),
                io.Combo.Input("sampler_name", options=host.SAMPLERS, default="euler", tooltip="Any of the host's samplers."),
                io.Combo.Input("scheduler", options=host.SCHEDULERS, default="simple", tooltip="Any of the host's schedulers."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, the hole's old content shows through: 0 keeps it, 1 ignores it.",
                ),
                io.Combo.Input(
                    "blend",
                    options=list(BLENDS),
                    default="feather",
                    tooltip="How the hole meets the canvas: paste, fade, or match colours along the border.",
                ),
                io.Combo.Input(
                    "vae_decode",
                    options=list(VAE_DECODES),
                    default="lazy",
                    optional=True,
                    tooltip="lazy: only around the hole; with a stock VAE from the canvas's second edit on. full: the whole picture.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The edited canvas; outside the mask bit-identical."),
                io.Latent.Output(display_name="LATENT", tooltip="The edited canvas as a latent, before blending."),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    def validate_inputs(
        cls, sampler_name: str | None, scheduler: str | None, blend: str | None, vae_decode: str | None = None
    ) -> bool | str:
        return not_offered(
            sampler_name=(sampler_name, host.SAMPLERS),
            scheduler=(scheduler, host.SCHEDULERS),
            blend=(blend, BLENDS),
            vae_decode=(vae_decode, VAE_DECODES),
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        vae: Any,
        context: Any,
        positive: list,
        negative: list,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        blend: Any,
        vae_decode: str = "lazy",
    ) -> io.NodeOutput:
        begin = time.perf_counter()
        timing = host.Timing()
        settings = host.Settings(seed, steps, cfg, sampler_name, scheduler, shown_in_canvas(cls.hidden))
        known, sample = (cls.stock if host.is_stock(model) else cls.lazy)(model, vae, context, positive, negative, settings, timing)
        decode_image = decoder(vae)
        decode_hole = hole_decoder(vae, decode_image) if vae_decode == "lazy" else None
        image, latent = lazy_decode(known, sample, canvas_encoder(vae), decode_image, seed, denoise, blend, decode_hole)
        figures = {
            "hole_tokens": known.hole.count,
            "all_tokens": known.hole.total,
            "hole_fraction": known.hole_fraction,
            "steps": steps,
            "step_ms": timing.step_ms,
            "total_ms": 1000 * (time.perf_counter() - begin),
            "saved_ms": timing.step_ms * steps * timing.sparse_share * (cls.ratio(model, known, positive) - 1),
        }
        return io.NodeOutput(to_bhwc(image), {"samples": latent}, ui={"lazydiffusion": [figures]})

    @classmethod
    def lazy(cls, model: Any, vae: Any, context: Any, positive: list, negative: list, settings: Any, timing: Any) -> Any:
        config = host.transformer_of(model).config
        host.check_vae(vae, config.latent_channels, config.latent_scale)
        known = check_context(context, host.identity_of(model))
        return known, host.hole_sampler(model, known, positive, negative, settings, timing)

    @classmethod
    def stock(cls, model: Any, vae: Any, context: Any, positive: list, negative: list, settings: Any, timing: Any) -> Any:
        known = check_context(context, stock.latents_of(model, vae).identity)
        return known, stock.hole_sampler(model, known, positive, negative, settings, timing)

    @classmethod
    def ratio(cls, model: Any, known: Any, positive: list) -> float:
        """Operations of a step on all tokens to those of one in the hole: counted for our models, the tokens' ratio for others."""
        hole, total = known.hole.count, known.hole.total
        if not host.is_stock(model):
            config, text_tokens = host.transformer_of(model).config, positive[0][0].shape[1]
            hole, total = (step_flops(config, count, text_tokens, kept_text=True) for count in (hole, total))
        return total / max(hole, 1)


def shown_in_canvas(hidden: Any) -> bool:
    """Whether the running prompt has a Lazy Canvas, which shows the hole while it is made."""
    prompt = (hidden and hidden.prompt) or {}
    return any(node.get("class_type") == "LazyCanvas" for node in prompt.values())
