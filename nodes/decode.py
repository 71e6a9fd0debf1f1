from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io

from . import messages
from .checks import explains_memory
from .context import ContextType
from .editing import VAE_DECODES, Terms, as_image, check_links, decode, told_of, widgets
from .engines import engine_of
from .host.patches import examine
from .host.timing import Timing
from .images import same_picture
from .schema import schema


class LazyDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            [
                "inpaint",
                "inpainting",
                "fill hole",
                "local edit",
                "paint",
                "retouch",
                "KSampler",
                "局部重绘",
                "修补",
                "填补空洞",
                "局部编辑",
            ],
            node_id="LazyDecode",
            display_name="Lazy Decode",
            category="lazydiffusion",
            description=(
                "Inpaints: generates the hole, and only the hole, so that a local edit costs what its hole costs. "
                "Outside the mask nothing changes."
            ),
            inputs=[
                io.Model.Input("model", tooltip="The model that made the CONTEXT."),
                io.Vae.Input("vae", tooltip="The VAE that made the CONTEXT."),
                ContextType.Input("context", tooltip="From Encode Context or Sketch Condition."),
                io.Conditioning.Input("positive", tooltip="What the hole should show."),
                io.Conditioning.Input("negative", tooltip="What it should not show; an empty prompt is fine."),
                *widgets("The same seed gives the same result.", "Any of the host's samplers."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The canvas, for when this node is bypassed: it is then passed on. Otherwise not used.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The edited canvas; outside the mask bit-identical."),
                io.Latent.Output(display_name="LATENT", tooltip="The edited canvas as a latent, before blending."),
            ],
            hidden=[io.Hidden.prompt],
        )

    @classmethod
    @explains_memory
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
        vae_decode: str | None = "lazy",
        image: Any = None,
    ) -> io.NodeOutput:
        begin = time.perf_counter()
        how = VAE_DECODES[0] if vae_decode is None else vae_decode
        check_links(model, vae, positive, negative)
        terms = Terms(steps, cfg, sampler_name, scheduler, denoise, blend, how).checked()
        engine, timing = engine_of(model), Timing()
        known = engine.check(context, vae)
        said = examine(model, positive, negative, known.stock and known.stock.reuse, known.strength is not None)
        shown = shown_in_canvas(cls.hidden)
        result, latent = decode(engine, vae, known, positive, negative, seed, terms, timing, shown)
        image_out = as_image(result, known, terms)
        figures = {
            "hole_tokens": known.hole_tokens,
            "all_tokens": known.hole.total,
            "hole_fraction": known.hole_fraction,
            "steps": steps or engine.steps,
            "step_ms": timing.step_ms,
            "total_ms": 1000 * (time.perf_counter() - begin),
        }
        figures["saved_ms"] = engine.saved_ms(known, positive, timing)
        figures["messages"] = [*said, *told_of(engine, known, positive, negative, denoise)]
        if not same_picture(image, known.image):
            figures["messages"].append(messages.message("other_image"))
        return io.NodeOutput(image_out, {"samples": latent}, ui={"lazydiffusion": [figures]})


def shown_in_canvas(hidden: Any) -> bool:
    """Whether the running prompt has a Lazy Canvas, which shows the hole while it is made."""
    prompt = (hidden and hidden.prompt) or {}
    return any(node.get("class_type") == "LazyCanvas" for node in prompt.values())
