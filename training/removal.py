"""`python -m training.removal`: what is left where something is taken away from a held-out photograph, beside classical
inpainting.

Holes as people paint them, or with `--outpaint` a strip of the canvas along one side, as *Pad Image for Outpainting*
leaves it. Classical methods: biharmonic equation (scikit-image), Telea and Navier-Stokes (OpenCV), and the smooth fill
that the model is given.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lazy_core.blend.composite import composite
from lazy_core.blend.prefill import prefill
from lazy_core.masks import threshold
from lazy_core.text.removal import NOTHING

from .evaluation.edits import BATCH, SEEDS
from .evaluation.figures import interval, seam
from .evaluation.pictures import to_picture
from .evaluation.study import opened, study_parser
from .scenery.brushes import user_masks
from .scenery.draw import Draw
from .scenery.photographs import PhotographSheet
from .scenery.scenes import place, placements
from .scenery.wheels import module_from

TOOLS = ("opencv-python-headless==4.11.0.86", "scikit-image==0.25.2", "lazy_loader==0.4")
AROUND = 12  # px around a hole with which its gradients are compared


def main(argv: list[str] | None = None) -> int:
    parser = study_parser("removal", __doc__)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--split", choices=["validation", "test"], default="test")
    parser.add_argument("--outpaint", type=float, default=0.0, help="share of a side that is added, instead of holes")
    parser.add_argument("--pictures", type=int, default=48, help="edits in --picture, uncurated")
    args = parser.parse_args(argv)
    sheet, editor, _ = opened(args)
    photographs = PhotographSheet.load(args.data.with_name("photographs.safetensors"), args.split)
    image, mask = edits(
        Draw(torch.Generator().manual_seed(SEEDS[args.split])), sheet.sprites, photographs, args.edits, args.outpaint
    )
    prompts = [NOTHING["en"][0]] * len(image)
    classical = classical_methods(args.data.parent / "tools")
    hole = threshold(mask[:, 0])
    fill = prefill(image, hole)
    results = {"smooth fill": fill}
    for name, method in classical.items():
        results[name] = torch.stack(
            [method(picture, where) for picture, where in zip(tqdm(image, desc=name), hole, strict=True)]
        )
    raw = [
        editor.edit(image[i : i + BATCH], mask[i : i + BATCH], prompts[i : i + BATCH], i, args.steps, args.cfg)
        for i in tqdm(range(0, len(image), BATCH), desc="edits")
    ]
    results["model"] = composite(image, torch.cat(raw), hole, "feather")
    rows = [measure(name, result, image, mask) for name, result in results.items()]
    report(rows)
    if args.json:
        args.json.write_text(
            json.dumps({"edits": len(image), "outpaint": args.outpaint, "split": args.split, "rows": rows}, indent=1)
        )
    if args.picture:
        picture_of(image, mask, results, args.pictures).save(args.picture)
    return 0


def edits(
    draw: Draw, sprites: Tensor, photographs: PhotographSheet, count: int, outpaint: float
) -> tuple[Tensor, Tensor]:
    """Return photographs [B, 3, 256, 256], a different one each as far as they reach, and masks [B, 1, 256, 256]."""
    size = 256
    parts = []
    for index in torch.arange(count) % len(photographs):
        zoom, at = float(draw.uniform(1)), draw.uniform(2).tolist()
        parts.append(photographs.crop(int(index), zoom, at, size))
    image = torch.stack(parts)
    if outpaint:
        wide = round(size * outpaint / (1 + outpaint))
        strip = (torch.arange(size) < wide).float()[:, None].expand(-1, size)
        return image, torch.stack([strip.rot90(side)[None] for side in draw.integers(count, high=4).tolist()])
    box = placements(draw, draw.uniform(count, 1, low=0.25, high=0.45))
    sprite = sprites[0, draw.integers(count, high=sprites.shape[1])]
    return image, user_masks(draw, place(sprite, box, size)[:, 3:], box, everything=0.0)


def classical_methods(tools: Path) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return inpainting (image [3, H, W], hole [H, W] bool -> [3, H, W]) by name; libraries are unpacked into `tools`,
    not installed.
    """
    cv2, restoration = module_from(tools, "cv2", *TOOLS), importlib.import_module("skimage.restoration")

    def opencv(kind: int) -> Callable[[Tensor, Tensor], Tensor]:
        def method(image: Tensor, hole: Tensor) -> Tensor:
            pixels = (image.movedim(0, -1) * 255).round().byte().numpy()
            return torch.from_numpy(cv2.inpaint(pixels, hole.numpy().astype(np.uint8), 5, kind)).movedim(-1, 0) / 255

        return method

    def biharmonic(image: Tensor, hole: Tensor) -> Tensor:
        found = restoration.inpaint_biharmonic(image.movedim(0, -1).double().numpy(), hole.numpy(), channel_axis=-1)
        return torch.from_numpy(found).movedim(-1, 0).float().clamp(0, 1)

    return {"biharmonic": biharmonic, "Telea": opencv(cv2.INPAINT_TELEA), "Navier-Stokes": opencv(cv2.INPAINT_NS)}


