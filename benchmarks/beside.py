"""python -m benchmarks.beside: what an edit costs beside its networks, which are stubs here that take no time.

Looking a context up, checking, filling, comparing canvases, blending: all of it happens on the CPU whatever device the
networks run on, so on a fast one it decides what an edit takes. The yardstick is a copy of the canvas, of which every
edit needs one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from lazy_core.blend.composite import BLENDS
from lazy_core.cache import content_key
from lazy_core.config import PRESETS
from lazy_core.context import Context
from lazy_core.geometry import Box
from lazy_core.networks.context_encoder import EncodedHole
from lazy_core.pipeline import encode_context, lazy_decode
from lazy_core.tokens import HoleTokens
from lazy_core.vae.canvas_cache import CanvasCache
from lazy_core.vae.windows import decode_windows

from .holes import hole
from .report import Row, machine
from .timing import in_turn

CONFIG = PRESETS["fluent-small"]
CPU = torch.device("cpu")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside", description=(__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048, 4096], help="px")
    parser.add_argument("--holes", type=float, nargs="+", default=[1, 10], help="percent of the canvas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args(argv)
    rows = [row for size in args.sizes for share in args.holes for row in measure(size, share / 100, args.rounds)]
    print(f"{'size':>6}{'hole':>9}  {'stage':18}{'ms':>9}{'copies':>9}")
    for row in rows:
        copy = next(other.ms for other in rows if (other.size, other.hole, other.stage) == (row.size, row.hole, "copy"))
        print(f"{row.size:>6}{100 * row.hole:>7.1f} %  {row.stage:18}{row.ms:>9.1f}{row.ms / copy:>9.1f}")
    if args.json:
        about = machine(CPU, torch.float32, 0)
        args.json.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return 0


def measure(size: int, share: float, rounds: int) -> list[Row]:
    """A canvas as the host has it, channels last, and one square hole in its middle."""
    image, mask = torch.rand(1, size, size, 3).movedim(-1, 1), hole("compact", share, size)[None]
    context = encode(CanvasCache(1 << 30), image, mask)
    works: dict[str, Callable[[], object]] = {
        "copy": image.clone,
        "key": lambda: content_key(image.movedim(1, -1), mask),
        "encode": lambda: encode(CanvasCache(1 << 30), image, mask),
        "encode_next": Next(image, mask),
        **{f"decode_{blend}": partial(decode, context, blend) for blend in BLENDS},
    }
    timed = in_turn(works, CPU, rounds)
    return [
        Row(stage, "lazy", "stubs", "cpu", size, share, 1, each.ms, None, runs=each.runs)
        for stage, each in timed.items()
    ]


class Next:
    """Another mask on a canvas that was encoded once before."""

    def __init__(self, image: Tensor, mask: Tensor):
        self.image, self.mask = image, mask

    def ready(self) -> None:
        self.canvases = CanvasCache(1 << 30)
        encode(self.canvases, self.image, self.mask)

    def __call__(self) -> Context:
        return encode(self.canvases, self.image, self.mask.roll(16, -1))


def encode(canvases: CanvasCache, image: Tensor, mask: Tensor) -> Context:
    return encode_context(TRANSFORMER, partial(canvases.encode, "stub", encode_image), image, mask, "stub")


def decode(context: Context, blend: Any) -> Tensor:
    def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        return noise

    decode_hole = partial(decode_windows, decode_image, decode_image)
    return lazy_decode(context, sample, encode_image, decode_image, 0, blend=blend, decode_hole=decode_hole)[0]


# -- networks that take no time ----------------------------------------------------------------------------------------
def encode_image(image: Tensor) -> Tensor:
    height, width = (side // CONFIG.latent_scale for side in image.shape[-2:])
    return image.new_zeros(len(image), CONFIG.latent_channels, height, width)


def decode_image(latent: Tensor, wanted: Box | None = None) -> Tensor:
    size = latent.shape[-2:] if wanted is None else wanted.size
    return latent.new_zeros(len(latent), 3, *(CONFIG.latent_scale * side for side in size))


def read(latent: Tensor, mask: Tensor, near: HoleTokens, coordinates: Tensor, style: int | None = None) -> EncodedHole:
    return EncodedHole(latent.new_zeros(len(latent), near.count, CONFIG.encoder_width))


TRANSFORMER: Any = SimpleNamespace(config=CONFIG, context_encoder=read, matte=None)

if __name__ == "__main__":
    raise SystemExit(main())
