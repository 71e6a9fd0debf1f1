from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core import masks
from .images import not_offered, to_mask


class LazyMaskDilate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazyMaskDilate",
            display_name="Mask Dilate",
            category="lazydiffusion",
            description="Grows a mask, so that a rough stroke covers what it means. 1 = hole (generate), 0 = keep.",
            inputs=[
                io.Mask.Input("mask", tooltip="1 = hole (generate), 0 = keep."),
                io.Int.Input("pixels", default=16, min=0, max=1024, tooltip="How far the hole grows on every side, in pixels."),
                io.Combo.Input("shape", options=list(masks.SHAPES), tooltip="Circle keeps corners round; square keeps boxes boxes."),
                io.Boolean.Input(
                    "fill_holes", default=True, tooltip="Also fill what the hole encloses, as when you draw a ring around an object."
                ),
            ],
            outputs=[io.Mask.Output(display_name="MASK", tooltip="The grown mask: 1 = hole (generate), 0 = keep.")],
        )

    @classmethod
    def validate_inputs(cls, shape: str | None) -> bool | str:
        return not_offered(shape=(shape, masks.SHAPES))

    @classmethod
    def execute(cls, mask: Tensor, pixels: int, shape: masks.Shape, fill_holes: bool) -> io.NodeOutput:
        return io.NodeOutput(masks.dilate(to_mask(mask), pixels, shape, fill_holes))
