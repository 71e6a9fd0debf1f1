"""`python -m training.named MODEL [MODEL …]`: how often the reader of styles is right, by what the canvas shows.

Canvases of the validation split with and without objects, and of the test split's photographs. Nothing is drawn: this
is what the encoder says of the canvas, so it takes a minute where an evaluation takes ten.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from lazy_core.blend.prefill import prefill
from lazy_core.checkpoint import load_model
from lazy_core.geometry import Grid
from lazy_core.masks import latent_mask, threshold
from lazy_core.model import LazyDiffusion
from lazy_core.networks.positions import grid_coordinates

from .evaluation.edits import SEEDS, known, on_photographs
from .evaluation.figures import interval
from .evaluation.study import percent
from .loop.pool import to_latent
from .loop.record import summary
from .scenery.scenes import FAR, NEAR, UNKNOWN, Scenes, SpriteSheet

BATCH = 32


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.named", description=summary(__doc__))
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--count", type=int, default=300, help="canvases of each kind")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    sheet, seed = SpriteSheet.load(args.data), SEEDS["validation"]
    photographs = sheet.with_photographs(args.data.with_name("photographs.safetensors"), "test")
    kinds = {
        "scenes": known(sheet, args.count, seed, "validation"),
        "bare": known(sheet, args.count // 2, seed, "validation", bare=True),
        "photographs": on_photographs(photographs, args.count, SEEDS["test"], "test"),
    }
    models = {path: load_model(path)[0] for path in args.models}
    rows = {str(path): named_right(model, kinds) for path, model in models.items()}
    for path, row in rows.items():
        print(path)
        for kind, figure in row.items():
            print(f"  {kind:22}{percent(figure):>22}")
    if args.json:
        args.json.write_text(json.dumps({"count": args.count, "rows": rows}, indent=1) + "\n")
    return 0


def named_right(model: LazyDiffusion, kinds: dict[str, Scenes]) -> dict[str, list[float] | None]:
    """Return the share of canvases whose style is named right, by kind and by where another object is to be seen."""
    row: dict[str, list[float] | None] = {}
    for kind, scenes in kinds.items():
        right = torch.cat(
            [part_named_right(model, scenes.take(slice(i, i + BATCH))) for i in range(0, len(scenes.label), BATCH)]
        )
        for place, where in (("near", NEAR), ("far", FAR), ("nothing drawn", UNKNOWN)):
            if bool((scenes.seen == where).any()):
                row[f"{kind}, {place}"] = interval(right[scenes.seen == where])
    return row


@torch.inference_mode()
def part_named_right(model: LazyDiffusion, scenes: Scenes) -> Tensor:
    """Return [B] bool."""
    config, encoder = model.config, model.transformer.context_encoder
    grid = Grid(scenes.image.shape[-2], scenes.image.shape[-1], config.latent_scale, config.patch_size)
    hole = threshold(scenes.mask[:, 0])
    x = encoder.masked_input(to_latent(model.vae, prefill(scenes.empty, hole)), latent_mask(hole, grid))
    assert encoder.naming is not None and encoder.naming.reader is not None
    return encoder.naming.reader(x, grid_coordinates(grid, config, "cpu")).argmax(-1) == scenes.style


if __name__ == "__main__":
    raise SystemExit(main())
