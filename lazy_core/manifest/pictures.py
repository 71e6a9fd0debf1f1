"""Pictures of an edit: read as the tensors that the core takes, written as PNG."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..masks import FLOOR
from .fields import ALPHA, Edit


@dataclass(frozen=True)
class Canvas:
    """`image` [3, H, W] in 0..1, `mask` [H, W] in 0..1 (1 = hole), `alpha` [H, W] if the picture has any, `sketch` [3,
    H, W].
    """

    image: Tensor
    mask: Tensor
    alpha: Tensor | None
    sketch: Tensor | None
    profile: bytes | None = None

    @property
    def warning(self) -> str | None:
        """What is odd about the mask."""
        share = float((self.mask > FLOOR).float().mean())
        if share == 0:
            return "its mask is empty: the picture came back as it was"
        return f"its mask covers {share:.0%} of the picture: white is the hole" if share > MUCH else None


MUCH = 0.8  # of a picture: a mask of more is often upside down


def read_canvas(edit: Edit) -> Canvas:
    """The pictures of an edit. Raises OSError, and ValueError for sizes that do not match."""
    picture = opened(edit.image)
    alpha = pixels(picture.getchannel("A"))[0] if "A" in picture.getbands() else None
    image = pixels(picture.convert("RGB"))
    height, width = image.shape[-2:]
    if edit.box is not None:
        x, y, across, down = edit.box
        mask = torch.zeros(height, width)
        mask[y : y + down, x : x + across] = 1
    elif edit.mask == ALPHA:
        if alpha is None:
            raise ValueError(f"{edit.image.name} has no transparency to be its mask.")
        mask, alpha = 1 - alpha, torch.ones_like(alpha)
    else:
        mask = pixels(opened(Path(str(edit.mask))).convert("L"))[0]
        if 0 < float(mask.max()) < 1.5 / 255:
            raise ValueError(f"{Path(str(edit.mask)).name} holds 0 and 1, expected 0 and 255: white is the hole.")
    sketch = None if edit.sketch is None else pixels(opened(edit.sketch).convert("RGB"))
    for name, other in (("mask", mask), ("sketch", sketch)):
        if other is not None and other.shape[-2:] != (height, width):
            got = f"{other.shape[-1]} x {other.shape[-2]}"
            raise ValueError(f"{name} is {got} px, expected {width} x {height} as {edit.image.name}. Resize it.")
    return Canvas(image, mask, alpha, sketch, picture.info.get("icc_profile"))


def opened(path: Path) -> Image.Image:
    """A picture, turned as it is to be seen; palettes and 16 bits become 8 bits a channel."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
            picture = Image.fromarray(
                (np.asarray(picture, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
            )
        if picture.mode in ("P", "PA", "LA") or "transparency" in picture.info:
            return picture.convert("RGBA")
        return picture.convert("RGBA" if picture.mode == "RGBA" else "L" if picture.mode in ("1", "L") else "RGB")


def pixels(picture: Image.Image) -> Tensor:
    """[C, H, W] in 0..1."""
    values = np.asarray(picture, dtype=np.float32).reshape(picture.height, picture.width, -1)
    return torch.from_numpy(values / np.float32(255)).movedim(-1, 0)


def png_of(result: Tensor, canvas: Canvas, edit: Edit) -> bytes:
    """An edited picture [3, H, W] in 0..1 as PNG, with the canvas's alpha, which is opaque in the hole, its colour
    profile, and what was asked for as text.
    """
    parts = result[:3]
    if canvas.alpha is not None:
        parts = torch.cat([parts, torch.maximum(canvas.alpha, canvas.mask)[None]])
    values = (parts.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).contiguous().numpy()
    buffer = io.BytesIO()
    text = PngInfo()
    asked = {name: getattr(edit, name) for name in ("prompt", "negative", "seed", "steps", "cfg", "denoise", "blend")}
    files = {name: each.name if isinstance(each := getattr(edit, name), Path) else each for name in ("image", "mask")}
    asked |= {name: value for name, value in {**files, "box": edit.box}.items() if value is not None}
    said = json.dumps(asked, ensure_ascii=False).encode("utf-8", "replace").decode()  # a file's name may be no UTF-8
    text.add_itxt("lazydiffusion", said)
    Image.fromarray(values).save(buffer, "PNG", compress_level=1, pnginfo=text, icc_profile=canvas.profile)
    return buffer.getvalue()
