"""A sheet of made sprites, for scenes in tests."""

from __future__ import annotations

import torch

from training.scenery.scenes import SpriteSheet

WORDS = [
    "dot",
    "bar",
    "box",
    "arch",
    "cross",
    "ring",
    "cone",
    "leaf",
    "star",
    "moon",
    "drop",
    "gate",
    "sun",
    "kite",
    "bell",
    "fan",
]


NAMES = [{"code": str(i), "en": [word], "zh": [chr(0x4E00 + i)]} for i, word in enumerate(WORDS)]


STYLES = ("3d", "flat", "ink")


def sheet(colours=((0.9, 0.1, 0.1), (0.1, 0.9, 0.1), (0.1, 0.1, 0.9))) -> SpriteSheet:
    """16 squares of different widths in three styles, which are colours here."""
    x = torch.linspace(-1, 1, 32).abs()
    alpha = torch.stack([(x < 0.5 + 0.03 * i).float().expand(32, 32) for i in range(16)])
    sprites = [torch.cat([torch.tensor(c).view(1, 3, 1, 1) * alpha[:, None], alpha[:, None]], 1) for c in colours]
    return SpriteSheet(torch.stack(sprites), NAMES, STYLES)
