"""ComfyUI's page in another version than the host's own: LAZYDIFFUSION_FRONT_END=1.58.1 runs the tests in it."""

from __future__ import annotations

import os
import re
import sys
import zipfile
from pathlib import Path

from .environment import made_once, pip
from .places import home
from .problem import Problem

PACKAGE = "comfyui-frontend-package"


def flags() -> list[str]:
    """Options of ComfyUI's main.py for the version that LAZYDIFFUSION_FRONT_END names; none for the host's own."""
    version = os.environ.get("LAZYDIFFUSION_FRONT_END", "")
    return ["--front-end-root", str(page_of(version))] if version else []


def page_of(version: str) -> Path:
    """-> the folder with this version's page, downloaded if need be. Raises Problem."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise Problem(f"LAZYDIFFUSION_FRONT_END is {version!r}, expected a version of {PACKAGE}, for example 1.58.1.")

    def make(folder: Path) -> None:
        download = ["download", "--no-deps", "--only-binary=:all:", "-d", str(folder), f"{PACKAGE}=={version}"]
        pip(Path(sys.executable), download, home() / "frontend.log")
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)

    return made_once(home() / f"frontend-{version}", make) / "comfyui_frontend_package" / "static"
