"""`python -m training.showcase`: photographs that were never trained on, each with one edit as a person would make it,
beside its canvas.

Six photographs of the validation split (public domain, CC0 or CC-BY); one seed for all of them, chosen before anything
was seen.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lazy_core.editor import LazyEditor

from .evaluation.pictures import to_picture
from .loop.record import summary
from .scenery.photographs import PhotographSheet

SEED, STEPS = 1, 4
HEIGHT = 240  # px of each picture
COLUMNS, TEXT = 2, 16


@dataclass(frozen=True)
class Edit:
    """An ellipse painted around (x, y) of a photograph, in px, and the words for it."""

    photograph: str
    x: int
    y: int
    width: int
    height: int
    prompt: str


EDITS = (
    Edit("gcompris-qt-data/moose", 210, 500, 150, 150, "a mushroom"),
    Edit("lomiri-wallpapers-16.04/life_by_Aitzol_Berasategi", 700, 400, 150, 180, "a penguin"),
    Edit("scikit-learn/flower", 300, 210, 130, 120, "a butterfly"),
    Edit("scikit-image/chelsea", 385, 225, 110, 110, "a red apple"),
    Edit("gcompris-qt-data/pan", 160, 125, 110, 80, "a pizza"),
    Edit("gcompris-qt-data/dam2", 235, 45, 60, 80, "a rocket"),
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.showcase", description=summary(__doc__))
    parser.add_argument("--model", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--photographs", type=Path, default=Path("training/data/photographs.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("docs/photographs.jpg"))
    args = parser.parse_args(argv)
    sheet, editor = PhotographSheet.load(args.photographs, "validation"), LazyEditor.load(args.model)
    pixels = {one["name"]: picture for one, picture in zip(sheet.about, sheet.pixels, strict=True)}
    pairs = [shown(editor, pixels[edit.photograph][None] / 255, edit) for edit in EDITS]
    width = max(pair.width for pair in pairs)
    rows = -(-len(pairs) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * (width + 12) - 12, rows * (HEIGHT + TEXT + 6)), "white")
    for index, (edit, pair) in enumerate(zip(EDITS, pairs, strict=True)):
        left, top = index % COLUMNS * (width + 12), index // COLUMNS * (HEIGHT + TEXT + 6)
        page.paste(pair, (left, top))
        ImageDraw.Draw(page).text((left + 2, top + HEIGHT + 2), edit.prompt, fill="black")
    page.save(args.out, quality=88)
    return 0


def shown(editor: LazyEditor, image: Tensor, edit: Edit) -> Image.Image:
    """Return the canvas with the painted hole marked, and the result, side by side."""
    mask = ellipse(edit, *image.shape[-2:])
    result = editor.decode(editor.encode(image, mask[None]), edit.prompt, seed=SEED, steps=STEPS, blend="poisson")
    painted = torch.where(mask > 0, 0.35 * image + 0.65 * torch.tensor([0.9, 0.2, 0.6]).view(3, 1, 1), image)
    sides = [
        to_picture(each[0]).resize((round(image.shape[-1] * HEIGHT / image.shape[-2]), HEIGHT))
        for each in (painted, result)
    ]
    pair = Image.new("RGB", (2 * sides[0].width + 4, HEIGHT), "white")
    for index, side in enumerate(sides):
        pair.paste(side, (index * (side.width + 4), 0))
    return pair


def ellipse(edit: Edit, height: int, width: int) -> Tensor:
    """Return the mask [H, W], 1 = hole."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((((x - edit.x) / edit.width) ** 2 + ((y - edit.y) / edit.height) ** 2) <= 0.25).float()


if __name__ == "__main__":
    raise SystemExit(main())
