"""ComfyUI's page in another version than the host's own: LAZYDIFFUSION_FRONT_END=1.58.1 runs the tests in it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

from .environment import locked, pip
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
    folder = home() / f"frontend-{version}"
    with locked(home() / "frontend.lock"):
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            download = ["download", "--no-deps", "--only-binary=:all:", "-d", str(partial), f"{PACKAGE}=={version}"]
            pip(Path(sys.executable), download, home() / "frontend.log")
            with zipfile.ZipFile(next(partial.glob("*.whl"))) as wheel:
                wheel.extractall(partial)
            partial.rename(folder)
    return folder / "comfyui_frontend_package" / "static"
