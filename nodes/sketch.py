from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.sketch import KINDS, add_edges, add_sketch
from .checks import check_choice, check_number, check_socket, explains_memory
from .context import ContextType
from .host.vae import canvas_encoder, check_vae
from .images import check_context, to_bchw, to_mask
from .schema import Choice, schema


class LazySketchCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["inpaint sketch", "scribble", "paint", "lines", "draw", "草图", "涂鸦", "局部重绘"],
            node_id="LazySketchCondition",
            display_name="Sketch Condition",
            category="lazydiffusion",
            description="A rough colour sketch, or lines to follow, guide what is generated in the hole.",
            inputs=[
                ContextType.Input("context", tooltip="From Encode Context."),
                io.Vae.Input("vae", tooltip="From Load Lazy Model."),
                io.Image.Input("sketch", tooltip="As large as the canvas; only its pixels inside the hole count."),
                io.Float.Input(
                    "strength",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="0 ignores the sketch, 1 keeps it as it is.",
                ),
                io.Mask.Input(
                    "sketch_mask",
                    optional=True,
                    tooltip="Where the sketch counts: 1 = use the sketch, 0 = keep the canvas below it.",
                ),
                Choice(
                    "kind",
                    options=list(KINDS),
                    default="colour",
                    optional=True,
                    tooltip=(
                        "colour: a rough picture to start from. edges: lines to follow, dark on light or light on dark."
                    ),
                ),
            ],
            outputs=[ContextType.Output(display_name="CONTEXT", tooltip="The same context, with the sketch.")],
        )

    @classmethod
    @explains_memory
    def execute(
        cls,
        context: Any,
        vae: Any,
        sketch: Tensor,
        strength: float,
        sketch_mask: Tensor | None = None,
        kind: str = "colour",
    ) -> io.NodeOutput:
        kind = "colour" if kind is None else kind
        check_socket("IMAGE", sketch=sketch)
        check_choice(KINDS, kind=kind)
        check_number(0, 1, strength=strength)
        if sketch_mask is not None:
            check_socket("MASK", sketch_mask=sketch_mask)
        known = check_context(context)
        check_vae(vae, known.latent.shape[1], known.grid.scale)
        where = None if sketch_mask is None else to_mask(sketch_mask)
        if kind == "edges":
            return io.NodeOutput(add_edges(known, to_bchw(sketch), strength, where))
        return io.NodeOutput(add_sketch(known, to_bchw(sketch), strength, canvas_encoder(vae), where))
