"""Libraries that one command needs now and then: unpacked into a folder of their own, not into the environment."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any


def module_from(tools: Path, name: str, *requirements: str) -> Any:
    """Import a module from the folder `tools`, into which the wheels of `requirements` are unpacked where it is not
    there yet. Raises SystemExit where they cannot be fetched.
    """
    if not (tools / name).exists():
        options = ["-q", "--no-deps", "--only-binary=:all:", "--target", str(tools)]
        command = [sys.executable, "-m", "pip", "install", *options, *requirements]
        if subprocess.run(command).returncode:
            raise SystemExit(f"cannot fetch {', '.join(requirements)}. Go online, or run: {' '.join(command)}")
    if str(tools) not in sys.path:
        sys.path.append(str(tools))
    return importlib.import_module(name)
