"""`python -m training.several_holes`: several holes in one mask against the same holes edited one by one.

Canvases show a few other objects; each of their holes shall show the same object, as one prompt goes to all of them.
Holes keep their size in px on every canvas, and lie anywhere. The judge looks at each hole by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lazy_core.vae.canvas_cache import CanvasCache

from .evaluation.edits import SEEDS
from .evaluation.figures import interval
from .evaluation.judge import predict, style_crops
from .evaluation.judges import Judges
from .evaluation.methods import MethodEditor
from .evaluation.pictures import to_picture
from .evaluation.study import opened, percent, study_parser
from .scenery.brushes import user_masks
from .scenery.crop import bounds
from .scenery.draw import Draw, backgrounds
from .scenery.scenes import Recipe, SpriteSheet, cast_of, lights, paint, place, tints

LOCAL = 256  # px a side of what a hole is drawn in before it is put on its canvas
APART = 32  # px between two holes, at least: they are edits of their own wherever tokens begin
TRIES = 200
Boxes = list[tuple[int, int, int, int]]


@dataclass(frozen=True)
class ManyHoles:
    """`image` [B, 3, S, S], `holes` [B, n, 1, S, S] (1 = hole), and what each of a canvas's holes shall show: `label`
    [B, n] in `style` [B].
    """

    image: Tensor
    holes: Tensor
    label: Tensor
    style: Tensor

    @property
    def mask(self) -> Tensor:
        return self.holes.amax(1)


def main(argv: list[str] | None = None) -> int:
    parser = study_parser("several_holes", __doc__)
    parser.add_argument("--canvases", type=int, default=50)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--holes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--each", action="store_true", help="a prompt for each hole, instead of one for all of them")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    args = parser.parse_args(argv)
    sheet, editor, judges = opened(args)
    # A canvas is encoded once, then what another mask changes: the same latents (lazy_core.vae.canvas_cache).
    editor.editor.to_latent = partial(CanvasCache(limit=256 << 20).encode, "", editor.editor.to_latent)  # type: ignore[method-assign]
    print(
        f"{'canvas':>8}{'holes':>7}{'prompt, one by one':>28}{'prompt, together':>28}"
        f"{'ratio':>8}{'style':>8}{'together':>10}"
    )
    rows, shown = [], []
    for size in args.sizes:
        for holes in args.holes:
            made = canvases(sheet, args.canvases, size, holes, SEEDS[args.split] + 800_000 + size + holes, args.each)
            row, together = compare(editor, judges, sheet, made, args.steps, args.cfg)
            rows.append({"size": size, "holes": holes, **row})
            shown.append((made, together))
            print(
                f"{size:>6}px{holes:>7}{percent(row['apart']):>28}{percent(row['together']):>28}{row['ratio']:>8.3f}"
                f"{row['style_apart']:>8.3f}{row['style_together']:>10.3f}"
            )
    if args.json:
        args.json.write_text(
            json.dumps({"canvases": args.canvases, "steps": args.steps, "cfg": args.cfg, "rows": rows}, indent=1) + "\n"
        )
    if args.picture:
        sheet_of(shown).save(args.picture)
    return 0


def compare(
    editor: MethodEditor, judges: Judges, sheet: SpriteSheet, made: ManyHoles, steps: int, cfg: float
) -> tuple[dict[str, Any], Tensor]:
    """-> the figures of all holes, and what came out with all holes in one mask [B, 3, S, S]."""
    count = made.holes.shape[1]
    together, right, agree = [], ([], []), ([], [])
    for i in (bar := tqdm(range(len(made.label)), desc=f"{made.image.shape[-1]} px, {count} holes", leave=False)):
        image, holes, prompts = made.image[i : i + 1], made.holes[i], sheet.prompts(made.label[i])
        alone = editor.edit(image.expand(count, -1, -1, -1), holes, prompts, i, steps, cfg, "feather")
        context = editor.editor.encode(image, made.mask[i : i + 1, 0])
        regions = list(zip(prompts, holes, strict=True))
        together.append(editor.editor.decode(context, "", i, steps, cfg, blend="feather", regions=regions))
        for which, results in enumerate((alone, together[-1].expand(count, -1, -1, -1))):
            right[which].append(predict(judges.objects, results, holes) == made.label[i])
            if judges.styles is not None:
                agree[which].append(predict(judges.styles, results, holes, style_crops) == made.style[i])
        bar.set_postfix_str("{:.3f} one by one, {:.3f} together".format(*(share(each) for each in right)))
    apart, both = (torch.cat(each) for each in right)
    styles = [share(each) for each in agree]
    row = {"apart": interval(apart), "together": interval(both), "ratio": share(right[1]) / max(share(right[0]), 1e-6)}
    return {**row, "style_apart": styles[0], "style_together": styles[1]}, torch.cat(together)


def share(flags: list[Tensor]) -> float:
    """Of all that are True; nan where there are none."""
    return float(torch.cat(flags).float().mean()) if flags else float("nan")


def canvases(sheet: SpriteSheet, count: int, size: int, holes: int, seed: int, each: bool = False) -> ManyHoles:
    """Canvases of `size` px with so many holes each, apart from each other, and at most two other objects in the
    canvas's style. All of a canvas's holes shall show one object, or `each` another one.
    """
    draw = Draw(torch.Generator().manual_seed(seed))
    none = torch.zeros(count, dtype=torch.bool)
    style, objects, _ = cast_of(sheet, draw, count, Recipe("all", removals=0.0, twos=0.0, everything=0.0), none)
    masks, taken = [], []
    for i in range(count):
        own, boxes = separate_holes(draw, sheet.sprites[style[i], objects[i, 0]], size, holes)
        masks.append(own)
        taken.append(boxes)
    image, light = backgrounds(draw, count, size), lights(draw, count)
    for other in (1, 2):
        found = [free_box(draw, boxes, size) for boxes in taken]
        box = torch.tensor([spot or (0.5, 0.5, 0.2) for spot in found])
        there = torch.tensor([spot is not None for spot in found]).view(-1, 1, 1, 1)
        image = paint(
            image, place(sheet.sprites[style, objects[:, other]], box, size) * there, light * box[:, 2:] * 0.17
        )
        for boxes, spot in zip(taken, found, strict=True):
            if spot is not None:
                x, y, side = (round(size * value) for value in spot)
                boxes.append((x - side // 2, y - side // 2, x + side // 2, y + side // 2))
    label = objects[:, :1].expand(-1, holes)
    if each:
        label = (label + torch.arange(holes) * (len(sheet.names) // holes)) % len(sheet.names)
    return ManyHoles(image * tints(draw, count), torch.stack(masks), label, style)


def separate_holes(draw: Draw, sprite: Tensor, size: int, holes: int) -> tuple[Tensor, Boxes]:
    """-> masks [n, 1, S, S] as people draw them around an object, and their boxes; at least `APART` px from each
    other.
    """
    while True:
        side = draw.uniform(holes, 1, low=0.17, high=0.3)
        box = torch.cat([torch.full((holes, 2), 0.5), side], 1)
        alpha = place(sprite.expand(holes, -1, -1, -1), box, LOCAL)[:, 3:]
        local = user_masks(draw, alpha, box, everything=0.0)
        result, boxes = [], []
        for mask, (left, top, right, bottom) in zip(local, bounds(local).tolist(), strict=True):
            spot = free_spot(draw, boxes, right - left, bottom - top, size)
            if spot is None:
                break
            x, y = spot
            boxes.append((x, y, x + right - left, y + bottom - top))
            result.append(F.pad(mask[:, top:bottom, left:right], (x, size - boxes[-1][2], y, size - boxes[-1][3])))
        if len(result) == holes:
            return torch.stack(result), boxes


def free_spot(draw: Draw, taken: Boxes, width: int, height: int, size: int) -> tuple[int, int] | None:
    """Where a box of `width` x `height` px lies at least `APART` px from those that are `taken`, or None where no place
    was found.
    """
    for _ in range(TRIES):
        if width >= size or height >= size:
            return None
        x, y = (int(draw.integers(1, high=size - side + 1)) for side in (width, height))
        apart = [max(left - x - width, x - right, top - y - height, y - bottom) for left, top, right, bottom in taken]
        if min(apart, default=APART) >= APART:
            return x, y
    return None


def free_box(draw: Draw, taken: Boxes, size: int) -> tuple[float, float, float] | None:
    """A square (centre x, y, side; canvas = 1) of 44 to 76 px somewhere where nothing is."""
    side = int(44 + draw.integers(1, high=33))
    spot = free_spot(draw, taken, side, side, size)
    return None if spot is None else ((spot[0] + side / 2) / size, (spot[1] + side / 2) / size, side / size)


def sheet_of(shown: list[tuple[ManyHoles, Tensor]], columns: int = 6, side: int = 256) -> Any:
    """Two rows for each setting: canvases with their holes grey, and what came out."""
    from PIL import Image

    picture = Image.new("RGB", (columns * side, 2 * len(shown) * side))
    for row, (made, results) in enumerate(shown):
        for i in range(min(columns, len(results))):
            canvas = made.image[i] * (1 - made.mask[i]) + 0.5 * made.mask[i]
            for j, image in enumerate((canvas, results[i])):
                picture.paste(to_picture(image.clamp(0, 1)).resize((side, side)), (i * side, (2 * row + j) * side))
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
