from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.edit import Edit, blank_image, join_masks, keep_outside, paint_over
from .host import files
from .images import to_bchw, to_bhwc, to_mask
from .schema import schema

EditType = io.Custom("LAZY_EDIT")


class LazyCanvas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            [
                "inpaint",
                "mask",
                "paint",
                "edit",
                "local edit",
                "canvas",
                "painter",
                "局部重绘",
                "修补",
                "涂抹",
                "画布",
                "编辑",
            ],
            node_id="LazyCanvas",
            display_name="Lazy Canvas",
            category="lazydiffusion",
            description=(
                "Paint a mask, say what goes there, look, go on: local edits in the page, also called inpainting. "
                "Mask: 1 = hole (generate), 0 = keep."
            ),
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture to start from, where nothing was opened in the canvas itself.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Added to the painted mask: 1 = hole (generate), 0 = keep."
                ),
                *(io.String.Input(name, default="", socketless=True, tooltip=tip) for name, tip in FILES.items()),
                io.Int.Input("width", default=512, min=16, max=8192, tooltip="Width of a blank canvas, in pixels."),
                io.Int.Input("height", default=512, min=16, max=8192, tooltip="Height of a blank canvas, in pixels."),
                io.String.Input(
                    "color", default="#c8c8c8", socketless=True, tooltip="Colour of a blank canvas, as #rrggbb."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The canvas."),
                io.Mask.Output(display_name="MASK", tooltip="The painted mask: 1 = hole (generate), 0 = keep."),
                io.Image.Output(
                    display_name="SKETCH", tooltip="The canvas with the painted colours, for Sketch Condition."
                ),
                EditType.Output(
                    display_name="EDIT", tooltip="For Lazy Result: canvas and mask, so that nothing changes outside it."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, canvas_file: str | None, mask_file: str | None, sketch_file: str | None) -> bool | str:
        return files.missing(canvas_file=canvas_file, mask_file=mask_file, sketch_file=sketch_file)

    @classmethod
    def execute(
        cls,
        canvas_file: str,
        mask_file: str,
        sketch_file: str,
        width: int,
        height: int,
        color: str,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        opened = files.read(canvas_file, "RGB")
        linked = None if image is None else to_bchw(image)
        canvas = opened[None] if opened is not None else blank_image(width, height, color) if linked is None else linked
        holes = join_masks(canvas, files.read(mask_file, "L"), None if mask is None else to_mask(mask))
        paint = files.read(sketch_file, "RGBA")
        sketch = canvas if paint is None else paint_over(canvas, paint)
        shown: dict[str, Any] = {}
        if opened is None and linked is not None:
            shown["image"] = files.write_temp(linked[0])
        if mask is not None:
            shown["mask"] = files.write_temp(to_mask(mask)[:1])
        outputs = to_bhwc(canvas), holes, to_bhwc(sketch), Edit(canvas, holes)
        return io.NodeOutput(*outputs, ui={"lazydiffusion_canvas": [shown]})


FILES = {
    "canvas_file": "File of the picture that was opened or accepted; kept by the page.",
    "mask_file": "File of the painted mask: white = hole, black = keep; kept by the page.",
    "sketch_file": "File of the painted colours; kept by the page.",
}


class LazyResult(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["inpaint", "mask", "paint", "edit", "local edit", "canvas result", "accept", "局部重绘", "修补", "编辑"],
            node_id="LazyResult",
            display_name="Lazy Result",
            category="lazydiffusion",
            description="Shows the edited picture in the Lazy Canvas that it came from, to be accepted or not.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The edited picture, as large as the canvas; a batch is several results."
                ),
                EditType.Input(
                    "edit",
                    optional=True,
                    tooltip="From Lazy Canvas: where its mask is 0 (keep), the result is the canvas to the bit.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", tooltip="The result, for Save Image or whatever comes next.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image: Tensor, edit: Any = None) -> io.NodeOutput:
        result = to_bchw(image) if edit is None else keep_outside(check_edit(edit), to_bchw(image))
        return io.NodeOutput(to_bhwc(result), ui={"lazydiffusion_result": [files.write_temp(one) for one in result]})


def check_edit(edit: object) -> Edit:
    """Raises ValueError for what another node pack hands on under the same name."""
    if not isinstance(edit, Edit):
        raise ValueError(f"edit is a {type(edit).__name__}, expected the EDIT of a Lazy Canvas. Connect that output.")
    return edit
