"""Held-out edits: scenes of seeds that training never draws, and on photographs that it never saw."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from ..scenery.rows import cat
from ..scenery.scenes import UNKNOWN, Recipe, Scenes, SpriteSheet, compose

SEEDS = {"validation": 7_000_000, "test": 9_000_000}  # seeds from here on belong to the evaluation of a split
REFERENCE = 500_000  # so much further on those of the real pictures that distances are measured to
BATCH, BATCH_GPU = 8, 64


def known(
    sheet: SpriteSheet, count: int, seed: int, split: str, drawn: float = 0.0, size: int = 256, bare: bool = False
) -> Scenes:
    """`count` scenes of `size` px, as many near as far as far as chance allows; none of a huge mask, where a crop says
    little.

    `drawn`: the share with edge drawings. `bare`: scenes that show no other object instead, all in the first style.
    """
    recipe, parts, found = replace(Recipe.held_out(split), drawn=drawn), [], 0  # type: ignore[arg-type]
    recipe = replace(recipe, bare=1.0, withheld=0.0) if bare else recipe
    while found < count:
        scenes = compose(sheet, 32, size, torch.Generator().manual_seed(seed), recipe)
        parts.append(
            scenes.take(((scenes.mask.mean((1, 2, 3)) < 0.6) & ((scenes.seen == UNKNOWN) == bare)).nonzero().flatten())
        )
        found, seed = found + len(parts[-1].label), seed + 1
    return cat(parts).take(slice(0, count))


def on_photographs(sheet: SpriteSheet, count: int, seed: int, split: str) -> Scenes:
    """Return `count` scenes on the sheet's photographs, as taken; about half of them show no other object.

    Holes of up to 60 % of the canvas. Every object occurs in a style that training showed it in: what is new is the
    photograph.
    """
    recipe = replace(Recipe.held_out(split), withheld=0.0, photographs=1.0, as_taken=True)  # type: ignore[arg-type]
    parts, found = [], 0
    while found < count:
        scenes = compose(sheet, 32, 256, torch.Generator().manual_seed(seed), recipe)
        told = (scenes.seen != UNKNOWN) | (
            scenes.style == 0
        )  # the hole may hide all others: then nothing tells their style
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
