"""Pictures in the host's input and temp folders, under names made of their content: the same picture is written
once.
"""

from __future__ import annotations

import hashlib
import io
import uuid
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor

FOLDER = "lazydiffusion"


def missing(**files: str | None) -> bool | str:
    """What `validate_inputs` returns: True, or a sentence about the first file that is not there. "" is no file; None a
    linked input.
    """
    for name, file in files.items():
        if file and not folder_paths.exists_annotated_filepath(file):
            return (
                f"{name}: '{file}' is not on this server. Paint it again, or copy the file into ComfyUI's input folder."
            )
    return True


def read(file: str, mode: str) -> Tensor | None:
    """Picture "name.png [input]" in Pillow's `mode` -> [C, H, W] in 0..1; None where `file` is empty."""
    if not file:
        return None
    with Image.open(folder_paths.get_annotated_filepath(file)) as picture:
        pixels = np.array(picture.convert(mode), dtype=np.float32)
    return torch.from_numpy(pixels / np.float32(255)).reshape(picture.height, picture.width, -1).movedim(-1, 0)


def write_temp(image: Tensor) -> dict[str, str | int]:
    """Image [3, H, W] or mask [1, H, W] in 0..1 -> where its PNG lies, as the page asks for it."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).squeeze(-1).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    folder = Path(folder_paths.get_temp_directory()) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.sha256(buffer.getvalue()).hexdigest()[:32]}.png"
    if not file.exists():
        write_whole(file, buffer.getvalue())
    return {
        "filename": file.name,
        "subfolder": FOLDER,
        "type": "temp",
        "width": pixels.shape[1],
        "height": pixels.shape[0],
    }


def write_whole(file: Path, content: bytes) -> None:
    """All of the content, or no file: what a full disk cut off must not be taken for the picture of this name."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(file)
    except OSError as error:
        raise OSError(
            f"{file.name} could not be written into {file.parent}: {error.strerror}. Make room there, then try again."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
