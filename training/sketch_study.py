"""`python -m training.sketch_study`: how closely the hole follows a sketch, against Sketch Condition's strength;
colours and edges.

A colour sketch is the true object blurred, in few colours and out of place, as drawn by somebody in a hurry; an edge
sketch is its outline, shaky (`scenes.edge_drawing`). Prompts name the object. Agreement is measured inside the hole.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lazy_core.context import Context
from lazy_core.sketch import KINDS, add_edges, add_sketch

from .evaluation.edits import BATCH, SEEDS, known
from .evaluation.figures import interval
from .evaluation.methods import MethodEditor
from .evaluation.pictures import to_picture
from .evaluation.study import opened, study_parser
from .scenery.scenes import Scenes, steps_of

STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
REACH = 3  # px that a line may be away and still agree


def main(argv: list[str] | None = None) -> int:
    parser = study_parser("sketch_study", __doc__)
    parser.add_argument("--edits", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    args = parser.parse_args(argv)
    sheet, editor, judges = opened(args)
    scenes = known(sheet, args.edits, SEEDS["test"] + 300_000, "test", drawn=1.0)
    prompts = sheet.prompts(scenes.label)
    rows, shown = [], {}
    for kind in KINDS if editor.editor.model.config.edges else KINDS[:1]:
        sketch = scenes.lines.expand(-1, 3, -1, -1) if kind == "edges" else coarse(scenes)
        shown[f"{kind} sketch"] = sketch
        for strength in args.strengths:
            image = torch.cat(
                [edit(editor, scenes, prompts, sketch, kind, strength, args.steps, i) for i in progress(args.edits)]
            )
            right, _ = judges.verdicts(judges.seen(image, scenes), scenes)
            row = {"kind": kind, "strength": strength, "prompt_accuracy": interval(right)}
            row |= {
                "colour_distance": interval(colour_distance(image, sketch, scenes.mask)) if kind == "colour" else None
            }
            row |= {
                "edge_agreement": interval(edge_agreement(image, scenes.lines, scenes.mask))
                if kind == "edges"
                else None
            }
            rows.append(row)
            print(row)
            shown[f"{kind} {strength:g}"] = image
    if args.json:
        args.json.write_text(json.dumps({"edits": args.edits, "rows": rows}, indent=1))
    if args.picture:
        pictures(shown).save(args.picture)
    return 0


def progress(edits: int) -> Any:
    return tqdm(range(0, edits, BATCH), leave=False)


def edit(
    editor: MethodEditor,
    scenes: Scenes,
    prompts: list[str],
    sketch: Tensor,
    kind: str,
    strength: float,
    steps: int,
    start: int,
) -> Tensor:
    part = slice(start, start + BATCH)
    context: Context = editor.editor.encode(scenes.empty[part], scenes.mask[part, 0])
    if kind == "edges":
        context = add_edges(context, sketch[part], strength)
    else:
        context = add_sketch(context, sketch[part], strength, editor.editor.to_latent)
    return editor.editor.decode(context, prompts[part], start, steps)


def coarse(scenes: Scenes, levels: int = 5, shift: int = 4) -> Tensor:
    """The true pictures as a colour sketch [B, 3, H, W]: blurred, each channel in a few levels, moved by some px."""
    blurred = F.interpolate(F.avg_pool2d(scenes.image, 8), scale_factor=8, mode="bilinear", align_corners=False)
    few = (blurred * (levels - 1)).round() / (levels - 1)
    return few.roll((shift, -shift), (2, 3))


def colour_distance(image: Tensor, sketch: Tensor, mask: Tensor) -> Tensor:
    """Mean difference of colours in the hole, over 8 px, in 8-bit levels [B]."""
    weight = F.avg_pool2d(mask, 8)
    gap = (F.avg_pool2d(image * mask, 8) - F.avg_pool2d(sketch * mask, 8)).abs().mean(1, keepdim=True)
    return 255 * gap.sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-6)


def edge_agreement(image: Tensor, lines: Tensor, mask: Tensor) -> Tensor:
    """F1 score [B] of the picture's edges and the drawn ones, each within REACH px of the other."""
    inside = 1 - F.max_pool2d(1 - mask, 5, 1, 2)
    found, drawn = (steps_of(image) > 0.2).float() * inside, (lines > 0.5).float() * inside
    near = [F.max_pool2d(x, 2 * REACH + 1, 1, REACH) for x in (found, drawn)]
    recall = (drawn * near[0]).sum((1, 2, 3)) / drawn.sum((1, 2, 3)).clamp_min(1)
    precision = (found * near[1]).sum((1, 2, 3)) / found.sum((1, 2, 3)).clamp_min(1)
    return 2 * recall * precision / (recall + precision).clamp_min(1e-6)


def pictures(shown: dict[str, Tensor], count: int = 10, side: int = 112) -> Any:
    """A row for each of the first edits, a column for each strength, named above."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (len(shown) * side, 14 + count * side), "white")
    draw = ImageDraw.Draw(picture)
    for column, (name, images) in enumerate(shown.items()):
        draw.text((column * side + 4, 1), name, fill="black")
        for row in range(min(count, len(images))):
            picture.paste(to_picture(images[row]).resize((side, side)), (column * side, 14 + row * side))
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
