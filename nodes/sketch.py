from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.sketch import add_sketch
from . import host
from .context import ContextType
from .images import check_context, encoder, to_bchw, to_mask


class LazySketchCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazySketchCondition",
            display_name="Sketch Condition",
            category="lazydiffusion",
            description="A rough colour sketch in the hole guides what is generated there.",
            inputs=[
                ContextType.Input("context", tooltip="From Encode Context."),
                io.Vae.Input("vae", tooltip="From Load Lazy Model."),
                io.Image.Input("sketch", tooltip="As large as the canvas; only its pixels inside the hole count."),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.05, tooltip="0 ignores the sketch, 1 keeps it as it is."),
                io.Mask.Input(
                    "sketch_mask", optional=True, tooltip="Where the sketch counts: 1 = use the sketch, 0 = keep the canvas below it."
                ),
            ],
            outputs=[ContextType.Output(display_name="CONTEXT", tooltip="The same context, with the sketch.")],
        )

    @classmethod
    def execute(cls, context: Any, vae: Any, sketch: Tensor, strength: float, sketch_mask: Tensor | None = None) -> io.NodeOutput:
        known = check_context(context)
        host.check_vae(vae, known.latent.shape[1], known.grid.scale)
        where = None if sketch_mask is None else to_mask(sketch_mask)
        return io.NodeOutput(add_sketch(known, to_bchw(sketch), strength, encoder(vae), where))
