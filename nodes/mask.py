from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core import masks
from .checks import check_choice, check_socket, explains_memory
from .images import to_mask
from .schema import Choice, schema


class LazyMaskDilate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["grow mask", "expand mask", "fill mask", "inpaint", "hole", "扩展遮罩", "遮罩膨胀", "局部重绘"],
            node_id="LazyMaskDilate",
            display_name="Mask Dilate",
            category="lazydiffusion",
            description="Grows a mask, so that a rough stroke covers what it means. 1 = hole (generate), 0 = keep.",
            inputs=[
                io.Mask.Input("mask", tooltip="1 = hole (generate), 0 = keep."),
                io.Int.Input(
                    "pixels", default=16, min=0, max=1024, tooltip="How far the hole grows on every side, in pixels."
                ),
                Choice(
                    "shape", options=list(masks.SHAPES), tooltip="Circle keeps corners round; square keeps boxes boxes."
                ),
                io.Boolean.Input(
                    "fill_holes",
                    default=True,
                    tooltip="Also fill what the hole encloses, as when you draw a ring around an object.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="MASK", tooltip="The grown mask: 1 = hole (generate), 0 = keep.")],
        )

    @classmethod
    @explains_memory
    def execute(cls, mask: Tensor, pixels: int, shape: masks.Shape, fill_holes: bool) -> io.NodeOutput:
        check_socket("MASK", mask=mask)
        check_choice(masks.SHAPES, shape=shape)
        return io.NodeOutput(masks.dilate(to_mask(mask), pixels, shape, fill_holes))
