"""`python -m training.evaluate`: LazyDiffusion, RegenerateImage and RegenerateCrop on the same held-out edits, beside the real sprites.

Scenes of seeds that training never draws; a quarter of their objects are in a style that training never showed them in. Half of
the scenes show the style inside the crop around the mask (near), half only outside it (far). Methods take turns batch by batch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lazy_core.composite import composite
from lazy_core.masks import threshold

from .classifier import Classifier, features, load_judge, style_crops, style_path, verdict
from .figures import Figure, colour_shift, frechet, interval, joint, ratio, recall, seam
from .methods import MethodEditor
from .pictures import grid_picture
from .record import summary
from .scenes import FAR, NEAR, UNKNOWN, Recipe, Scenes, SpriteSheet, cat, compose

SEEDS = {"validation": 7_000_000, "test": 9_000_000}  # seeds from here on belong to the evaluation of a split
REFERENCE = 500_000  # so much further on those of the real pictures that distances are measured to
BATCH, BATCH_GPU = 8, 64
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
    parser.add_argument("--batch", type=int, default=None, help=f"edits at a time, which share a seed: {BATCH}, on a GPU {BATCH_GPU}")
    parser.add_argument(
        "--canvas",
        type=canvas,
        default=256,
        help="px; above 256 the same scenes lie in a larger canvas. photographs: scenes on held-out photographs, half of them bare",
    )
    parser.add_argument("--language", choices=["en", "zh"], default="en")
    parser.add_argument("--bare", action="store_true", help="canvases that show no object: style agreement is then with the first style")
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--quick", action="store_true", help="24 edits of 6 steps: a look in under a minute, not a measurement")
    parser.add_argument(
        "--vae", action="store_true", help="also the real pictures through the first model's VAE: the best that its latents allow"
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
    print(f"{args.edits} edits of {args.steps} steps, {args.split} split, seeds from {args.seed}; {hashes}; {args.device}")
    runs = [Run.real(scenes), *edit_all(editors, args, scenes, prompts)]
    pictures = {run.name: run.image for run in runs[1:]}
    if args.vae:
        runs.append(Run.through_vae(editors[0], scenes))
    reference = edits_of(sheet, args, min(2 * args.edits, 2000), args.seed + REFERENCE)
    seen = judges.seen(reference.image, reference)
    rows = [judges.row(run, scenes, seen) for run in runs]
    report(rows, args, sheet, scenes)
    if args.grid:
        grid_picture(scenes, {**pictures, "real": scenes.image}, prompts, args.grid_edits).save(args.grid)
    return 0


@dataclass
class Run:
    """Edits by one method: `image` as a user gets it (feathered), `raw` with the hole pasted as it is, both [B, 3, H, W]."""

    method: str
    name: str
    image: Tensor
    raw: Tensor
    tokens: Tensor
    ms: list[float] = field(default_factory=list)

    @classmethod
    def real(cls, scenes: Scenes) -> Run:
        return cls("real", "real", scenes.image, scenes.image, torch.zeros(len(scenes.label)), [0.0])

    @classmethod
    def through_vae(cls, editor: MethodEditor, scenes: Scenes) -> Run:
        vae = editor.editor
        with torch.inference_mode():
            raw = torch.cat([vae.to_image(vae.to_latent(part)) for part in scenes.image.split(BATCH)])
        return cls("vae", "vae", composite(scenes.empty, raw, threshold(scenes.mask[:, 0]), "feather"), raw, torch.zeros(len(raw)), [0.0])


def edit_all(editors: list[MethodEditor], args: argparse.Namespace, scenes: Scenes, prompts: list[str]) -> list[Run]:
    """Every method on every batch in turn; the canvas has the hole's content removed, as a user's would have something else there."""
    raws: list[list[Tensor]] = [[] for _ in editors]
    times: list[list[float]] = [[] for _ in editors]
    for editor in editors:
        editor.edit(scenes.empty[:1], scenes.mask[:1], prompts[:1], 0, 1, args.cfg)  # warm-up
    for start in tqdm(range(0, args.edits, args.batch), desc="edits"):
        part = slice(start, start + args.batch)
        for i, editor in enumerate(editors):
            begun = time.monotonic()
            raws[i].append(editor.edit(scenes.empty[part], scenes.mask[part], prompts[part], args.seed + start, args.steps, args.cfg))
            times[i].append(1000 * (time.monotonic() - begun) / len(raws[i][-1]))
    runs = []
    for i, editor in enumerate(editors):
        raw = torch.cat(raws[i])
        image = composite(scenes.empty, raw, threshold(scenes.mask[:, 0]), "feather")
        name = editor.method if [e.method for e in editors].count(editor.method) == 1 else f"{editor.method} {args.model[i].stem}"
        runs.append(Run(editor.method, name, image, raw, editor.tokens(scenes.mask).float(), times[i]))
    return runs


@dataclass(frozen=True)
class Seen:
    """What judges make of holes: features of `objects` and of `drawing` [n, F] (None without a judge of styles); `style` [n, K] is the
    scene's."""

    objects: Tensor
    drawing: Tensor | None
    style: Tensor

    def apart(self, other: Seen) -> Figure | None:
        """How far objects, drawing and the scene's style, taken together, are from those of `other`."""
        if self.drawing is None or other.drawing is None:
            return None
        mine, theirs = torch.cat([self.objects, self.drawing], 1), torch.cat([other.objects, other.drawing], 1)
        return joint(mine, self.style, theirs, other.style)


