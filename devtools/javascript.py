"""What the page's JavaScript is checked with: biome, TypeScript and ComfyUI's types, pinned by
tests/web/package-lock.json.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from .environment import made_once
from .places import ROOT, home
from .problem import Problem

SETTINGS = ROOT / "tests" / "web"
SOURCES = (ROOT / "web" / "js", SETTINGS)
PINS = ("package.json", "package-lock.json")


def tools_folder() -> Path:
    """Where the pinned tools lie, installed if need be by npm, which runs none of their scripts. Raises Problem."""
    digest = hashlib.sha256(b"".join((SETTINGS / name).read_bytes() for name in PINS)).hexdigest()
    return made_once(home() / f"javascript-{digest[:12]}", install)


def install(folder: Path) -> None:
    for name in PINS:
        shutil.copy(SETTINGS / name, folder)
    run = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True
    )
    if run.returncode:
        raise Problem(
            f"npm could not install what tests/web/package-lock.json pins: {(run.stderr or run.stdout).strip()[-400:]}"
        )


def check_types(folder: Path) -> str:
    """-> what TypeScript finds wrong with our modules, "" for nothing."""
    settings = folder / "tsconfig.json"
    modules = [*(str(path) for path in sorted(SOURCES[0].rglob("*.js"))), str(SETTINGS / "page.d.ts")]
    paths = {"*": [f"{folder}/node_modules/*"]}
    content = {
        "extends": str(SETTINGS / "tsconfig.json"),
        "compilerOptions": {"paths": paths},
        "include": [],
        "files": modules,
    }
    settings.write_text(json.dumps(content), encoding="utf-8")
    return said(folder, "tsc", "-p", str(settings), "--pretty", "false")


def check_style(folder: Path) -> str:
    """-> what biome would format or find fault with, "" for nothing. `python -m devtools.javascript` mends what it
    can.
    """
    return said(folder, "biome", "check", *options(), "--error-on-warnings")


def options() -> list[str]:
    return [f"--config-path={SETTINGS / 'biome.json'}", "--colors=off", *map(str, SOURCES)]


def said(folder: Path, program: str, *arguments: str) -> str:
    command = [str(folder / "node_modules" / ".bin" / program), *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return (run.stdout + run.stderr).strip() or "it failed and said nothing" if run.returncode else ""


if __name__ == "__main__":
    print(said(tools_folder(), "biome", "check", "--write", *options()) or "All modules are as biome writes them.")
