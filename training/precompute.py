"""`python -m training.precompute SOURCE --vae VAE --out FOLDER`: images with instance masks -> shards of latents for
`training.train`.

Each captioned instance becomes `--variants` samples: a square around it, a mask as a user would draw it, the square's
latent, the latent of the square with its hole filled, and the caption (T5 embeddings with `--t5`). All random choices
follow from `--seed` and the instance's place, not from how the work was shared.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from lazy_core.blend.prefill import prefill
from lazy_core.geometry import Grid
from lazy_core.masks import latent_mask, threshold

from .corpus.codecs import T5, ImageCodec, image_codec
from .corpus.instances import Instance, Picture, Skipped, read_pictures
from .loop.record import summary
from .loop.shards import FORMAT
from .scenery.brushes import user_masks
from .scenery.crop import bounds
from .scenery.draw import Draw

LEAST = 0.004  # of the square's area: smaller instances are left out


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.precompute", description=summary(__doc__))
    parser.add_argument("source", type=Path, help="folder with annotations.json (COCO) or with *.tar (WebDataset)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--vae", type=Path, required=True, help="checkpoint of ours, training.autoencoder's file, or a diffusers folder"
    )
    parser.add_argument("--t5", type=Path, default=None, help="folder of a T5 encoder; without it captions stay words")
    parser.add_argument("--t5-length", type=int, default=120)
    parser.add_argument("--size", type=int, default=1024, help="px of the square")
    parser.add_argument("--patch", type=int, default=2, help="latents along a token's side")
    parser.add_argument("--variants", type=int, default=2, help="masks drawn for each instance")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--shard", type=int, default=512, help="samples in a file")
    parser.add_argument("--part", default="0/1", help="i/n: this run takes every n-th picture from the i-th on")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.part = part_of(parser, args.part)
    return args


def part_of(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        parser.error(f"--part is {text}, expected i/n with i from 0 to n - 1.")
    return int(number), int(count)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    codec, t5 = image_codec(args.vae, device), T5.load(args.t5, args.t5_length, device) if args.t5 else None
    args.out.mkdir(parents=True, exist_ok=True)
    skipped, writer = Skipped(), Writer(args, codec)
    pictures = read_pictures(args.source, skipped, args.part)
    for batch in batched(tqdm(samples(pictures, args, skipped), unit="sample"), args.batch):
        writer.add(encode(batch, codec, t5, args, device), batch)
    if t5:
        embeddings, lengths = t5.encode([""])
        save_file({"text": embeddings, "words": lengths}, partial := args.out / f"empty-{args.part[0]:03d}.new")
        os.replace(partial, args.out / "empty.safetensors")
    manifest = writer.finish(skipped)
    print(
        f"{len(manifest['holes'])} samples in {len(manifest['shards'])} files; skipped: {skipped.counts() or 'nothing'}"
    )
    for name, reason in skipped.names:
        print(f"  skipped {name}: {reason}")
    return 0


@dataclass(frozen=True)
class Sample:
    """A square picture [3, S, S] in 0..1, its user's mask [1, S, S], and the caption."""

    name: str
    image: Tensor
    mask: Tensor
    caption: str


def samples(pictures: Iterator[Picture], args: argparse.Namespace, skipped: Skipped) -> Iterator[Sample]:
    for picture in pictures:
        for instance in picture.instances:
            name = f"{picture.name}#{instance.number}"
            image, alpha = square(picture.image, instance, args.size)
            if float(alpha.mean()) < LEAST:
                skipped.add(name, f"smaller than {100 * LEAST:g} % of its square")
                continue
            for variant in range(args.variants):
                seed = hashlib.blake2b(f"{args.seed}/{name}/{variant}".encode(), digest_size=7).digest()
                draw = Draw(torch.Generator().manual_seed(int.from_bytes(seed, "little")))
                left, top, right, bottom = (float(x) for x in bounds(alpha[None])[0] / args.size)
                box = torch.tensor([[(left + right) / 2, (top + bottom) / 2, max(right - left, bottom - top)]])
                caption = instance.captions[int(draw.integers(1, high=len(instance.captions)))]
                yield Sample(f"{name}/{variant}", image, user_masks(draw, alpha[None], box)[0], caption)


