"""A small convolutional network that names the object in a hole, or its drawing style. `python -m training.classifier`
trains both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

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


def style_path(judge: Path) -> Path:
    """Where the style judge lies that was trained with a `judge`."""
    return judge.with_name(f"style_{judge.name}")


@torch.no_grad()
def accuracy(
    model: Classifier, image: Tensor, mask: Tensor, label: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops
) -> float:
    return float((predict(model, image, mask, look) == label.cpu()).float().mean())


@torch.no_grad()
def predict(model: Classifier, image: Tensor, mask: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops) -> Tensor:
    """-> classes [B] on the CPU; `look` makes the crops that the judge was trained on."""
    return verdict(model, features(model.eval(), image, mask, look))


@torch.no_grad()
def features(
    model: Classifier, image: Tensor, mask: Tensor, look: Callable[[Tensor, Tensor], Tensor] = crops
) -> Tensor:
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
