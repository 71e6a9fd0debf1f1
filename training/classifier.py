"""`python -m training.classifier`: the judges. One small convolutional network names the object in a hole, another its drawing style.

Trained on real sprites alone, every object in every style, in fresh scenes with their own seeds; the generator never sees them.
The style judge sees nothing outside the mask, where a neighbour could tell it the answer.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from .record import learning_rate, progress_fraction, summary
from .scenes import OBJECTS, Scenes, SpriteSheet, compose

CROP = 48


class Classifier(nn.Module):
    """Crops [B, 3, 48, 48] in 0..1 -> logits [B, classes]."""

    def __init__(self, classes: int):
        super().__init__()
        widths = (3, 32, 64, 128, 192)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 1, 1, bias=False) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths[1:])
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """-> [B, 192]: what distances between sets of crops are measured on."""
        x = x * 2 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return x.mean((2, 3))


def crops(image: Tensor, mask: Tensor) -> Tensor:
    """The bounding box of each mask [B, 1, H, W] cut out of [B, 3, H, W] and scaled to 48 x 48 px."""
    parts = []
    for picture, hole in zip(image, mask[:, 0] > 0.5, strict=True):
        rows, cols = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        box = picture[:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        parts.append(F.interpolate(box[None], (CROP, CROP), mode="bilinear", antialias=True)[0])
    return torch.stack(parts)


def style_crops(image: Tensor, mask: Tensor) -> Tensor:
    """`crops` of the hole alone: grey outside the mask."""
    return crops(image * mask + 0.5 * (1 - mask), mask)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.classifier", description=summary(__doc__))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("training/judge.safetensors"), help="the style judge goes beside it: style_NAME")
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


def style_path(judge: Path) -> Path:
    """Where the style judge lies that was trained with a `judge`."""
    return judge.with_name(f"style_{judge.name}")


@torch.no_grad()
def accuracy(model: Classifier, image: Tensor, mask: Tensor, label: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops) -> float:
    return float((predict(model, image, mask, look) == label.cpu()).float().mean())


@torch.no_grad()
def predict(model: Classifier, image: Tensor, mask: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops) -> Tensor:
    """-> classes [B] on the CPU; `look` makes the crops that the judge was trained on."""
    return verdict(model, features(model.eval(), image, mask, look))


@torch.no_grad()
def features(model: Classifier, image: Tensor, mask: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops) -> Tensor:
    """What a judge makes of each hole, [B, F] on the CPU, wherever the judge is."""
    device = model.head.weight.device
    parts = zip(image.split(64), mask.split(64), strict=True)
    return torch.cat([model.features(look(i.to(device), m.to(device))).cpu() for i, m in parts])


@torch.no_grad()
def verdict(model: Classifier, features: Tensor) -> Tensor:
    """Features [B, F] -> classes [B], both on the CPU."""
    return model.head(features.to(model.head.weight)).argmax(1).cpu()


def load_judge(path: Path, classes: int, device: torch.device | str = "cpu") -> Classifier:
    model = Classifier(classes)
    model.load_state_dict(load_file(path))
    return model.eval().to(device)


if __name__ == "__main__":
    raise SystemExit(main())