def square(image: Image.Image, instance: Instance, size: int) -> tuple[Tensor, Tensor]:
    """The largest square of the image, as central on the instance as it can be, at `size` px: [3, S, S] in 0..1 and
    alpha [1, S, S].
    """
    side = min(image.size)
    rows, cols = np.nonzero(instance.mask)
    top, left = (
        int(min(max((int(x.min()) + int(x.max()) - side) // 2, 0), whole - side))
        for x, whole in ((rows, image.height), (cols, image.width))
    )
    box = (left, top, left + side, top + side)
    picture = image.resize((size, size), Image.Resampling.LANCZOS, box=box)
    alpha = torch.from_numpy(instance.mask[top : top + side, left : left + side].astype(np.float32))
    alpha = F.interpolate(alpha[None, None], (size, size), mode="area" if side > size else "bilinear")[0]
    return torch.from_numpy(np.array(picture)).movedim(-1, 0).float() / 255, alpha


def batched(items: Iterable[Sample], count: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for item in items:
        batch.append(item)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def encode(
    batch: list[Sample], codec: ImageCodec, t5: T5 | None, args: argparse.Namespace, device: torch.device
) -> dict[str, Tensor]:
    image = torch.stack([sample.image for sample in batch]).to(device)
    hole = threshold(torch.stack([sample.mask for sample in batch])[:, 0]).to(device)
    grid = Grid(args.size, args.size, codec.scale, args.patch)
    latent = codec.encode(grid.pad(torch.cat([image, prefill(image, hole)]))).half().cpu()
    target, canvas = latent.chunk(2)
    result = {"target": target, "canvas": canvas, "mask": latent_mask(hole, grid).byte().cpu()}
    if t5:
        result["text"], result["words"] = t5.encode([sample.caption for sample in batch])
    return {name: value.contiguous() for name, value in result.items()}


def manifest_path(args: argparse.Namespace) -> Path:
    return args.out / f"manifest-{args.part[0]:03d}.json"


def fingerprint(vae: Path) -> str:
    """Tells VAEs apart: latents of two must not be mixed."""
    files = [vae] if vae.is_file() else sorted(vae.glob("*.safetensors"))
    digest = hashlib.blake2b(digest_size=8)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


class Writer:
    """Files of `--shard` samples, and at the end the manifest that names them; nothing without a manifest is trained
    on.

    An earlier run's manifest and files are good until this run's manifest takes their place: no file is written over.
    """

    def __init__(self, args: argparse.Namespace, codec: ImageCodec):
        self.args, self.codec = args, codec
        self.parts: list[dict[str, Tensor]] = []
        self.captions: list[str] = []
        self.holes: list[int] = []
        self.shards: list[dict[str, int | str]] = []

    def add(self, tensors: dict[str, Tensor], batch: list[Sample]) -> None:
        self.parts.append(tensors)
        self.captions += [sample.caption for sample in batch]
        self.holes += F.max_pool2d(tensors["mask"].float(), self.args.patch).flatten(1).sum(1).int().tolist()
        if sum(len(part["mask"]) for part in self.parts) >= self.args.shard:
            self.flush()

    def flush(self) -> None:
        if not self.parts:
            return
        tensors = {name: torch.cat([part[name] for part in self.parts]) for name in self.parts[0]}
        name = self.new_name()
        save_file(tensors, self.args.out / name, metadata={"captions": json.dumps(self.captions, ensure_ascii=False)})
        self.shards.append({"file": name, "samples": len(self.captions)})
        self.parts, self.captions = [], []

    def new_name(self) -> str:
        stem = f"shard-{self.args.part[0]:03d}-{len(self.shards):05d}"
        names = (f"{stem}{f'-{run}' if run else ''}.safetensors" for run in itertools.count())
        return next(name for name in names if not (self.args.out / name).exists())

    def remove_older(self) -> None:
        """Files of runs before that no manifest names any more."""
        own = {shard["file"] for shard in self.shards}
        for path in self.args.out.glob(f"shard-{self.args.part[0]:03d}-*.safetensors"):
            if path.name not in own:
                path.unlink()

    def finish(self, skipped: Skipped) -> dict:
        self.flush()
        args = self.args
        manifest = {
            "format": FORMAT,
            "parts": args.part[1],
            "vae": fingerprint(args.vae),
            "latent": {
                "channels": self.codec.channels,
                "scale": self.codec.scale,
                "size": args.size,
                "patch": args.patch,
            },
            "text": "t5" if args.t5 else "words",
            "shards": self.shards,
            "holes": self.holes,
            "skipped": skipped.counts(),
            "skipped_names": skipped.names,
        }
        path = manifest_path(args)
        path.with_suffix(".new").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
        os.replace(path.with_suffix(".new"), path)
        self.remove_older()
        return manifest


if __name__ == "__main__":
    raise SystemExit(main())
