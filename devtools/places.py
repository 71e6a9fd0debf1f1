"""Where things lie: the repository, the cache folder, and what is inside it."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

from .problem import Problem

ROOT = Path(__file__).resolve().parent.parent
PACK = "ComfyUI-LazyDiffusion"
PINS = ROOT / "requirements-dev.txt"


def home() -> Path:
    """The cache folder: LAZYDIFFUSION_HOME, else `lazydiffusion` in the user's cache folder by this system's
    convention.
    """
    if moved := folder_named_by("LAZYDIFFUSION_HOME"):
        return moved
    try:
        return user_cache() / "lazydiffusion"
    except RuntimeError:
        raise Problem("This user has no home folder: set LAZYDIFFUSION_HOME to a folder that may be written.") from None


def folder_named_by(variable: str) -> Path | None:
    """The folder that an environment variable names, if it is set. Raises Problem for the home of a user who is not
    there.
    """
    if not (named := os.environ.get(variable)):
        return None
    try:
        return Path(named).expanduser().absolute()
    except RuntimeError:
        raise Problem(
            f"{variable} is {named}, but this machine knows no such user: write the folder's whole path."
        ) from None


def user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if os.path.isabs(named) else Path.home() / ".cache"


def environment_folder() -> Path:
    """Keyed by all that decides what is installed: the pins, the Python and the machine."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    pins = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
    facts = [*pins, str(sys.version_info[:2]), sys.platform, platform.machine()]
    return home() / f"env-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"


def serve_folder() -> Path:
    """The base folder of `dev.py serve`: what its user keeps (workflows, inputs) stays, one for each checkout."""
    return home() / f"serve-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]}"


def output(name: str) -> Path:
    """The folder `output/NAME` of the repository, made if need be."""
    folder = ROOT / "output" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
