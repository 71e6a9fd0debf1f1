"""`python -m training.few_steps`: quality against the number of steps, for solvers and schedules; the knee is the
default's place.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from itertools import product, starmap
from pathlib import Path
from typing import Any, get_args

import torch
from tqdm import tqdm

from lazy_core.diffusion.sampling import Solver

from .evaluation.edits import BATCH, SEEDS, digest, known, scenes_digest
from .evaluation.figures import frechet, interval
from .evaluation.judges import Judges, Seen
from .evaluation.methods import MethodEditor
from .evaluation.study import opened, percent, study_parser
from .scenery.scenes import FAR, Scenes


@dataclass(frozen=True)
class Way:
    """How to sample: ComfyUI's names are `solver`, and for `shift` the ModelSamplingSD3 node's. `style`: see
    `config.style_guidance`.
    """

    solver: Solver
    shift: float
    cfg: float
    style: float | None

    def __str__(self) -> str:
        styled = "" if self.style is None else f" style {self.style:g}"
        return f"{self.solver} shift {self.shift:g} cfg {self.cfg:g}{styled}"


def main(argv: list[str] | None = None) -> int:
    parser = study_parser("few_steps", __doc__)
    parser.add_argument("--edits", type=int, default=160)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 12, 20, 40])
    parser.add_argument("--solver", choices=get_args(Solver), nargs="+", default=["euler"])
    parser.add_argument("--shift", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--cfg", type=float, nargs="+", default=[3.0])
    parser.add_argument(
        "--style-guidance", type=float, nargs="+", default=[None], help="instead of the checkpoint's own"
    )
    args = parser.parse_args(argv)
    sheet, editor, judges = opened(args)
    scenes = known(sheet, args.edits, SEEDS["validation"], "validation")
    prompts = sheet.prompts(scenes.label)
    reference = known(sheet, 2 * args.edits, SEEDS["validation"] + 500_000, "validation")
    seen = judges.seen(reference.image, reference)
    print(f"{args.edits} edits, validation split; data {digest(args.data)}, scenes {scenes_digest(scenes)}")
    ways = tuple(starmap(Way, product(args.solver, args.shift, args.cfg, args.style_guidance)))
    rows = [judge(args, editor, judges, scenes, prompts, seen, way, steps) for way in ways for steps in args.steps]
    if args.json:
        args.json.write_text(json.dumps({"edits": args.edits, "model": digest(args.model), "rows": rows}, indent=1))
    if args.picture:
        draw(rows, args.picture)
    return 0


def judge(
    args: argparse.Namespace,
    editor: MethodEditor,
    judges: Judges,
    scenes: Scenes,
    prompts: list[str],
    reference: Seen,
    way: Way,
    steps: int,
) -> dict[str, Any]:
    parts, begun = [], time.monotonic()
    if way.style is not None:
        naming = editor.editor.model.transformer.context_encoder.naming
        if naming is None:
            raise ValueError(
                f"{args.model} names no styles, so that --style-guidance {way.style:g} has nothing to lead to. Leave it"
                " out."
            )
        naming.guidance = way.style
    for start in tqdm(range(0, len(prompts), BATCH), desc=f"{way}, {steps} steps", leave=False):
        part = slice(start, start + BATCH)
        context = editor.editor.encode(scenes.empty[part], scenes.mask[part, 0])
        sampling = {"solver": way.solver, "shift": way.shift}
        parts.append(
            editor.editor.decode(context, prompts[part], SEEDS["validation"] + start, steps, way.cfg, **sampling)
        )
    ms = 1000 * (time.monotonic() - begun) / len(prompts)
    image = torch.cat(parts)
    seen = judges.seen(image, scenes)
    right, agree = judges.verdicts(seen, scenes)
    far = scenes.seen == FAR
    row = {
        "way": str(way),
        "steps": steps,
        "prompt_accuracy": interval(right),
        "style_agreement": None if agree is None else interval(agree),
        "style_agreement_far": None if agree is None else interval(agree[far]),
    }
    row |= {"frechet": frechet(seen.objects, reference.objects), "ms": round(ms, 1)}
    styles = f"style {percent(row['style_agreement'])}, far {percent(row['style_agreement_far'])}"
    told = f"prompt {percent(row['prompt_accuracy'])}, {styles}, Frechet {row['frechet']}"
    print(f"{way!s:28} {steps:3} steps: {told}")
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    names = ("prompt_accuracy", "style_agreement", "frechet")
    for axes, name in zip(figure.subplots(1, len(names)), names, strict=True):
        for way in dict.fromkeys(row["way"] for row in rows):
            points = [(row["steps"], row[name]) for row in rows if row["way"] == way and row[name] is not None]
            steps, values = [p[0] for p in points], [p[1] for p in points]
            axes.plot(steps, [v[0] for v in values], marker="o", markersize=3, label=way)
            axes.fill_between(steps, [v[1] for v in values], [v[2] for v in values], alpha=0.1)
        axes.set(xscale="log", xlabel="steps", title=name.replace("_", " "))
        axes.set_xticks(
            sorted({row["steps"] for row in rows}), labels=[str(s) for s in sorted({row["steps"] for row in rows})]
        )
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
