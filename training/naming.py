"""`python -m training.naming`: train the part of a checkpoint that names the canvas's drawing style, and nothing else.

It reads the visible tokens alone, so that neither text nor noise nor decoder take part. What the decoder makes of a
named style it has learned already.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.geometry import Grid
from lazy_core.model import LazyDiffusion
from lazy_core.networks.context_encoder import ContextEncoder
from lazy_core.networks.positions import grid_coordinates

from .loop.extended import extended
from .loop.objective import optimizers
from .loop.pool import Encoded
from .loop.precision import mixed_precision, optimizer_for
from .loop.record import RunRecord, learning_rate, summary
from .loop.scene_source import PoolSettings, ScenePool
from .scenery.captions import CaptionTable
from .scenery.scenes import Recipe, SpriteSheet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.naming", description=summary(__doc__))
    parser.add_argument("--init", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("training/runs/naming"))
    parser.add_argument(
        "--afresh",
        action="store_true",
        help="start a new reader, as a copy of the encoder, where --init has one already",
    )
    parser.add_argument("--depth", type=int, default=3, help="blocks of a new reader")
    parser.add_argument("--size", type=int, default=256, help="canvas in px")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pool", type=int, default=12288, help="encoded scenes held in memory")
    parser.add_argument("--fresh", type=int, default=0, help="scenes replaced per step")
    parser.add_argument(
        "--bare", type=float, default=0.0, help="share of scenes that show no object; these are of the first style"
    )
    parser.add_argument(
        "--photographs", type=float, default=0.0, help="share of scenes on photographs (training.prepare --photographs)"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--record-every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sheet, (model, checkpoint) = SpriteSheet.load(args.data, device), load_model(args.init)
    if args.photographs:
        sheet = sheet.with_photographs(args.data.with_name("photographs.safetensors"), "train")
    if args.afresh:
        model = extended(model, replace(model.config, style_depth=0))
    depth = model.config.style_depth or args.depth
    model = extended(model, replace(model.config, styles=len(sheet.styles), style_depth=depth)).to(device)
    args.out.mkdir(parents=True, exist_ok=True)
    record = RunRecord(args.out / "record.json", vars(args))
    settings = PoolSettings(
        args.size,
        "lazy",
        args.batch,
        1,
        args.pool,
        args.fresh,
        recipe=Recipe(bare=args.bare, photographs=args.photographs, read_nothing=True),
    )
    captions = CaptionTable(sheet.names, checkpoint.tokenizer, device)
    train(
        model, ScenePool(sheet, model, captions, settings, torch.Generator(device).manual_seed(args.seed)), args, record
    )
    notes = checkpoint.notes | ({"attribution": sheet.photographs.attribution} if sheet.photographs else {})
    save_checkpoint(args.out / "model.safetensors", model, checkpoint.tokenizer, torch.float16, **notes)
    record.finish(steps=args.steps, batch=args.batch)
    return 0


def train(model: LazyDiffusion, pool: ScenePool, args: argparse.Namespace, record: RunRecord) -> None:
    """Fits the style reader in place; all other weights stay as they are."""
    encoder = model.transformer.context_encoder
    assert encoder.naming is not None and encoder.naming.reader is not None
    model.requires_grad_(False)
    encoder.naming.reader.requires_grad_(True)
    grid = Grid(args.size, args.size, model.config.latent_scale, model.config.patch_size)
    coordinates = grid_coordinates(grid, model.config, pool.generator.device)
    chosen = optimizers(encoder.naming, optimizer_for(coordinates.device), args.lr)
    for step, (scenes, _) in zip(tqdm(range(1, args.steps + 1), desc="naming"), pool.batches(), strict=False):
        loss, right = step_of(encoder, scenes, coordinates)
        loss.backward()
        for optimizer in chosen:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(1.0, step / args.steps, warmup=0.04)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % args.record_every == 0 or step == 1:
            record.add(step, naming=loss.item(), right=right.item())


def step_of(encoder: ContextEncoder, scenes: Encoded, coordinates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> cross-entropy of the scenes' styles, a little smoothed, and the share of them that is named right."""
    assert encoder.naming is not None and encoder.naming.reader is not None
    x = encoder.masked_input(scenes.canvas.float(), scenes.mask.float())
    with mixed_precision(x.device):
        logits = encoder.naming.reader(x, coordinates).float()
    return F.cross_entropy(logits, scenes.style, label_smoothing=0.02), (
        logits.argmax(-1) == scenes.style
    ).float().mean()


if __name__ == "__main__":
    raise SystemExit(main())
