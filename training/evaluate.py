"""`python -m training.evaluate`: LazyDiffusion, RegenerateImage and RegenerateCrop on the same held-out edits, beside
the real sprites.

Scenes of seeds that training never draws; a quarter of their objects are in a style that training never showed them in.
Half of the scenes show the style inside the crop around the mask (near), half only outside it (far). Methods take turns
batch by batch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lazy_core.blend.composite import composite
from lazy_core.masks import threshold

from .evaluation.edits import BATCH, BATCH_GPU, REFERENCE, SEEDS, digest, enlarged, known, on_photographs, scenes_digest
from .evaluation.judges import JudgedEdits, Judges
from .evaluation.methods import MethodEditor
from .evaluation.pictures import grid_picture
from .loop.record import summary
from .scenery.scenes import FAR, NEAR, Scenes, SpriteSheet

FIGURES = ("prompt_accuracy", "style_agreement_near", "style_agreement_far")
FIGURES += ("frechet", "frechet_joint", "recall", "seam", "seam_blended", "colour_shift", "ms")
UNSEEN = ("prompt_accuracy_unseen", "style_agreement_unseen")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=summary(__doc__))
    parser.add_argument("--model", "--models", type=Path, nargs="+", default=[Path("models/fluent-small.safetensors")])
    parser.add_argument("--judge", type=Path, default=Path("training/judge.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--edits", type=int, default=None, help="default: 500, on a GPU 2000")
    parser.add_argument("--steps", type=int, default=None, help="default: 20")
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument(
        "--batch", type=int, default=None, help=f"edits at a time, which share a seed: {BATCH}, on a GPU {BATCH_GPU}"
    )
    parser.add_argument(
        "--canvas",
        type=canvas,
        default=256,
        help=(
            "px; above 256 the same scenes lie in a larger canvas. photographs: scenes on held-out photographs, half of"
            " them bare"
        ),
    )
    parser.add_argument("--language", choices=["en", "zh"], default="en")
    parser.add_argument(
        "--bare", action="store_true", help="canvases that show no object: style agreement is then with the first style"
    )
    parser.add_argument(
        "--magnify",
        type=int,
        default=1,
        help="edit the scenes so many times larger, one by one: how large holes come out",
    )
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument(
        "--quick", action="store_true", help="24 edits of 6 steps: a look in under a minute, not a measurement"
    )
    parser.add_argument(
        "--vae",
        action="store_true",
        help="also the real pictures through the first model's VAE: the best that its latents allow",
    )
    parser.add_argument("--grid", type=Path, default=None, help="write a picture of the first edits, uncurated")
    parser.add_argument("--grid-edits", type=int, default=24)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    args.seed = SEEDS[args.split]
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.edits = args.edits or (24 if args.quick else 2000 if args.device == "cuda" else 500)
    args.batch = args.batch or (BATCH_GPU if args.device == "cuda" else BATCH)
    args.steps = args.steps or (6 if args.quick else 20)
    return args


def canvas(text: str) -> int | str:
    """Return a side in px, or "photographs"."""
    return text if text == "photographs" else int(text)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    sheet = SpriteSheet.load(args.data)
    if args.canvas == "photographs":
        sheet = sheet.with_photographs(args.data.with_name("photographs.safetensors"), args.split)
    if missing := [str(path) for path in (*args.model, args.judge) if not path.is_file()]:
        raise SystemExit(f"There is no {missing[0]}. Models are made by training.train, judges by training.classifier.")
    editors = [MethodEditor.load(path, args.device) for path in args.model]
    judges = Judges.load(args.judge, sheet, args.device)
    scenes = edits_of(sheet, args, args.edits, args.seed)
    scenes = scenes if args.canvas == "photographs" else enlarged(scenes, args.canvas)
    prompts = sheet.prompts(scenes.label, args.language)
    hashes = f"data {digest(args.data)}, scenes {scenes_digest(scenes)}"
    print(
        f"{args.edits} edits of {args.steps} steps, {args.split} split, seeds from {args.seed}; {hashes}; {args.device}"
    )
    runs = [JudgedEdits.real(scenes), *edit_all(editors, args, scenes, prompts)]
    pictures = {run.name: run.image for run in runs[1:]}
    if args.vae:
        runs.append(JudgedEdits.through_vae(editors[0], scenes))
    reference = edits_of(sheet, args, min(2 * args.edits, 2000), args.seed + REFERENCE)
    seen = judges.seen(reference.image, reference)
    rows = [judges.row(run, scenes, seen) for run in runs]
    report(rows, args, sheet, scenes)
    if args.grid:
        grid_picture(scenes, {**pictures, "real": scenes.image}, prompts, args.grid_edits).save(args.grid)
    return 0


def edit_all(
    editors: list[MethodEditor], args: argparse.Namespace, scenes: Scenes, prompts: list[str]
) -> list[JudgedEdits]:
    """Every method on every batch in turn; the canvas has the hole's content removed, as a user's would have something
    else there.
    """
    raws: list[list[Tensor]] = [[] for _ in editors]
    times: list[list[float]] = [[] for _ in editors]
    for editor in editors:
        editor.edit(scenes.empty[:1], scenes.mask[:1], prompts[:1], 0, 1, args.cfg)  # warm-up
    for start in tqdm(range(0, args.edits, args.batch), desc="edits"):
        part = slice(start, start + args.batch)
        for i, editor in enumerate(editors):
            begun = time.monotonic()
            raws[i].append(
                editor.edit_magnified(
                    args.magnify,
                    scenes.empty[part],
                    scenes.mask[part],
                    prompts[part],
                    args.seed + start,
                    args.steps,
                    args.cfg,
                )
            )
            times[i].append(1000 * (time.monotonic() - begun) / len(raws[i][-1]))
    runs = []
    for i, editor in enumerate(editors):
        raw = torch.cat(raws[i])
        image = composite(scenes.empty, raw, threshold(scenes.mask[:, 0]), "feather")
        name = (
            editor.method
            if [e.method for e in editors].count(editor.method) == 1
            else f"{editor.method} {args.model[i].stem}"
        )
        runs.append(JudgedEdits(editor.method, name, image, raw, editor.tokens(scenes.mask).float(), times[i]))
    return runs


def report(rows: list[dict[str, Any]], args: argparse.Namespace, sheet: SpriteSheet, scenes: Scenes) -> None:
    """The table on the screen, and `--json`; the keys of a single model's evaluation stay where they were."""
    print(f"{'each with its 95 % interval':26}" + "".join(f"{row['name']:>26}" for row in rows))
    for name in (FIGURES[0], "style_agreement", *FIGURES[1:3], "style_agreement_bare", *UNSEEN, *FIGURES[3:]):
        print(f"{name:26}" + "".join(f"{shown(row.get(name)):>26}" for row in rows))
    print(f"{'tokens':26}" + "".join(f"{row['tokens']:>26}" for row in rows))
    if args.json is None:
        return
    figures = {
        "edits": args.edits,
        "objects": len(sheet),
        "styles": list(sheet.styles),
        "prompt_accuracy": rows[1]["prompt_accuracy"],
        "real_sprites": rows[0]["prompt_accuracy"],
        "chance": 1 / len(sheet),
        "canvas": scenes.image.shape[-1] * args.magnify,
        "hole_fraction": float(scenes.mask.mean()),
        "near": int((scenes.seen == NEAR).sum()),
        "far": int((scenes.seen == FAR).sum()),
        "unseen": int(scenes.unseen.sum()),
        "steps": args.steps,
        "cfg": args.cfg,
        "seed": args.seed,
        "batch": args.batch,
        "split": args.split,
        "data": digest(args.data),
        "scenes": scenes_digest(scenes),
        "device": args.device,
        "rows": [*rows[1:], rows[0]],
    }
    args.json.write_text(json.dumps(figures, indent=1) + "\n")


def shown(figure: list[float] | None) -> str:
    if figure is None:
        return "-"
    digits = 3 if abs(figure[0]) < 10 else 1
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*figure, d=digits)


def edits_of(sheet: SpriteSheet, args: argparse.Namespace, count: int, seed: int) -> Scenes:
    """Return the edits that the options name: on scenes, on bare ones, or on photographs."""
    if args.canvas == "photographs":
        return on_photographs(sheet, count, seed, args.split)
    return known(sheet, count, seed, args.split, bare=args.bare)


if __name__ == "__main__":
    raise SystemExit(main())
