"""`python -m training.evaluate`: held-out edits of a checkpoint, named by the judge against real sprites in the same holes."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from lazy_core.editor import LazyEditor

from .classifier import load_judge, predict
from .record import summary
from .scenes import Recipe, Scenes, SpriteSheet, cat, compose

HELD_OUT = 9_000_000  # seeds from here on belong to evaluation


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=summary(__doc__))
    parser.add_argument("--model", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--judge", type=Path, default=Path("training/judge.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--canvas", type=int, default=256, help="px; above 256 the same scenes lie in a larger canvas")
    parser.add_argument("--language", choices=["en", "zh"], default="en")
    parser.add_argument("--grid", type=Path, default=None, help="write a picture of the first 24 edits, uncurated")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    sheet = SpriteSheet.load(args.data)
    editor = LazyEditor.load(args.model)
    judge = load_judge(args.judge, len(sheet))
    scenes = small_holes(compose_many(sheet, args.edits + args.edits // 8), args.edits)
    scenes = enlarged(scenes, args.canvas)
    prompts = [sheet.names[int(label)][args.language][0] for label in scenes.label]
    results = torch.cat([edit(editor, scenes, prompts, i, args) for i in tqdm(range(0, args.edits, 8), desc="edits")])
    right = (predict(judge, results, scenes.mask) == scenes.label).float()
    real = (predict(judge, scenes.image, scenes.mask) == scenes.label).float()
    figures = {
        "edits": args.edits,
        "objects": len(sheet),
        "prompt_accuracy": interval(right),
        "real_sprites": interval(real),
        "chance": 1 / len(sheet),
        "canvas": scenes.image.shape[-1],
        "hole_fraction": float(scenes.mask.mean()),
    }
    print("each [value, 95 % low, high]:")
    for name in ("prompt_accuracy", "real_sprites"):
        print(f"  {name:16} {figures[name]}")
    print(f"  {'chance':16} {figures['chance']:.4f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.grid:
        grid_picture(scenes, results, prompts).save(args.grid)
    return 0


def compose_many(sheet: SpriteSheet, count: int) -> Scenes:
    seeds = range(0, count, 32)
    return cat([compose(sheet, min(32, count - i), 256, torch.Generator().manual_seed(HELD_OUT + i), Recipe.held_out()) for i in seeds])


def small_holes(scenes: Scenes, count: int) -> Scenes:
    """Without the few huge masks: there a crop of the hole says little about one object."""
    return scenes.take((scenes.mask.mean((1, 2, 3)) < 0.6).nonzero().flatten()[:count])


def enlarged(scenes: Scenes, side: int) -> Scenes:
    """The scenes in the middle of canvases of `side` px; their borders go on outwards. Holes keep their size in px."""
    missing = side - scenes.image.shape[-1]
    if missing <= 0:
        return scenes
    pad = (missing // 2, missing - missing // 2) * 2
    image, empty = (F.pad(picture, pad, mode="replicate") for picture in (scenes.image, scenes.empty))
    return replace(scenes, image=image, empty=empty, mask=F.pad(scenes.mask, pad))


def edit(editor: LazyEditor, scenes: Scenes, prompts: list[str], start: int, args: argparse.Namespace) -> Tensor:
    """Edits `start` to `start` + 8: the canvas has the hole's content removed, as a user's would have something else there."""
    part = slice(start, start + 8)
    context = editor.encode(scenes.empty[part], scenes.mask[part, 0])
    return editor.decode(context, prompts[part], seed=HELD_OUT + start, steps=args.steps, cfg=args.cfg)


def interval(values: Tensor, draws: int = 2000) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    generator = torch.Generator().manual_seed(0)
    means = values[torch.randint(len(values), (draws, len(values)), generator=generator)].mean(1)
    return [round(float(x), 4) for x in (values.mean(), means.quantile(0.025), means.quantile(0.975))]


def grid_picture(scenes: Scenes, results: Tensor, prompts: list[str], count: int = 24, columns: int = 6) -> Image.Image:
    """Pairs of canvas (hole grey) and result, the prompt below."""
    side, text = 176, 16
    picture = Image.new("RGB", (columns * (2 * side + 8), -(-count // columns) * (side + text + 6)), "white")
    draw = ImageDraw.Draw(picture)
    for i in range(count):
        x, y = i % columns * (2 * side + 8), i // columns * (side + text + 6)
        canvas = scenes.empty[i] * (1 - scenes.mask[i]) + 0.5 * scenes.mask[i]
        for j, image in enumerate((canvas, results[i])):
            picture.paste(to_picture(image).resize((side, side), Image.Resampling.LANCZOS), (x + j * side, y))
        draw.text((x + 4, y + side + 2), prompts[i], fill="black")
    return picture


def to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.movedim(0, -1) * 255).round().to(torch.uint8).numpy())


if __name__ == "__main__":
    raise SystemExit(main())
