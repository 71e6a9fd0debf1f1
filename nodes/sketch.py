from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.sketch import KINDS, add_edges, add_sketch
from . import host
from .context import ContextType
from .images import check_context, not_offered, to_bchw, to_mask
from .vae import canvas_encoder


class LazySketchCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazySketchCondition",
            display_name="Sketch Condition",
            category="lazydiffusion",
            description="A rough colour sketch, or lines to follow, guide what is generated in the hole.",
            inputs=[
                ContextType.Input("context", tooltip="From Encode Context."),
                io.Vae.Input("vae", tooltip="From Load Lazy Model."),
                io.Image.Input("sketch", tooltip="As large as the canvas; only its pixels inside the hole count."),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.05, tooltip="0 ignores the sketch, 1 keeps it as it is."),
                io.Mask.Input(
                    "sketch_mask", optional=True, tooltip="Where the sketch counts: 1 = use the sketch, 0 = keep the canvas below it."
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="colour",
                    optional=True,
                    tooltip="colour: a rough picture to start from. edges: lines to follow, dark on light or light on dark.",
                ),
            ],
            outputs=[ContextType.Output(display_name="CONTEXT", tooltip="The same context, with the sketch.")],
        )

    @classmethod
    def validate_inputs(cls, kind: str | None = None) -> bool | str:
        return not_offered(kind=(kind, KINDS))

    @classmethod
    def execute(
        cls, context: Any, vae: Any, sketch: Tensor, strength: float, sketch_mask: Tensor | None = None, kind: str = "colour"
    ) -> io.NodeOutput:
        known = check_context(context)
        host.check_vae(vae, known.latent.shape[1], known.grid.scale)
        where = None if sketch_mask is None else to_mask(sketch_mask)
        if kind == "edges":
            return io.NodeOutput(add_edges(known, to_bchw(sketch), strength, where))
        return io.NodeOutput(add_sketch(known, to_bchw(sketch), strength, canvas_encoder(vae), where))
