"""`python -m training.classifier`: the judges. One small convolutional network names the object in a hole, another its
drawing style.

Trained on real sprites alone, every object in every style, in fresh scenes with their own seeds; the generator never
sees them. The style judge sees nothing outside the mask, where a neighbour could tell it the answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from .evaluation.judge import Classifier, accuracy, crops, style_crops, style_path
from .loop.record import learning_rate, progress_fraction, summary
from .scenery.scenes import OBJECTS, Scenes, SpriteSheet, compose


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.classifier", description=summary(__doc__))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("training/judge.safetensors"),
        help="the style judge goes beside it: style_NAME",
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--held-out", type=int, default=512, help="real sprites to test the judges on")
    parser.add_argument("--seed", type=int, default=5_000_000)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    sheet = SpriteSheet.load(args.data, device)
    judge, style_judge = train(sheet, args.steps, args.seed)
    held_out = compose(sheet, args.held_out, 256, torch.Generator(device).manual_seed(args.seed + 1), OBJECTS)
    named = 100 * accuracy(judge, held_out.image, held_out.mask, held_out.label)
    save(judge, args.out)
    print(f"{args.out}: names {named:.1f} % of {args.held_out} real sprites")
    if len(sheet.styles) > 1:
        told = 100 * accuracy(style_judge, held_out.image, held_out.mask, held_out.style, style_crops)
        save(style_judge, style_path(args.out))
        print(f"{style_path(args.out)}: tells the style of {told:.1f} %")
    return 0


def train(sheet: SpriteSheet, steps: int, seed: int) -> tuple[Classifier, Classifier]:
    """-> judge of objects, judge of styles; both learn from the same scenes."""
    device = sheet.sprites.device
    generator = torch.Generator(device).manual_seed(seed)
    judges = Classifier(len(sheet)).to(device), Classifier(len(sheet.styles)).to(device)
    optimizer = torch.optim.AdamW([p for judge in judges for p in judge.parameters()], lr=2e-3, weight_decay=0.05)
    start = time.monotonic()
    for step in (bar := tqdm(range(steps), desc="judges", unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(2e-3, progress_fraction(step, steps, start, None), warmup=0.05)
        losses = both_losses(judges, compose(sheet, 64, 128, generator, OBJECTS))
        optimizer.zero_grad(set_to_none=True)
        (losses[0] + losses[1]).backward()
        optimizer.step()
        bar.set_postfix(object=f"{losses[0].item():.3f}", style=f"{losses[1].item():.3f}")
    return judges


def both_losses(judges: tuple[Classifier, Classifier], scenes: Scenes) -> tuple[Tensor, Tensor]:
    name = F.cross_entropy(judges[0](crops(scenes.image, scenes.mask)), scenes.label, label_smoothing=0.05)
    return name, F.cross_entropy(judges[1](style_crops(scenes.image, scenes.mask)), scenes.style, label_smoothing=0.05)


def save(judge: Classifier, path: Path) -> None:
    save_file({key: value.contiguous().cpu() for key, value in judge.state_dict().items()}, path)


if __name__ == "__main__":
    raise SystemExit(main())
