"""`python -m training.progressive`: pictures made edit by edit from an empty background; does anything drift?

After each edit everything outside its mask is compared bit by bit, and the judges look at what it drew. What is asked
for is fixed by the seed: objects, places that overlap as little as can be, and masks as people draw them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .evaluation.edits import BATCH, SEEDS
from .evaluation.figures import interval
from .evaluation.judge import predict, style_crops
from .evaluation.judges import Judges
from .evaluation.methods import MethodEditor
from .evaluation.pictures import to_picture
from .evaluation.study import opened, percent, study_parser
from .scenery.brushes import user_masks
from .scenery.draw import Draw, backgrounds
from .scenery.scenes import SpriteSheet, overlap, place

CANDIDATES = 40


@dataclass(frozen=True)
class Plan:
    """Sequences of edits: `labels` [B, E], `masks` [B, E, 1, H, W] that leave each other's objects alone, and what they
    start from [B, 3, H, W].
    """

    start: Tensor
    labels: Tensor
    masks: Tensor


def main(argv: list[str] | None = None) -> int:
    parser = study_parser("progressive", __doc__)
    parser.add_argument("--sequences", type=int, default=40)
    parser.add_argument("--edits", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    args = parser.parse_args(argv)
    sheet, editor, judges = opened(args)
    made = plan(sheet, args.sequences, args.edits)
    rows, stages = run(editor, judges, sheet, made, args.steps, args.cfg)
    for row in rows:
        style = "-" if row["style_like_first"] is None else f"{100 * row['style_like_first'][0]:.0f} %"
        print(
            f"edit {row['edit']:2}: prompt {percent(row['prompt_accuracy'])},"
            f" drawn like the first: {style}, pixels changed outside the mask: {row['changed_outside']}"
        )
    half = max(1, args.edits // 2)
    early, late = (sum(row["prompt_accuracy"][0] for row in part) / len(part) for part in (rows[:half], rows[-half:]))
    print(f"first half {100 * early:.1f} %, second half {100 * late:.1f} %")
    if args.json:
        args.json.write_text(json.dumps({"sequences": args.sequences, "rows": rows}, indent=1))
    if args.picture:
        sheet_of(stages).save(args.picture)
    return 0


def plan(sheet: SpriteSheet, count: int, edits: int, size: int = 256, seed: int = SEEDS["test"] + 700_000) -> Plan:
    draw = Draw(torch.Generator().manual_seed(seed))
    start = backgrounds(draw, count, size)
    labels = torch.stack([torch.randperm(len(sheet), generator=draw.generator)[:edits] for _ in range(count)])
    boxes, masks = torch.zeros(count, 0, 3), []
    for _ in range(edits):
        boxes = torch.cat([boxes, free_places(draw, boxes, count)[:, None]], 1)
    squares = torch.stack([place(torch.ones(count, 4, 8, 8), box, size)[:, :1].round() for box in boxes.unbind(1)], 1)
    for edit, box in enumerate(boxes.unbind(1)):
        layer = place(sheet.sprites[torch.zeros(count, dtype=torch.int64), labels[:, edit]], box, size)
        others = (squares.sum(1) - squares[:, edit]).clamp(0, 1) * (1 - squares[:, edit])
        masks.append(user_masks(draw, layer[:, 3:], box, everything=0.0) * (1 - others))
    return Plan(start, labels, torch.stack(masks, 1))


def free_places(draw: Draw, taken: Tensor, count: int) -> Tensor:
    """Boxes [B, 3] of a sixth to a fourth of the canvas that overlap `taken` [B, n, 3] the least of many."""
    side = draw.uniform(count, 1, low=0.17, high=0.25)[:, None].expand(-1, CANDIDATES, -1)
    centres = side / 2 + draw.uniform(count, CANDIDATES, 2) * (1 - side)
    boxes = torch.cat([centres, side], 2)
    crowded = sum((overlap(boxes, other[:, None], 1.1) for other in taken.unbind(1)), torch.zeros(boxes.shape[:2]))
    return boxes[torch.arange(count), crowded.argmin(1)]


def run(
    editor: MethodEditor, judges: Judges, sheet: SpriteSheet, made: Plan, steps: int, cfg: float
) -> tuple[list[dict[str, Any]], list[Tensor]]:
    """All sequences side by side -> figures of each edit, and the canvases after it."""
    canvas, stages, rows = made.start, [made.start], []
    first: Tensor | None = None
    for edit in tqdm(range(made.labels.shape[1]), desc="edits"):
        mask = made.masks[:, edit]
        prompts = sheet.prompts(made.labels[:, edit])
        parts = [
            editor.edit(canvas[i : i + BATCH], mask[i : i + BATCH], prompts[i : i + BATCH], edit, steps, cfg, "feather")
            for i in range(0, len(canvas), BATCH)
        ]
        after = torch.cat(parts)
        outside = (mask < 0.5).expand_as(canvas)
        right = predict(judges.objects, after, mask) == made.labels[:, edit]
        style = None if judges.styles is None else predict(judges.styles, after, mask, style_crops)
        first = style if first is None else first
        rows.append(
            {
                "edit": edit + 1,
                "prompt_accuracy": interval(right),
                "style_like_first": None if style is None or first is None else interval(style == first),
                "changed_outside": int((after != canvas)[outside].sum()),
            }
        )
        canvas = after
        stages.append(canvas)
    return rows, stages


def sheet_of(stages: list[Tensor], sequences: int = 6, side: int = 128) -> Any:
    """One row for each of the first sequences, one column for each edit."""
    from PIL import Image

    picture = Image.new("RGB", (len(stages) * side, sequences * side))
    for column, stage in enumerate(stages):
        for row in range(min(sequences, len(stage))):
            picture.paste(to_picture(stage[row]).resize((side, side)), (column * side, row * side))
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
