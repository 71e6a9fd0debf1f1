"""`python -m training.train --preset fluent-small`: train encoder, decoder and text encoder together, resumable.

Rectified flow on the hole's tokens; the network predicts the clean latent and is weighted as a velocity loss. The
context encoder runs once per scene, the decoder on several noise levels of it, as at inference.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.config import PRESETS, LazyConfig
from lazy_core.geometry import Grid
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.networks.positions import grid_coordinates
from lazy_core.pixart import from_pixart
from lazy_core.text.tokenizer import Tokenizer
from lazy_core.vae.tiny import TinyVAE

from .loop.captured import CapturedSteps
from .loop.examples import Examples
from .loop.extended import extended
from .loop.method import METHOD_KEY, METHODS, SIZE_KEY
from .loop.objective import Objective, optimizers
from .loop.pool import to_latent
from .loop.precision import channels_last, mixed_precision, optimizer_for
from .loop.record import RunRecord, learning_rate, progress_fraction, summary
from .loop.scene_source import PoolSettings, ScenePool
from .loop.shards import Shards, Share, Steps
from .loop.team import Team
from .scenery.captions import CaptionTable, all_captions, grow_embedding, tokenizer_of
from .scenery.scenes import Recipe, SpriteSheet, compose

LICENCE = "MIT"
PROVENANCE = "Trained from scratch by this project's training/ on scenes composed of Microsoft's Fluent emoji (MIT)."


VAE = Path("training/runs/vae/vae.safetensors")
DECODER_ONLY = ("transformer.decoder.", "transformer.context_encoder.fill_embedder.")  # what --decoder-only trains

READER = ("transformer.context_encoder.naming.", "text.")  # what --keep-reader leaves


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=summary(__doc__))
    parser.add_argument("--preset", default="fluent-small", choices=list(PRESETS))
    parser.add_argument(
        "--method", default="lazy", choices=METHODS, help="lazy, or a baseline: all tokens of the image, or of a crop"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("training/data/sprites.safetensors"),
        help="sprites, or a folder of training.precompute",
    )
    parser.add_argument("--vae", type=Path, default=None, help=f"default: {VAE}, or the one inside --init")
    parser.add_argument("--out", type=Path, default=Path("training/runs/model"))
    parser.add_argument("--init", type=Path, default=None, help="checkpoint whose weights to start from")
    parser.add_argument(
        "--init-pixart", type=Path, default=None, help="PixArt-alpha's weights for the decoder to start from"
    )
    parser.add_argument("--size", type=int, default=256, help="canvas in px")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--minutes", type=float, default=None, help="stop by the clock instead, schedule included")
    parser.add_argument("--batch", type=int, default=32, help="scenes a step, of all processes together")
    parser.add_argument("--draws", type=int, default=4, help="noise levels per scene and step")
    parser.add_argument("--pool", type=int, default=8192, help="encoded scenes held in memory")
    parser.add_argument("--fresh", type=int, default=2, help="scenes replaced per step")
    parser.add_argument(
        "--shift", type=float, default=0.0, help="share of steps with moved positions, for canvases larger than --size"
    )
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--style-weight", type=float, default=0.3, help="weight of the encoder's naming the scene's style"
    )
    parser.add_argument(
        "--style-guidance",
        type=float,
        default=None,
        help="for the checkpoint's config; default: the preset's, or --init's",
    )
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="train the decoder and what it is told of the canvas's fill; encoder, reader and text stay",
    )
    parser.add_argument(
        "--keep-reader", action="store_true", help="the reader of styles, what it tells, and the text encoder stay"
    )
    parser.add_argument(
        "--photographs", type=float, default=0.0, help="share of scenes on photographs (training.prepare --photographs)"
    )
    parser.add_argument(
        "--outward", type=float, default=0.0, help="share of those whose hole lies along the canvas's sides"
    )
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument(
        "--optimizer", choices=["muon", "adamw"], default=None, help="default: muon, on CPUs without AVX-512 adamw"
    )
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="on a GPU: no steps as CUDA graphs")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the blocks: minutes to start, then a sixth faster on a CPU",
    )
    parser.add_argument(
        "--shard-optimizer", action="store_true", help="many processes: each keeps its share of the optimizer's state"
    )
    parser.add_argument("--workers", type=int, default=0, help="processes that read shards ahead")
    parser.add_argument(
        "--float32", action="store_true", help="no bfloat16 in the networks (CPUs without AVX-512 never have it)"
    )
    parser.add_argument("--licence", default=LICENCE, help="of the weights, for the checkpoint's metadata")
    parser.add_argument("--provenance", default=PROVENANCE, help="of the weights, for the checkpoint's metadata")
    parser.add_argument("--record-every", type=int, default=20, help="steps between entries of the record")
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
    """Model, data and optimizers of a run; `run` goes on from where an earlier run with the same `--out` stopped."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.team = args, Team()
        self.device = self.team.device
        torch.manual_seed(args.seed)
        args.optimizer = args.optimizer or optimizer_for(self.device)
        self.shards = Shards.load(args.data) if args.data.is_dir() else None
        if self.shards is not None and args.method == "crop":
            raise ValueError(
                "precomputed shards hold whole squares, which --method crop cannot cut. Train it on the scenes."
            )
        if self.shards is None and self.team.size > 1:
            raise ValueError(
                "scenes are made by one process. Train several on precomputed shards (python -m training.precompute)."
            )
        if args.init and args.init_pixart:
            raise ValueError("--init and --init-pixart both say what to start from. Give one of them.")
        self.sheet = None if self.shards else SpriteSheet.load(args.data, self.device)
        if self.sheet and args.photographs:
            self.sheet = self.sheet.with_photographs(args.data.with_name("photographs.safetensors"), "train")
        self.model, self.tokenizer = self.build(PRESETS[args.preset])
        self.config = self.model.config
        self.size = self.shards.latent["size"] if self.shards else args.size
        side = self.size // 2 if args.method == "crop" else self.size
        self.grid = Grid(side, side, self.config.latent_scale, self.config.patch_size)
        self.coordinates = grid_coordinates(self.grid, self.config, self.device)
        self.shifted_coordinates = self.coordinates.clone()  # where this step has them
        self.objective = Objective(self.model, args.method, self.grid).to(self.device)
        self.objective.mean_count = self.team.mean
        self.generator = torch.Generator(self.device).manual_seed(args.seed)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema)
        )
        shared = args.shard_optimizer and self.team.size > 1
        args.graphs = (
            args.graphs and self.device.type == "cuda" and self.shards is None
        )  # a caption of shards may have any length
        self.optimizers = optimizers(self.objective, args.optimizer, args.lr, shared, captured=args.graphs)
        self.progress = Progress()
        args.out.mkdir(parents=True, exist_ok=True)
        self.resume()
        self.source = self.open_source()
        self.wrapped = self.team.wrap(self.objective)
        self.advance = CapturedSteps(self.learn, self.device) if args.graphs else self.learn
        settings = vars(args) | {"processes": self.team.size}
        self.record = RunRecord(args.out / "record.json", settings, self.progress.step) if self.team.rank == 0 else None
        if args.compile:
            for block in (*self.model.transformer.context_encoder.blocks, *self.model.transformer.decoder.blocks):
                block.compile(dynamic=True)

    def build(self, config: LazyConfig) -> tuple[LazyDiffusion, Tokenizer | None]:
        """A fresh model around the trained VAE, or the whole of `--init` with new words added; the VAE is never trained
        here.
        """
        args = self.args
        known, model = None, None
        if args.init:
            model, checkpoint = load_model(args.init)
            config, known = model.config, checkpoint.tokenizer
        if self.shards:
            self.shards.check(config)
        tokenizer = self.words(config, known)
        if model is None:
            vae = load_vae(config, args.vae)
            if vae is not None and self.sheet:
                config = replace(config, latent_rgb=preview_factors(self.sheet, vae.to(self.device)))
            model = LazyDiffusion(config)
            initialise(model, torch.Generator().manual_seed(args.seed))
            model.vae = vae
            if args.init_pixart:
                model.transformer = from_pixart(pixart_weights(args.init_pixart), config)
        elif args.vae and model.vae is not None:
            model.vae.load_state_dict(load_file(args.vae))
        if tokenizer is not None:
            model = grow_embedding(model, len(tokenizer.words))
        if self.sheet:
            styles = len(self.sheet.styles)
            guidance = model.config.style_guidance if args.style_guidance is None else args.style_guidance
            model = extended(
                model,
                replace(
                    model.config, edges=True, fill=True, styles=styles if styles > 1 else 0, style_guidance=guidance
                ),
            )
        elif model.transformer.decoder.edge_embedder is not None:
            model.transformer.decoder.edge_embedder.requires_grad_(False)  # shards bring no drawings
        if model.vae is not None:
            channels_last(model.vae.requires_grad_(False))
        if args.decoder_only:  # what is frozen already stays so
            for name, parameter in model.named_parameters():
                if not name.startswith(DECODER_ONLY):
                    parameter.requires_grad_(False)
        if args.keep_reader:
            for name, parameter in model.named_parameters():
                if name.startswith(READER):
                    parameter.requires_grad_(False)
        return model.to(self.device), tokenizer

    def words(self, config: LazyConfig, known: Tokenizer | None) -> Tokenizer | None:
        """A tokenizer for all captions that the data may ask for; None for a model whose captions come as
        embeddings.
        """
        if config.text is None and self.shards is None:
            kind = config.preset or self.args.init
            raise ValueError(
                f"scenes have captions in words, which {kind} cannot read. Give --data a folder of training.precompute."
            )
        if config.text is None:
            return None
        captions = self.shards.captions() if self.shards else all_captions(self.sheet.names if self.sheet else [])
        return tokenizer_of(captions, config.text.length, known)

    def open_source(self) -> Iterator[Examples]:
        """Examples from the step on that the run has come to."""
        args = self.args
        if self.shards is None:
            assert self.sheet and self.tokenizer
            recipe = Recipe(photographs=args.photographs, outward=args.outward) if args.photographs else None
            settings = PoolSettings(
                args.size,
                args.method,
                args.batch,
                args.draws,
                args.pool,
                args.fresh,
                few_shapes=args.graphs,
                recipe=recipe,
            )
            captions = CaptionTable(self.sheet.names, self.tokenizer, self.device)
            return ScenePool(self.sheet, self.model, captions, settings, self.generator).examples()
        share = Share(args.batch, args.draws, args.seed, self.team.rank, self.team.size)
        steps = Steps(self.shards, self.config, self.tokenizer, share, everything=args.method == "image")
        return iter(
            DataLoader(steps, batch_size=None, sampler=itertools.count(self.progress.step), num_workers=args.workers)
        )  # type: ignore[arg-type]

    # -- the loop -------------------------------------------------------------------------------------------------
    def run(self) -> None:
        args, begun, saved = self.args, time.monotonic() - self.progress.seconds, time.monotonic()
        bar = tqdm(desc=args.preset, unit="step", initial=self.progress.step, disable=self.team.rank > 0)
        self.objective.train()
        if args.decoder_only or args.keep_reader:
            self.model.transformer.context_encoder.eval()  # it tells a style as it will in use
        while (done := self.done(begun)) < 1:
            losses = self.step(next(self.source).to(self.device), learning_rate(1.0, done, warmup=0.03))
            self.progress.step += 1
            self.progress.seconds = time.monotonic() - begun
            bar.update()
            if self.progress.step % args.record_every == 0 or self.progress.step == 1:
                figures = {name: float(self.team.mean(loss)) for name, loss in losses.items()}
                bar.set_postfix(
                    {name: f"{value:.4f}" for name, value in figures.items()} | {"done": f"{100 * done:.1f}%"}
                )
                if self.record:
                    self.record.add(self.progress.step, **figures)
            if self.team.agrees(time.monotonic() - saved > 60 * args.save_minutes):
                self.save()
                saved = time.monotonic()
        self.save()
        if self.record:
            self.record.finish(steps=self.progress.step, batch=args.batch, draws=args.draws)

    def done(self, begun: float) -> float:
        """The part of the run that is over, 0..1; by process 0's clock."""
        done = progress_fraction(self.progress.step, self.args.steps, begun, self.args.minutes)
        return self.team.first(done) if self.args.minutes else done

    def step(self, examples: Examples, rate: float) -> dict[str, Tensor]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * group["peak"])
                else:
                    group["lr"] = rate * group["peak"]
        self.shifted_coordinates.copy_(self.coordinates + self.shift())
        losses = self.advance(examples)
        self.average.update_parameters(self.model)
        return losses

    def learn(self, examples: Examples) -> dict[str, Tensor]:
        """Forward, backward and the optimizers' step."""
        with mixed_precision(self.device, wanted=not self.args.float32):
            losses = self.wrapped(examples, self.shifted_coordinates)
        style_weight = 0.0 if self.shards else self.args.style_weight  # nobody has said what styles shards are in
        (losses["loss"] + style_weight * losses["naming"]).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {name: loss.detach() for name, loss in losses.items()}

    def shift(self) -> Tensor:
        """A share `--shift` of the steps sees the grid moved by up to its own size: larger canvases then meet no
        unknown position.

        Off by default: on a short run the network learns relative places much later with it.
        """
        dice = torch.Generator().manual_seed(self.args.seed * 1_000_003 + self.progress.step)
        if torch.rand((), generator=dice) >= self.args.shift:
            return torch.zeros(2, device=self.device)
        side = max(self.grid.rows, self.grid.cols)
        return torch.randint(side + 1, (2,), generator=dice).float().to(self.device)

    # -- files ----------------------------------------------------------------------------------------------------
    def save(self) -> None:
        """The averaged model as a checkpoint of ours, and everything that a resumed run needs; each replaced in one
        move.
        """
        states = self.team.states(self.optimizers)
        if self.team.rank > 0:
            return self.team.wait()
        out = self.args.out
        averaged: LazyDiffusion = self.average.module  # type: ignore[assignment]
        notes = {"licence": self.args.licence, "provenance": self.args.provenance}
        if self.sheet and self.sheet.photographs:
            notes["attribution"] = self.sheet.photographs.attribution
        notes |= {METHOD_KEY: self.args.method, SIZE_KEY: str(self.size)}
        save_checkpoint(out / "model.new.safetensors", averaged, self.tokenizer, torch.float16, **notes)
        os.replace(out / "model.new.safetensors", out / "model.safetensors")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": states,
            "progress": vars(self.progress),
        }
        if self.shards is None:
            state["generator"] = self.generator.get_state()
        torch.save(state, out / "state.new.pt")
        os.replace(out / "state.new.pt", out / "state.pt")
        self.team.wait()

    def resume(self) -> None:
        path = self.args.out / "state.pt"
        if self.team.first(float(path.exists())) != path.exists():
            raise ValueError(
                f"process {self.team.rank} does not see what process 0 does at {path}. All machines must share --out."
            )
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["model"].keys() != self.model.state_dict().keys():
            raise ValueError(
                f"{path} is of an earlier version. Start a new --out with --init {path.parent / 'model.safetensors'}."
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            fresh = [
                {name: group[name] for name in ("lr", "capturable", "fused") if name in group}
                for group in optimizer.param_groups
            ]
            optimizer.load_state_dict(values)
            for group, own in zip(optimizer.param_groups, fresh, strict=True):
                group.update(own)  # the run before may have had graphs where this one has none, or the other way round
            for kept in optimizer.state.values() if self.team.size == 1 else ():
                if "step" in kept:
                    kept["step"] = torch.as_tensor(
                        kept["step"], dtype=torch.float32, device=self.device if self.args.graphs else "cpu"
                    )
        self.progress = Progress(**state["progress"])
        if self.shards is None:
            self.generator.set_state(state["generator"].cpu())
        if self.team.rank == 0:
            print(f"resumed {path} at step {self.progress.step}")


def load_vae(config: LazyConfig, path: Path | None) -> TinyVAE | None:
    if config.vae is None:
        return None
    vae = TinyVAE(config.vae)
    vae.load_state_dict(load_file(path or VAE))
    return vae


def pixart_weights(path: Path) -> dict[str, Tensor]:
    """PixArt-alpha's original layout, as a .safetensors file or as its .pth (read without unpickling code)."""
    if path.suffix == ".safetensors":
        return load_file(path)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return weights.get("state_dict", weights)


def preview_factors(sheet: SpriteSheet, vae: TinyVAE) -> tuple[tuple[float, float, float], ...]:
    """Least squares from latents to small RGB pictures in -1..1: what step previews show."""
    scenes = compose(sheet, 16, 256, torch.Generator(vae.mean.device).manual_seed(1))
    latent = to_latent(vae, scenes.image).movedim(1, -1).flatten(0, 2)
    colour = (F.avg_pool2d(scenes.image, 8) * 2 - 1).movedim(1, -1).flatten(0, 2)
    return tuple(tuple(round(x, 4) for x in row) for row in torch.linalg.lstsq(latent, colour).solution.tolist())


if __name__ == "__main__":
    raise SystemExit(main())
