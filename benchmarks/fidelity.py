"""`python dev.py run -- python -m benchmarks.fidelity STAND_IN ...`: what reuse costs a trained stock model, policy by
policy.

Held-out edits, every policy on the same noise: how far the hole is from the run that computes all tokens at every step
(PSNR), what the judges say of it, and how many token-steps it took.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from lazy_core.editor import LazyEditor
from training.evaluation.edits import SEEDS, digest, known, scenes_digest
from training.evaluation.figures import interval
from training.evaluation.judges import Judges
from training.evaluation.study import percent
from training.scenery.crop import crop_boxes, cut, put_back
from training.scenery.scenes import Scenes, SpriteSheet

from .standin_models import FAMILIES, load_stand_in
from .standins import SHIPPED, aligned, few_objects
from .stock import load_pack, loaded


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fidelity", description=(__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    )
    parser.add_argument("models", type=Path, nargs="+", help="files of benchmarks.standins")
    parser.add_argument(
        "--shipped",
        type=Path,
        default=None,
        help="whose VAE and text encoder to use; default: those it was trained with",
    )
    parser.add_argument("--judge", type=Path, default=Path("training/judge.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--crop-edits", type=int, default=60, help="of them by a crop as well")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--far", action="store_true", help="with means of far tokens as well, near and far in six ways")
    parser.add_argument("--size", type=int, default=None, help="px of the canvas; default: as it was trained")
    parser.add_argument("--sweep", action="store_true", help="other policies beside the presets, for the curve")
    parser.add_argument(
        "--policies",
        nargs="+",
        default=None,
        help="of those that there are, beside the run on all tokens; default: all",
    )
    parser.add_argument("--split", choices=list(SEEDS), default="test")
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None)
    args = parser.parse_args(argv)
    load_pack()
    rows = []
    for path in args.models:
        rows += measure(path, args)
    if args.json:
        args.json.write_text(
            json.dumps({"edits": args.edits, "steps": args.steps, "cfg": args.cfg, "rows": rows}, indent=1) + "\n"
        )
    if args.picture:
        draw(rows, args.picture)
    return 0


NAMED = ("balanced", "fast", "stale")
EIGHT_BITS = ", fp8"  # at the end of a policy's name: what it keeps, it keeps in eight bits
FAR = [(2, 2), (2, 4), (4, 2), (4, 4), (8, 4), (4, 8)]  # reach and side of `Near`, for --far


def policies(reuse: ModuleType, presets: dict[str, Any], sweep: bool, steps: int, far: bool) -> dict[str, Any]:
    """`full` is the reference; `stale` keeps the first step's keys and values and does nothing else."""
    named = {"full": presets["exact"], "balanced": presets["balanced"], "fast": presets["fast"]}
    named |= {name + EIGHT_BITS: named[name] for name in ("balanced", "fast")}
    if far:
        named |= {f"balanced, near {reach}/{side}": named["balanced"] for reach, side in FAR}
    named["stale"] = reuse.Policy((reuse.Plan((0.0,)),))
    if sweep:
        policies = {" ".join(f"{level:g}" for level in plan): reuse.Policy((reuse.Plan(plan),)) for plan in SWEEP}
        named |= {name: policies[name] for name in one_of_each(policies, steps)}
    return named


def one_of_each(policies: dict[str, Any], steps: int) -> list[str]:
    """Of policies that are alike in a run of so many steps, the first one's name."""
    return list({tuple(policy.levels(steps)): name for name, policy in reversed(policies.items())}.values())[::-1]


SWEEP: list[tuple[float, ...]] = [(first,) for first in (0.05, 0.1, 0.15, 0.2, 0.3, 0.45)]
SWEEP += [(0, last) for last in (0.2, 0.35, 0.5, 0.65)] + [(0.1, 0.5), (0.2, 0.5), (0.2, 0.6), (0.3, 0.65)]
SWEEP += [(0, 0.15, 0.45), (0, 0.15, 0.55), (0, 0.2, 0.55), (0, 0.3, 0.65), (0, 0.4, 0.75)]
SWEEP += [(0, 0.1, 0.3, 0.6), (0, 0.1, 0.25, 0.5, 0.75)]