@dataclass(frozen=True)
class Judges:
    objects: Classifier
    styles: Classifier | None

    @classmethod
    def load(cls, path: Path, sheet: SpriteSheet, device: torch.device | str = "cpu") -> Judges:
        """The style judge where the data has styles and it was trained."""
        several = len(sheet.styles) > 1 and style_path(path).exists()
        styles = load_judge(style_path(path), len(sheet.styles), device) if several else None
        return cls(load_judge(path, len(sheet), device), styles)

    def seen(self, image: Tensor, scenes: Scenes) -> Seen:
        objects, styles = features(self.objects, image, scenes.mask), self.styles
        if styles is None:
            return Seen(objects, None, F.one_hot(scenes.style))
        return Seen(objects, features(styles, image, scenes.mask, style_crops), F.one_hot(scenes.style, styles.head.out_features))

    def verdicts(self, seen: Seen, scenes: Scenes) -> tuple[Tensor, Tensor | None]:
        """[B] bool: whether each hole shows what was asked for, and in its scene's style."""
        agree = None if self.styles is None or seen.drawing is None else verdict(self.styles, seen.drawing) == scenes.style
        return verdict(self.objects, seen.objects) == scenes.label, agree

    def row(self, run: Run, scenes: Scenes, reference: Seen) -> dict[str, Any]:
        """All figures of one method, each [value, low, high]; None where no edit, or no judge, can tell."""
        seen, unseen = self.seen(run.image, scenes), scenes.unseen
        right, agree = self.verdicts(seen, scenes)
        row: dict[str, Any] = {"method": run.method, "name": run.name, "prompt_accuracy": interval(right)}
        if agree is not None:
            row["style_agreement"] = interval(agree)
        row["style_agreement_near"] = None if agree is None else interval(agree[scenes.seen == NEAR])
        row["style_agreement_far"] = None if agree is None else interval(agree[scenes.seen == FAR])
        row["style_agreement_bare"] = None if agree is None else interval(agree[scenes.seen == UNKNOWN])
        row["prompt_accuracy_unseen"] = interval(right[unseen])
        row["style_agreement_unseen"] = None if agree is None else interval(agree[unseen])
        row["frechet"], row["recall"] = frechet(seen.objects, reference.objects), recall(seen.objects, reference.objects)
        row["frechet_joint"] = seen.apart(reference)
        row["seam"] = ratio(seam(run.raw, scenes.mask), seam(scenes.image, scenes.mask))
        row["seam_blended"] = ratio(seam(run.image, scenes.mask), seam(scenes.image, scenes.mask))
        row["colour_shift"] = interval(colour_shift(run.raw, scenes.image, scenes.mask))
        row["ms"], row["tokens"] = interval(torch.tensor(run.ms)), round(float(run.tokens.mean()), 1)
        return row


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
        "canvas": scenes.image.shape[-1],
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


def known(sheet: SpriteSheet, count: int, seed: int, split: str, drawn: float = 0.0, size: int = 256, bare: bool = False) -> Scenes:
    """`count` scenes of `size` px, as many near as far as far as chance allows; none of a huge mask, where a crop says little.

    `drawn`: the share with edge drawings. `bare`: scenes that show no other object instead, all in the first style.
    """
    recipe, parts, found = replace(Recipe.held_out(split), drawn=drawn), [], 0  # type: ignore[arg-type]
    recipe = replace(recipe, bare=1.0, withheld=0.0) if bare else recipe
    while found < count:
        scenes = compose(sheet, 32, size, torch.Generator().manual_seed(seed), recipe)
        parts.append(scenes.take(((scenes.mask.mean((1, 2, 3)) < 0.6) & ((scenes.seen == UNKNOWN) == bare)).nonzero().flatten()))
        found, seed = found + len(parts[-1].label), seed + 1
    return cat(parts).take(slice(0, count))


def edits_of(sheet: SpriteSheet, args: argparse.Namespace, count: int, seed: int) -> Scenes:
    """Return the edits that the options name: on scenes, on bare ones, or on photographs."""
    if args.canvas == "photographs":
        return on_photographs(sheet, count, seed, args.split)
    return known(sheet, count, seed, args.split, bare=args.bare)


def on_photographs(sheet: SpriteSheet, count: int, seed: int, split: str) -> Scenes:
    """Return `count` scenes on the sheet's photographs, as taken; about half of them show no other object.

    Holes of up to 60 % of the canvas. Every object occurs in a style that training showed it in: what is new is the photograph.
    """
    recipe = replace(Recipe.held_out(split), withheld=0.0, photographs=1.0, as_taken=True)  # type: ignore[arg-type]
    parts, found = [], 0
    while found < count:
        scenes = compose(sheet, 32, 256, torch.Generator().manual_seed(seed), recipe)
        told = (scenes.seen != UNKNOWN) | (scenes.style == 0)  # the hole may hide all others: then nothing tells their style
        parts.append(scenes.take(((scenes.mask.mean((1, 2, 3)) < 0.6) & told).nonzero().flatten()))
        found, seed = found + len(parts[-1].label), seed + 1
    return cat(parts).take(slice(0, count))


def enlarged(scenes: Scenes, side: int) -> Scenes:
    """The scenes in the middle of canvases of `side` px; their borders go on outwards. Holes keep their size in px."""
    missing = side - scenes.image.shape[-1]
    if missing <= 0:
        return scenes
    pad = (missing // 2, missing - missing // 2) * 2
    image, empty = (F.pad(picture, pad, mode="replicate") for picture in (scenes.image, scenes.empty))
    return replace(scenes, image=image, empty=empty, mask=F.pad(scenes.mask, pad))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def scenes_digest(scenes: Scenes) -> str:
    """Of what is asked for; pixels may differ in their last bits between machines."""
    parts = torch.cat([scenes.mask.sum((1, 2, 3)).long(), scenes.label, scenes.style, scenes.seen])
    return hashlib.sha256(parts.numpy().tobytes()).hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
