"""The same objects in several drawing styles: pinned packages, how each is read, and how its pictures become sprites.

All styles are Microsoft's Fluent emoji (MIT), whose styles share their outlines: an object never seen in a style can
then be told from its other drawings. Noto's and Twemoji's drawings differ in shape as well, which no context could
tell.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from .objects import CODE_POINTS
from .wheels import module_from

SPRITE_SIZE = 128
RENDERER = "resvg-py==0.5.0"  # PyPI, MIT or Apache-2.0; draws SVG, needed here alone
INK = "#26221e"
PAPER = (250, 246, 236)


@dataclass(frozen=True)
class Style:
    """An npm package with its sha256; `kind` says how `read_style` opens it."""

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    kind: str


STYLES = (
    Style(
        "3d",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "webp",
    ),
    Style(
        "flat",
        "@lobehub/fluent-emoji-flat",
        "1.1.0",
        "lobehub-fluent-emoji-flat-1.1.0.tgz",
        "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147",
        "svg",
    ),
    Style(
        "ink",
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        "iconify-json-fluent-emoji-high-contrast-1.2.6.tgz",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
        "iconify",
    ),
)


def read_style(style: Style, tarball: Path, tools: Path) -> torch.Tensor:
    """-> [S, 4, 128, 128] uint8, RGB premultiplied by alpha. Raises SystemExit for a picture that is not there."""
    with tarfile.open(tarball) as archive:
        if style.kind == "webp":
            pictures = [Image.open(io.BytesIO(member(archive, f"assets/{code}.webp"))) for code in CODE_POINTS]
        elif style.kind == "svg":
            pictures = [render(member(archive, f"assets/{code}.svg").decode(), tools) for code in CODE_POINTS]
        else:
            icons, names = (json.loads(member(archive, name)) for name in ("icons.json", "chars.json"))
            pictures = [on_paper(render(iconify(icons, names, code), tools)) for code in CODE_POINTS]
    return torch.stack([sprite(picture) for picture in pictures])


def member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        file = archive.extractfile(f"package/{name}")
    except KeyError:
        file = None
    if file is None:
        raise SystemExit(f"{archive.name} holds no package/{name}. Delete it and run again.")
    return file.read()


def iconify(icons: dict[str, Any], names: dict[str, str], code: str) -> str:
    """One icon of an Iconify set as SVG; its ink is `currentColor`."""
    icon = icons["icons"][names.get(code) or names[code.split("-")[0]]]
    size = f"{icon.get('width', icons['width'])} {icon.get('height', icons['height'])}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" color="{INK}" viewBox="0 0 {size}">{icon["body"]}</svg>'


def render(svg: str, tools: Path) -> Image.Image:
    """SVG -> RGBA of twice the sprite's size, by resvg; its wheel is unpacked into `tools`, not into the
    environment.
    """
    resvg = module_from(tools, "resvg_py", RENDERER)
    side = 2 * SPRITE_SIZE
    return Image.open(io.BytesIO(resvg.svg_to_bytes(svg_string=svg, width=side, height=side)))


def on_paper(drawing: Image.Image) -> Image.Image:
    """Ink lines over cut-out paper: what the lines enclose, small gaps included, is opaque, as in every other style."""
    rgba = np.asarray(drawing.convert("RGBA"))
    lines = np.pad(rgba[..., 3] > 127, 12)
    closed = ndimage.binary_closing(lines, iterations=8)
    solid = np.asarray(ndimage.binary_fill_holes(closed))[12:-12, 12:-12]
    paper = Image.fromarray((solid * 255).astype(np.uint8)).resize(drawing.size, Image.Resampling.BOX)
    sheet = Image.new("RGBA", drawing.size, (*PAPER, 0))
    sheet.putalpha(paper)
    return Image.alpha_composite(sheet, drawing.convert("RGBA"))


def sprite(picture: Image.Image) -> torch.Tensor:
    """-> [4, 128, 128] uint8, premultiplied (so that resampling draws no dark fringe)."""
    rgba = np.asarray(picture.convert("RGBA"), dtype=np.float32)
    planes = np.concatenate([rgba[..., :3] * (rgba[..., 3:] / 255), rgba[..., 3:]], axis=2)
    side = (SPRITE_SIZE, SPRITE_SIZE)
    resized = [np.asarray(Image.fromarray(planes[..., i]).resize(side, Image.Resampling.BOX)) for i in range(4)]
    return torch.from_numpy(np.stack(resized)).round().to(torch.uint8)
