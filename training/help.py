"""`python -m training.help`: the pictures of the nodes' help pages that the shipped model draws; one seed, nothing
chosen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lazy_core.context import Context
from lazy_core.editor import LazyEditor
from lazy_core.sketch import add_sketch

from .evaluation.pictures import to_picture
from .loop.record import summary

PAGES = Path("web/docs")
SIDE, GAP, STEPS, SEED = 192, 8, 4, 0
OBJECTS = {
    "red apple": (190, 214, 236),
    "panda": (242, 216, 186),
    "sunflower": (196, 226, 198),
    "pizza": (226, 208, 232),
    "rocket": (238, 226, 166),
    "cat": (204, 222, 214),
    "hamburger": (236, 196, 196),
    "butterfly": (198, 202, 232),
}
Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.help", description=summary(__doc__))
    parser.add_argument("--model", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--out", type=Path, default=PAGES)
    args = parser.parse_args(argv)
    editor = LazyEditor.load(args.model)
    for name, picture in {
        "LazyDecode/edit": edit,
        "LazyModelLoader/objects": objects,
        "LazySketchCondition/sketch": sketch,
    }.items():
        path = args.out / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(editor).save(path, optimize=True)
        print(path)
    return 0


def edit(editor: LazyEditor) -> Image.Image:
    """Canvas, mask, result."""
    canvas, mask = horizon((240, 198, 154), (150, 106, 78), 168), rounded((80, 112, 160, 192))
    return tiles([canvas, mask_picture(mask), decoded(editor, editor.encode(to_tensor(canvas), mask), "red apple")], 3)


def objects(editor: LazyEditor) -> Image.Image:
    mask = rounded((64, 64, 192, 192))
    canvases = [(prompt, to_tensor(Image.new("RGB", (256, 256), colour))) for prompt, colour in OBJECTS.items()]
    return tiles([decoded(editor, editor.encode(canvas, mask), prompt) for prompt, canvas in canvases], 4, 144)


def sketch(editor: LazyEditor) -> Image.Image:
    """Sketch and mask above the results at two strengths."""
    canvas, mask = horizon((186, 216, 192), (110, 144, 134), 150), rounded((48, 80, 224, 208))
    drawn = canvas.copy()
    ImageDraw.Draw(drawn).ellipse((120, 112, 200, 192), fill=(244, 154, 36))
    context = editor.encode(to_tensor(canvas), mask)
    conditioned = [add_sketch(context, to_tensor(drawn), strength, editor.to_latent) for strength in (0.3, 0.6)]
    return tiles([drawn, mask_picture(mask), *(decoded(editor, each, "tangerine") for each in conditioned)], 2)


def decoded(editor: LazyEditor, context: Context, prompt: str) -> Image.Image:
    return to_picture(editor.decode(context, prompt, SEED, STEPS)[0])


def horizon(above: Colour, below: Colour, row: int) -> Image.Image:
    canvas = Image.new("RGB", (256, 256), above)
    ImageDraw.Draw(canvas).rectangle((0, row, 255, 255), fill=below)
    return canvas


def rounded(box: Rectangle) -> Tensor:
    """Mask [1, 256, 256], 1 = hole in a box (left, top, right, bottom) with rounded corners."""
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).rounded_rectangle((box[0], box[1], box[2] - 1, box[3] - 1), 8, fill=255)
    return to_tensor(mask)[:, 0]


def to_tensor(picture: Image.Image) -> Tensor:
    """-> [1, 3 or 1, H, W] in 0..1"""
    channels = len(picture.getbands())
    return torch.tensor(list(picture.tobytes())).view(1, picture.height, picture.width, channels).movedim(-1, 1) / 255


def mask_picture(mask: Tensor) -> Image.Image:
    return to_picture(mask.expand(3, -1, -1))


def tiles(pictures: list[Image.Image], columns: int, side: int = SIDE) -> Image.Image:
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP), "white")
    for index, picture in enumerate(pictures):
        place = (index % columns * (side + GAP), index // columns * (side + GAP))
        whole.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    return whole


if __name__ == "__main__":
    raise SystemExit(main())
