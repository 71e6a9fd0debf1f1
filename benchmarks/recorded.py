"""`python dev.py run -- python -m benchmarks.recorded`: holes decoded with a record, by VAEs of SDXL's and Flux's
shape.

Random weights. Each case is a canvas, what a hole of 10 % showed in the pass that was recorded, and what it shows now:
times are of the edits after the second, each beside a full decode.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lazy_core.vae.autoencoder_kl.decoder import Records

from .stock import load_pack, loaded

PICTURES = Path(__file__).resolve().parent.parent / "tests" / "data"
CASES = [
    ("astronaut", "astronaut", "coffee"),
    ("coffee", "astronaut", "flat"),
    ("flat", "astronaut", "coffee"),
    ("flat", "flat", "coffee"),
]
CHANNELS = {"sdxl": 4, "flux": 16}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recorded", description=(__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    )
    parser.add_argument("--shapes", nargs="+", choices=list(CHANNELS), default=list(CHANNELS))
    parser.add_argument("--width", type=int, default=128, help="channels at full resolution; both have 128")
    parser.add_argument("--size", type=int, default=1024, help="px")
    parser.add_argument("--cases", type=int, default=len(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--edits", type=int, default=0, help="instead: so many edits one after the other")
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    load_pack()
    rows = [row for shape in args.shapes for row in (follow(shape, args) if args.edits else measure(shape, args))]
    if args.json:
        args.json.write_text(json.dumps({"size": args.size, "width": args.width, "rows": rows}, indent=1) + "\n")
    return 0


def follow(shape: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Edits one after the other, each on the last one's result."""
    rows = []
    for canvas in ("astronaut", "flat"):
        edits = sequence(random_vae(shape, args.width), canvas, args.size, args.edits)
        early, late = ([edit.psnr for edit in part if not edit.full] for part in (edits[:10], edits[-10:]))
        row = {"shape": shape, "canvas": canvas, "edits": len(edits), "full": sum(edit.full for edit in edits)}
        row |= {"worst": min(edit.psnr for edit in edits), "worst_rim": min(edit.rim for edit in edits)}
        row |= {
            f"median_{name}_ten": median(part) if part else None for name, part in (("first", early), ("last", late))
        }
        rows.append(row)
        print("  " + json.dumps(row), flush=True)
    return rows


class Edit(NamedTuple):
    """How near a hole is to the full decode, dB, and its outermost 8 px; whether it was decoded in full itself."""

    psnr: float
    rim: float
    full: bool


class Subject:
    """A VAE, the latents of its pictures, and holes of 10 %; `decoded` are the sizes in latents that it was asked
    for.
    """

    def __init__(self, vae: Any, size: int):
        self.vae, self.side, self.decoded = vae, size // 8, list[int]()
        self.length = round(self.side * math.sqrt(0.1))
        self.latents = {
            name: standard(vae.encode(picture(name, size) * 2 - 1)) for name in ("astronaut", "coffee", "flat")
        }
        self.parts = loaded("nodes.host.kl_decoder").parts_of(vae.decoder)

    def decode(self, latent: Tensor) -> Tensor:
        self.decoded.append(latent.shape[-1] * latent.shape[-2])
        return ((self.vae.decode(latent) + 1) / 2).clamp(0, 1)

    def hole(self, top: int, left: int) -> tuple[Tensor, Tensor]:
        """-> its latents [h, w] and its pixels [H, W] bool."""
        cells = torch.zeros(self.side, self.side, dtype=torch.bool)
        cells[top : top + self.length, left : left + self.length] = True
        return cells, cells.repeat_interleave(8, 0).repeat_interleave(8, 1)