@dataclass(frozen=True)
class Energy:
    """Mean gradient energy inside the holes and in the `AROUND` px around them, both [B]."""

    inside: Tensor
    around: Tensor

    @classmethod
    def of(cls, image: Tensor, mask: Tensor) -> Energy:
        grown = F.max_pool2d(mask, 2 * AROUND + 1, 1, AROUND)
        inner = -F.max_pool2d(-mask, 3, 1, 1)
        across = F.pad(image[..., 1:] - image[..., :-1], (0, 1)).square().mean(1, keepdim=True)
        down = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1)).square().mean(1, keepdim=True)
        ring = grown * (F.max_pool2d(mask, 3, 1, 1) < 0.5)

        def mean(where: Tensor) -> Tensor:
            return ((across + down) * where).sum((1, 2, 3)) / where.sum((1, 2, 3)).clamp_min(1)

        return cls(mean(inner), mean(ring))


def measure(name: str, result: Tensor, image: Tensor, mask: Tensor) -> dict[str, Any]:
    """Return PSNR in the hole, gradient energy in it to that around it (of all edits together, and the median edit's),
    and the seam.
    """
    error = ((result - image).square() * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))
    energy = Energy.of(result, mask)
    return {
        "name": name,
        "psnr": interval(-10 * error.clamp_min(1e-6).log10()),
        "energy": round(float(energy.inside.sum() / energy.around.sum()), 4),
        "energy_median": round(float((energy.inside / energy.around.clamp_min(1e-6)).median()), 4),
        "seam": round(float(seam(result, mask).mean() / seam(image, mask).mean()), 4),
    }


def report(rows: list[dict[str, Any]]) -> None:
    print(f"{'':16}{'PSNR, dB':>24}{'gradient energy':>18}{'median':>10}{'seam':>8}")
    for row in rows:
        shown = "{:.1f} [{:.1f}, {:.1f}]".format(*row["psnr"])
        print(f"{row['name']:16}{shown:>24}{row['energy']:18.2f}{row['energy_median']:10.2f}{row['seam']:8.2f}")


def picture_of(image: Tensor, mask: Tensor, results: dict[str, Tensor], count: int) -> Image.Image:
    """Return rows of: photograph, with its hole, the best classical method's and the model's result; four edits a
    row.
    """
    shown = [image, image * (1 - mask) + 0.5 * mask, results["biharmonic"], results["model"]]
    side, columns = 128, 3
    picture = Image.new("RGB", (columns * len(shown) * side, -(-count // columns) * side), "white")
    for index in range(min(count, len(image))):
        for part, images in enumerate(shown):
            x, y = (index % columns * len(shown) + part) * side, index // columns * side
            picture.paste(to_picture(images[index]).resize((side, side), Image.Resampling.LANCZOS), (x, y))
    return picture


if __name__ == "__main__":
    raise SystemExit(main())