def measure(path: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    core = loaded("lazy_core.kv.policy")
    model, about = load_stand_in(path, getattr(torch, args.dtype))
    everything = SpriteSheet.load(args.data)
    sheet, judges = few_objects(everything, about["objects"]), Judges.load(args.judge, everything)
    scenes = known(sheet, args.edits, SEEDS[args.split], args.split, size=args.size or FAMILIES[about["family"]].size)
    scenes = replace(scenes, mask=aligned(scenes.mask))
    prompts = sheet.prompts(scenes.label)
    bench = Bench(model, LazyEditor.load(args.shipped or path.with_name(SHIPPED)), args)
    print(f"{path}: {about}; {args.edits} edits; data {digest(args.data)}, scenes {scenes_digest(scenes)}")
    rows: list[dict[str, Any]] = []
    full: tuple[Tensor, Tensor, Tensor | None] | None = None  # pictures and verdicts of the run on all tokens
    real = judges.verdicts(judges.seen(scenes.image, scenes), scenes)
    print(f"  real: prompt {interval(real[0])}, style {None if real[1] is None else interval(real[1])}")
    presets = loaded("nodes.stock.families").family_of(model).policies
    for name, policy in [
        *policies(core, presets, args.sweep, args.steps, args.far).items(),
        ("crop", presets["exact"]),
    ]:
        if args.policies and name not in ("full", *args.policies):
            continue
        terms = {"kv_dtype": "fp8" if name.endswith(EIGHT_BITS) else "model", "visible": near_of(name)}
        some = slice(0, args.crop_edits if name == "crop" else args.edits)  # a crop costs as much as all tokens
        part = scenes.take(some)
        images, seconds, tokens = bench.edits(part, prompts[some], policy, terms, crop=name == "crop")
        right, agree = judges.verdicts(judges.seen(images, part), part)
        full = full or (images, right, agree)
        row = {"model": about["family"], "policy": name, "edits": len(images), "prompt_accuracy": interval(right)}
        row |= {
            "style_agreement": None if agree is None else interval(agree),
            "prompt_lost": interval(full[1][some].float() - right.float()),
            "style_lost": None if agree is None or full[2] is None else interval(full[2][some].float() - agree.float()),
            "psnr": None if name == "full" else interval(psnr(images, full[0][some], part.mask)),
        }
        row |= {"seconds": round(seconds, 2), "token_steps": round(tokens, 4)}
        rows.append(row)
        lost = f"of full's {percent(row['prompt_lost'])} and {percent(row['style_lost'])} lost"
        figures = (
            f"prompt {percent(row['prompt_accuracy'])}, style {percent(row['style_agreement'])}, {lost}, PSNR"
            f" {row['psnr']}"
        )
        print(f"  {name:40} {figures}, token-steps {tokens:.3f}, {seconds:.1f} s", flush=True)
    return rows


def near_of(name: str) -> str:
    """The name in `NEAR` of what a policy `..., near REACH/SIDE` reads; "all" of any other."""
    _, found, sizes = name.partition(", near ")
    if not found:
        return "all"
    split = loaded("lazy_core.kv.split")
    split.NEAR["measured"] = split.Near(*map(int, sizes.split("/")))
    return "measured"


def psnr(image: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """In the hole [B], dB; 60 for equal pictures."""
    error = ((image - reference).square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    return -10 * error.clamp_min(1e-6).log10()


@dataclass
class Bench:
    model: Any
    editor: LazyEditor
    args: argparse.Namespace

    def edits(
        self, scenes: Scenes, prompts: list[str], policy: Any, terms: dict[str, Any], crop: bool
    ) -> tuple[Tensor, float, float]:
        """-> edited canvases, seconds of sampling, and the share of all token-steps that were computed."""
        results, seconds, shares = [], 0.0, []
        loaded("nodes.stock.families").family_of(self.model).policies["measured"] = policy
        for i in tqdm(range(len(prompts)), leave=False):
            image, mask = scenes.empty[i : i + 1], scenes.mask[i : i + 1]
            given, hole = image, mask
            if crop:
                boxes = crop_boxes(mask)
                given, hole = cut(image, boxes, image.shape[-1]), aligned(cut(mask, boxes, image.shape[-1], grow=True))
            result, took, share = self.edit(given, hole, prompts[i], i, terms)
            if crop:
                result = put_back(image, result, boxes)
                result = torch.where(mask > 0.5, result, image)
            results.append(result)
            seconds, shares = seconds + took, [*shares, share]
        return torch.cat(results), seconds, sum(shares) / len(shares)

    @torch.inference_mode()
    def edit(
        self, image: Tensor, mask: Tensor, prompt: str, seed: int, terms: dict[str, Any]
    ) -> tuple[Tensor, float, float]:
        timings, sampling = loaded("nodes.host.timing"), loaded("nodes.host.sampling")
        stock, pipeline = loaded("nodes.stock.edit"), loaded("lazy_core.pipeline")
        context = pipeline.encode_canvas(self.editor.to_latent, image, mask[:, 0], "stand-in", 8, 2, 8, "measured")
        context = context.with_(stock=replace(context.stock, **terms))
        conds = [self.conditioning(text, context) for text in (prompt, "")]
        timing, settings = timings.Timing(), sampling.Settings(seed, self.args.steps, self.args.cfg, "euler", "simple")
        sample, begun = stock.hole_sampler(self.model, context, *conds, settings, timing), time.monotonic()
        edited, _ = pipeline.lazy_decode(
            context, sample, self.editor.to_latent, self.editor.to_image, seed, blend="none"
        )
        took, passes, hole = time.monotonic() - begun, timing.passes, context.hole.count / context.hole.total
        return edited, took, (passes["full"] + passes["sparse"] * hole) / self.args.steps

    def conditioning(self, text: str, context: Any) -> list:
        """The prompt as a stock CLIP would give it, and the filled canvas where the model wants one."""
        states = self.editor.caption([text]).float()
        values = {
            "pooled_output": states.mean(1),
            "concat_latent_image": context.latent,
            "concat_mask": context.mask[:, None].float(),
        }
        return [[states, values]]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Fidelity against the share of token-steps; the presets by name."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(5.5 * len(models), 4), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        shown = [
            row for row in rows if row["model"] == model and row["psnr"] and row["policy"] != "crop"
        ]  # which draws another picture
        presets = [row for row in shown if row["policy"] in NAMED]
        for row in shown:
            middle, low, high = row["psnr"]
            preset = row in presets
            if preset:
                axes.errorbar(row["token_steps"], middle, [[middle - low], [high - middle]], fmt="o", color="C1")
            elif not any(
                other["token_steps"] == row["token_steps"] and other["psnr"] == row["psnr"] for other in presets
            ):
                axes.plot(row["token_steps"], middle, ".", color="C0")
            else:
                continue
            axes.annotate(
                row["policy"],
                (row["token_steps"], middle),
                (5, -3),
                textcoords="offset points",
                fontsize=8 if preset else 6,
            )
        axes.set(title=model, xlabel="token-steps computed, of all", ylabel="PSNR of the hole against all tokens, dB")
        axes.margins(x=0.15)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
