"""`python -m training.classifier`: the judge. A small convolutional network that names the object in a hole.

Trained on real sprites alone, pasted on fresh backgrounds with their own seeds; the generator never sees it.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from .record import learning_rate, progress_fraction, summary
from .scenes import SpriteSheet, compose

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
        x = x * 2 - 1
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2)
        return self.head(x.mean((2, 3)))


def crops(image: Tensor, mask: Tensor) -> Tensor:
    """The bounding box of each mask [B, 1, H, W] cut out of [B, 3, H, W] and scaled to 48 x 48 px."""
    parts = []
    for picture, hole in zip(image, mask[:, 0] > 0.5, strict=True):
        rows, cols = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        box = picture[:, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        parts.append(F.interpolate(box[None], (CROP, CROP), mode="bilinear", antialias=True)[0])
    return torch.stack(parts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.classifier", description=summary(__doc__))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("training/judge.safetensors"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=5_000_000)
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    sheet = SpriteSheet.load(args.data, device)
    generator = torch.Generator(device).manual_seed(args.seed)
    model = Classifier(len(sheet)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    start = time.monotonic()
    for step in (bar := tqdm(range(args.steps), desc="judge", unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(2e-3, progress_fraction(step, args.steps, start, None), warmup=0.05)
        scenes = compose(sheet, 64, 128, generator)
        loss = F.cross_entropy(model(crops(scenes.image, scenes.mask)), scenes.label, label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    save_file({key: value.contiguous().cpu() for key, value in model.state_dict().items()}, args.out)
    held_out = compose(sheet, 512, 256, torch.Generator(device).manual_seed(args.seed + 1))
    print(f"{args.out}: names {100 * accuracy(model, held_out.image, held_out.mask, held_out.label):.1f} % of 512 real sprites")
    return 0


@torch.no_grad()
def accuracy(model: Classifier, image: Tensor, mask: Tensor, label: Tensor) -> float:
    return float((predict(model, image, mask) == label).float().mean())


@torch.no_grad()
def predict(model: Classifier, image: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([model.eval()(crops(i, m)).argmax(1) for i, m in zip(image.split(64), mask.split(64), strict=True)])


def load_judge(path: Path, classes: int) -> Classifier:
    model = Classifier(classes)
    model.load_state_dict(load_file(path))
    return model.eval()


if __name__ == "__main__":
    raise SystemExit(main())
