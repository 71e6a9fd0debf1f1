"""`python -m training.train --preset fluent-small`: train encoder, decoder and text encoder together, resumable.

Rectified flow on the hole's tokens; the network predicts the clean latent and is weighted as a velocity loss. The
context encoder runs once per scene, the decoder on several noise levels of it, as at inference.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.config import PRESETS, LazyConfig
from lazy_core.geometry import Grid
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.positions import grid_coordinates
from lazy_core.tokens import HoleTokens, patchify
from lazy_core.vae import TinyVAE

from .autoencoder import channels_last
from .captions import CaptionTable, grow_embedding, tokenizer_for
from .methods import METHOD_KEY, METHODS, SIZE_KEY, everything
from .objective import draws_for, noise_levels, optimizers, velocity_loss
from .pool import Encoded, bucketed, cat, encode_scenes, to_latent
from .record import Record, learning_rate, progress_fraction, summary
from .scenes import SpriteSheet, compose

LICENCE = "MIT"
PROVENANCE = "Trained from scratch by this project's training/ on scenes composed of Microsoft's Fluent emoji (MIT)."


VAE = Path("training/runs/vae/vae.safetensors")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=summary(__doc__))
    parser.add_argument("--preset", default="fluent-small", choices=[k for k, v in PRESETS.items() if v.text])
    parser.add_argument("--method", default="lazy", choices=METHODS, help="lazy, or a baseline: all tokens of the image, or of a crop")
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--vae", type=Path, default=None, help=f"default: {VAE}, or the one inside --init")
    parser.add_argument("--out", type=Path, default=Path("training/runs/model"))
    parser.add_argument("--init", type=Path, default=None, help="checkpoint whose weights to start from")
    parser.add_argument("--size", type=int, default=256, help="canvas in px")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--minutes", type=float, default=None, help="stop by the clock instead, schedule included")
    parser.add_argument("--batch", type=int, default=32, help="scenes a step")
    parser.add_argument("--draws", type=int, default=4, help="noise levels per scene and step")
    parser.add_argument("--pool", type=int, default=8192, help="encoded scenes held in memory")
    parser.add_argument("--fresh", type=int, default=2, help="scenes replaced per step")
    parser.add_argument("--shift", type=float, default=0.0, help="share of steps with moved positions, for canvases larger than --size")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--style-weight", type=float, default=0.3, help="weight of naming the scene's style from the context's tokens")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--compile", action="store_true", help="torch.compile the blocks: minutes to start, then a sixth faster on a CPU")
    parser.add_argument("--save-minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    Trainer(parse(argv)).run()
    return 0


@dataclass
class Progress:
    step: int = 0
    seconds: float = 0.0


class Trainer:
    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        self.generator = torch.Generator(self.device).manual_seed(args.seed)
        self.sheet = SpriteSheet.load(args.data, self.device)
        preset = PRESETS[args.preset]
        assert preset.text is not None
        self.model, self.tokenizer = self.build(preset)
        self.config = self.model.config
        self.captions = CaptionTable(self.sheet.names, self.tokenizer, self.device)
        self.average = torch.optim.swa_utils.AveragedModel(self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema))
        self.head = nn.Linear(self.config.encoder_width, len(self.sheet.styles)).to(self.device)
        self.optimizers = optimizers(nn.ModuleList([self.model, self.head]), args.optimizer, args.lr)
        side = args.size // 2 if args.method == "crop" else args.size
        self.grid = Grid(side, side, self.config.latent_scale, self.config.patch_size)
        self.coordinates = grid_coordinates(self.grid, self.config, self.device)
        self.progress = Progress()
        args.out.mkdir(parents=True, exist_ok=True)
        self.resume()
        self.record = Record(args.out / "record.json", vars(args))
        if args.compile:
            for block in (*self.model.transformer.context_encoder.blocks, *self.model.transformer.decoder.blocks):
                block.compile(dynamic=True)

    def build(self, config: LazyConfig) -> tuple[LazyDiffusion, Tokenizer]:
        """A fresh model around the trained VAE, or the whole of `--init` with new words added; the VAE is never trained here."""
        assert config.text is not None
        if self.args.init:
            model, checkpoint = load_model(self.args.init)
            tokenizer = tokenizer_for(self.sheet.names, config.text.length, Tokenizer.from_str(checkpoint.tokenizer or ""))
            if self.args.vae and model.vae is not None:
                model.vae.load_state_dict(load_file(self.args.vae))
        else:
            tokenizer = tokenizer_for(self.sheet.names, config.text.length)
            vae = self.load_vae(config)
            if vae is not None:
                config = replace(config, latent_rgb=preview_factors(self.sheet, vae))
            model = LazyDiffusion(config)
            initialise(model, torch.Generator().manual_seed(self.args.seed))
            model.vae = vae
        model = with_edges(grow_embedding(model, tokenizer.get_vocab_size()))
        if model.vae is not None:
            channels_last(model.vae.requires_grad_(False))
        return model.to(self.device), tokenizer

    def load_vae(self, config: LazyConfig) -> TinyVAE | None:
        if config.vae is None:
            return None
        vae = TinyVAE(config.vae)
        vae.load_state_dict(load_file(self.args.vae or VAE))
        return vae.to(self.device)

    # -- the loop -------------------------------------------------------------------------------------------------
    def run(self) -> None:
        args, begun, saved = self.args, time.monotonic() - self.progress.seconds, time.monotonic()
        bar = tqdm(self.batches(), desc=args.preset, unit="step", initial=self.progress.step)
        self.model.train()
        for batch in bar:
            done = progress_fraction(self.progress.step, args.steps, begun, args.minutes)
            if done >= 1:
                break
            losses = self.step(batch, learning_rate(1.0, done, warmup=0.03))
            self.progress.step += 1
            self.progress.seconds = time.monotonic() - begun
            if self.progress.step % 20 == 0 or self.progress.step == 1:
                figures = {name: loss.item() for name, loss in losses.items()}
                self.record.add(self.progress.step, **figures)
                bar.set_postfix({name: f"{value:.4f}" for name, value in figures.items()} | {"done": f"{100 * done:.1f}%"})
            if time.monotonic() - saved > 60 * args.save_minutes:
                self.save()
                saved = time.monotonic()
        self.save()
        self.record.finish(steps=self.progress.step, batch=args.batch, draws=args.draws)

    def batches(self) -> Iterator[Encoded]:
        args = self.args
        chunk = min(args.pool, 64 if self.device.type == "cpu" else 256)
        fill = tqdm(range(args.pool // chunk), desc="encoding scenes")
        pool = cat([self.encode(chunk) for _ in fill])
        sizes = pool.hole.sum(1)
        while True:
            for index in bucketed(sizes, args.batch, 16, self.generator):
                yield pool.take(index)
            if args.fresh:
                for _ in range(max(16 * args.fresh // chunk, 1)):
                    slots = torch.randint(len(sizes), (min(chunk, 16 * args.fresh),), generator=self.generator, device=self.device)
                    pool.put(slots, self.encode(len(slots)))
                sizes = pool.hole.sum(1)

    def encode(self, count: int) -> Encoded:
        args = self.args
        return encode_scenes(self.sheet, self.model.vae, self.config, count, args.size, self.generator, args.method)

    def step(self, batch: Encoded, rate: float) -> dict[str, Tensor]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["peak"]
        hole = HoleTokens.of(batch.hole)
        ids = self.captions.draw(batch.label, self.generator, look=batch.look)
        with torch.autocast(self.device.type, torch.bfloat16):
            losses = self.edit_loss(batch, hole, ids)
        (losses["loss"] + self.args.style_weight * losses["naming"]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.model)
        return {name: loss.detach() for name, loss in losses.items()}

    def edit_loss(self, batch: Encoded, hole: HoleTokens, ids: Tensor) -> dict[str, Tensor]:
        """Velocity loss over the tokens that the method generates, `draws` noise levels per scene; and `naming_loss`."""
        args, model = self.args, self.model
        assert model.text is not None
        draws = draws_for(hole.count, (args.size // self.grid.token_pixels) ** 2, args.draws)
        kept = hole if args.method == "lazy" else everything(batch.hole)
        coordinates = self.coordinates + self.shift()
        context = model.transformer.context_encoder(batch.canvas.float(), batch.mask.float(), kept, coordinates)
        naming = self.naming_loss(context, kept, batch)
        places = kept.gather(coordinates.expand(len(ids), -1, -1))
        target = kept.gather(patchify(batch.target.float(), self.config.patch_size))
        repeat = lambda x: x.repeat_interleave(draws, 0)  # noqa: E731
        target, valid = repeat(target), repeat(kept.valid)
        sigma = noise_levels(len(ids), draws, self.generator)
        level = sigma.view(-1, 1, 1)
        noise = torch.randn(target.shape, generator=self.generator, device=target.device)
        x = (1 - level) * target + level * noise
        keys = None if kept.padding is None else repeat(kept.padding)
        lines = kept.gather(patchify(batch.lines.float() / 255, self.config.token_pixels))
        output = model.transformer.decoder(
            x, repeat(context), repeat(places), sigma * 1000, repeat(model.text(ids)), keys, edges=repeat(lines)
        )
        loss = velocity_loss(output, target, sigma, valid, None if args.method == "lazy" else repeat(batch.hole))
        return {"loss": loss, "naming": naming}

    def naming_loss(self, context: Tensor, kept: HoleTokens, batch: Encoded) -> Tensor:
        """Cross-entropy of the scene's style, named from the mean of the tokens that the decoder will get.

        The diffusion loss alone teaches the encoder to look for far objects' style very late. The head is thrown away.
        """
        valid = kept.valid[..., None].to(context)
        named = self.head((context * valid).sum(1) / valid.sum(1))
        return F.cross_entropy(named.float(), batch.style)

    def shift(self) -> Tensor:
        """A share `--shift` of the steps sees the grid moved by up to its own size: larger canvases then meet no unknown position.

        Off by default: on a short run the network learns relative places much later with it.
        """
        if torch.rand((), generator=self.generator, device=self.device) >= self.args.shift:
            return torch.zeros(2, device=self.device)
        side = max(self.grid.rows, self.grid.cols)
        return torch.randint(side + 1, (2,), generator=self.generator, device=self.device).float()

    # -- files ----------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """The averaged model as a checkpoint of ours, and everything that a resumed run needs; each replaced in one move."""
        out = self.args.out
        averaged: LazyDiffusion = self.average.module  # type: ignore[assignment]
        notes = {"licence": LICENCE, "provenance": PROVENANCE, METHOD_KEY: self.args.method, SIZE_KEY: str(self.args.size)}
        save_checkpoint(out / "model.new.safetensors", averaged, self.tokenizer.to_str(), torch.float16, **notes)
        os.replace(out / "model.new.safetensors", out / "model.safetensors")
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "torch": torch.get_rng_state(),
            "progress": vars(self.progress),
        }
        torch.save(state, out / "state.new.pt")
        os.replace(out / "state.new.pt", out / "state.pt")

    def resume(self) -> None:
        path = self.args.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.average.load_state_dict(state["average"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["torch"].cpu())
        self.progress = Progress(**state["progress"])
        print(f"resumed {path} at step {self.progress.step}")


def with_edges(model: LazyDiffusion) -> LazyDiffusion:
    """The model with a place for edge maps, which starts at zero: it computes what it did."""
    if model.config.edges:
        return model
    larger = LazyDiffusion(replace(model.config, edges=True))
    initialise(larger)
    larger.load_state_dict({**larger.state_dict(), **model.state_dict()})
    return larger


def preview_factors(sheet: SpriteSheet, vae: TinyVAE) -> tuple[tuple[float, float, float], ...]:
    """Least squares from latents to small RGB pictures in -1..1: what step previews show."""
    scenes = compose(sheet, 16, 256, torch.Generator(vae.mean.device).manual_seed(1))
    latent = to_latent(vae, scenes.image).movedim(1, -1).flatten(0, 2)
    colour = (F.avg_pool2d(scenes.image, 8) * 2 - 1).movedim(1, -1).flatten(0, 2)
    return tuple(tuple(round(x, 4) for x in row) for row in torch.linalg.lstsq(latent, colour).solution.tolist())


if __name__ == "__main__":
    raise SystemExit(main())
