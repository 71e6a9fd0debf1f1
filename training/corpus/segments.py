"""COCO's three ways to write a mask, from annotations of strangers: checked before pycocotools sees them, or read
without it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from pycocotools import mask as coco

POLYGONS, VERTICES = 2000, 200_000  # of one object
OUTLINE = 1_000_000  # px along all its polygons: pycocotools walks along them


def mask_of(segmentation: Any, height: int, width: int) -> tuple[str, np.ndarray | None]:
    """COCO's polygons, or its run lengths as numbers or as a string -> (reason why there is none, mask [H, W] bool)."""
    try:
        if isinstance(segmentation, dict):
            size, counts = segmentation["size"], segmentation["counts"]
            if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size)):
                return "malformed mask", None
            if size != [height, width]:
                return f"mask is {str(size[1])[:12]} x {str(size[0])[:12]} px, not its image's size", None
            mask = filled(runs_of(counts) if isinstance(counts, str) else counts, height, width)
        else:
            parts = coco.frPyObjects(checked(segmentation, height, width), height, width)  # type: ignore
            mask = coco.decode(coco.merge(parts)).astype(bool)  # type: ignore
    except (KeyError, TypeError, ValueError, OverflowError):
        return "malformed mask", None
    return ("", mask) if mask.any() else ("empty mask", None)


def checked(polygons: Any, height: int, width: int) -> list[list[float]]:
    """Polygons [x, y, x, y, ...] that lie about the image. Raises ValueError for any that pycocotools would choke
    on."""
    if (
        not isinstance(polygons, list)
        or not 0 < len(polygons) <= POLYGONS
        or not all(isinstance(each, list) for each in polygons)
    ):
        raise ValueError("no polygons, or too many")
    if sum(map(len, polygons)) > 2 * VERTICES or any(len(each) < 4 or len(each) % 2 for each in polygons):
        raise ValueError("too many corners, or a coordinate without its other")
    length = 0.0
    for polygon in polygons:
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            # NaN is neither
            if not all(type(value) in (int, float) and -side <= value <= 2 * side for value in values):
                raise ValueError("a corner far outside the image")
        corners = list(zip(polygon[::2], polygon[1::2]))
        length += sum(math.dist(a, b) for a, b in itertools.pairwise([*corners, corners[0]]))
    if length > OUTLINE:
        raise ValueError("too long an outline")
    return polygons


def runs_of(text: str) -> list[int]:
    """COCO's compressed run lengths: numbers of five bits a letter, from the fourth on as differences to that before
    the last."""
    runs: list[int] = []
    value = bits = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or bits > 30:
            raise ValueError("no run length")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = bits = 0
    if bits:
        raise ValueError("a run length that does not end")
    return runs


def filled(runs: Any, height: int, width: int) -> np.ndarray:
    """Run lengths, column by column, outside first -> mask [H, W] bool. Raises ValueError where they are not as many
    as pixels."""
    whole = (
        isinstance(runs, list)
        and len(runs) <= height * width + 2
        and all(type(run) is int and 0 <= run <= height * width for run in runs)
    )
    if not whole or sum(runs) != height * width:
        raise ValueError("run lengths that do not fill the image")
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)