@torch.inference_mode()
def sequence(vae: Any, canvas: str, size: int, count: int) -> list[Edit]:
    """Edits of 10 % at random places, that show what a photograph has there. Raises AssertionError where a pixel
    outside moves.
    """
    subject, edits, places = Subject(vae, size), [], torch.Generator().manual_seed(5)
    records, side = Records(limit=1 << 30), subject.side
    lazy = partial(records.decode, "vae", subject.parts, subject.decode)
    latent = subject.latents[canvas]
    image = lazy(latent, picture(canvas, size), torch.ones(1, side, side, dtype=torch.bool))
    for index in range(count):
        top, left = (int(x) for x in torch.randint(0, side - subject.length, (2,), generator=places))
        cells, pixels = subject.hole(top, left)
        latent = torch.where(cells, subject.latents[("astronaut", "coffee")[index % 2]], latent)
        subject.decoded.clear()
        result = lazy(latent, image, cells[None])
        full = side * side in subject.decoded
        near = F.max_pool2d(pixels[None].float(), 17, 1, 8)[0] > 0
        assert full or torch.equal(result[0, :, ~near], image[0, :, ~near]), "a pixel far from the hole moved"
        rim = pixels & (F.max_pool2d((~pixels)[None].float(), 17, 1, 8)[0] > 0)
        error = (result - subject.decode(latent))[0]
        edits.append(Edit(decibels(error[:, pixels]), decibels(error[:, rim]), full))
        image = torch.where(pixels, result, image)
    return edits


@torch.inference_mode()
def measure(shape: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    subject, rows = Subject(random_vae(shape, args.width), args.size), []
    cells, pixels = subject.hole(subject.side // 3, subject.side // 3)
    latents, decode = subject.latents, subject.decode
    decode(latents["flat"])
    for canvas, recorded, shown in CASES[: args.cases]:
        before, now = (torch.where(cells, latents[name], latents[canvas]) for name in (recorded, shown))
        records = Records(limit=1 << 30)
        lazy = partial(records.decode, shape, subject.parts, decode)
        image, full, result, ratios = None, now, now, []
        for index in range(args.rounds + 2):  # the first records, the second adds the probes
            latent = now if index else before
            full, slow = timed(lambda latent=latent: decode(latent))
            image = full if image is None else image
            result, fast = timed(lambda latent=latent, lazy=lazy, image=image: lazy(latent, image, cells[None]))
            ratios.append(fast / slow)
        psnr = decibels((result - full)[0][:, pixels])
        row = {"shape": shape, "canvas": canvas, "recorded": recorded, "shown": shown, "psnr": psnr}
        row |= {"time": round(median(ratios[2:]), 3), "first": round(ratios[0], 3), "second": round(ratios[1], 3)}
        row |= {"contrast": round(float(full[0][:, pixels].std()), 3), "bytes": records.cache.bytes}
        rows.append(row)
        print(
            f"  {shape}: {canvas}, recorded with {recorded}, now {shown}: {psnr} dB, {row['time']:.3f} of the full"
            f" decode's time (the first {row['first']:.2f}, the second {row['second']:.2f}), contrast"
            f" {row['contrast']}",
            flush=True,
        )
    return rows


def decibels(error: Tensor) -> float:
    return round(-10 * math.log10(max(float(error.square().mean()), 1e-12)), 1)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    return call(), time.perf_counter() - begun


def random_vae(shape: str, width: int) -> Any:
    """The host's own class, with PyTorch's initial weights."""
    from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine

    model = "comfy.ldm.modules.diffusionmodules.model"
    config = {
        "double_z": True,
        "z_channels": CHANNELS[shape],
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": width,
    }
    config |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    if shape == "sdxl":
        vae = AutoencoderKL(ddconfig=config, embed_dim=4)
    else:
        vae = AutoencodingEngine(
            regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
            encoder_config={"target": f"{model}.Encoder", "params": config},
            decoder_config={"target": f"{model}.Decoder", "params": config},
        )
    torch.manual_seed(0)
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):  # the host leaves its layers without initial values
            nn.Conv2d.reset_parameters(module)
        elif isinstance(module, nn.GroupNorm):
            nn.GroupNorm.reset_parameters(module)
    return vae.eval().requires_grad_(False)


def picture(name: str, size: int) -> Tensor:
    """[1, 3, size, size] in 0..1"""
    if name == "flat":
        return torch.tensor([0.7, 0.5, 0.3]).view(1, 3, 1, 1).expand(1, 3, size, size).contiguous()
    with Image.open(PICTURES / f"{name}.jpg") as file:
        pixels = torch.from_numpy(np.asarray(file.convert("RGB").resize((size, size))).copy())
    return pixels.movedim(-1, 0)[None].float() / 255


def standard(latent: Tensor) -> Tensor:
    """Scaled as diffusion models want latents; flat ones are not blown up."""
    return (latent - latent.mean()) / latent.std().clamp_min(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
