"""`python dev.py run -- python -m benchmarks.standins --family flux-fill`: a small model in a stock layout, trained on
our scenes.

Nobody's checkpoints can be shipped or downloaded here, so what a stock model loses to reuse is measured on these: the
host's own classes at a small width, trained through the host's own `apply_model` with the shipped VAE and text encoder,
both frozen.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lazy_core.attention import plain
from lazy_core.checkpoint import load_model
from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.masks import threshold
from lazy_core.model import LazyDiffusion
from lazy_core.tokens import patchify
from training.loop.examples import Examples, noise_levels
from training.loop.objective import optimizers, token_loss
from training.loop.precision import mixed_precision, optimizer_for
from training.loop.record import RunRecord, learning_rate, progress_fraction
from training.loop.scene_source import PoolSettings, ScenePool
from training.scenery.captions import CaptionTable
from training.scenery.scenes import SpriteSheet

from .standin_models import FAMILIES, PATCH, build, concat_of, save_stand_in, start_from
from .stock import load_pack

SHIPPED = "shipped.safetensors"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.standins", description=(__doc__ or "").partition(": ")[2].partition("\n\n")[0]
    )
    parser.add_argument("--family", choices=FAMILIES, default="flux-fill")
    parser.add_argument("--out", type=Path, default=None, help="default: training/runs/standin-FAMILY")
    parser.add_argument(
        "--shipped",
        type=Path,
        default=Path("models/fluent-small.safetensors"),
        help="whose VAE and text encoder to use",
    )
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument(
        "--objects", type=int, default=None, help="only the first so many objects: learned in a fraction of the time"
    )
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps instead")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pool", type=int, default=1536)
    parser.add_argument("--fresh", type=int, default=2)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out = args.out or Path(f"training/runs/standin-{args.family}")
    load_pack()
    Trainer(args).run()
    return 0


def few_objects(sheet: SpriteSheet, count: int | None) -> SpriteSheet:
    return sheet if count is None else replace(sheet, sprites=sheet.sprites[:, :count], names=sheet.names[:count])


@dataclass(frozen=True)
class Prompts:
    """The shipped text encoder, frozen: ids [B, L] -> what a stock CLIP would give, [B, L, T] and pooled [B, T]."""

    model: LazyDiffusion

    @torch.no_grad()
    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        assert self.model.text is not None
        text = self.model.text(ids).float()
        return text, text.mean(1)


class Trainer:
    def __init__(self, args: argparse.Namespace):
        self.args, kind = args, FAMILIES[args.family]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        self.generator = torch.Generator(self.device).manual_seed(args.seed)
        sheet = few_objects(SpriteSheet.load(args.data, self.device), args.objects)
        shipped, checkpoint = load_model(args.shipped)
        shipped.to(self.device).requires_grad_(False)
        captions = CaptionTable(sheet.names, checkpoint.tokenizer, self.device)
        settings = PoolSettings(kind.size, "image", args.batch, 1, args.pool, args.fresh)
        self.source = ScenePool(sheet, shipped, captions, settings, self.generator).examples()
        self.prompts, self.base = Prompts(shipped), build(args.family)
        if kind.clean:
            start_from(self.base.diffusion_model, shipped.transformer.decoder)
        self.transformer = self.base.to(self.device).diffusion_model.requires_grad_(True)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.transformer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
        )
        self.optimizers = optimizers(
            self.transformer, optimizer_for(self.device), args.lr, block="blocks.", apart="mod"
        )
        for module in self.transformer.modules():
            # The host's blocks, being for inference, add in place to what their norms were given
            if isinstance(module, nn.LayerNorm):
                module.register_forward_pre_hook(lambda _, given: tuple(x.clone() for x in given))
        args.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(args.shipped, args.out / SHIPPED)  # the next shipped model's text encoder will be another one
        self.record = RunRecord(args.out / "record.json", vars(args))

    def run(self) -> None:
        args, begun, saved, step = self.args, time.monotonic(), time.monotonic(), 0
        bar = tqdm(desc=args.family, unit="step")
        while (done := progress_fraction(step, args.steps, begun, None if args.steps else args.minutes)) < 1:
            loss = self.step(next(self.source), learning_rate(args.lr, done, warmup=0.03))
            step += 1
            bar.update()
            if step % 20 == 0:
                self.record.add(step, loss=float(loss))
                bar.set_postfix(loss=f"{float(loss):.4f}", done=f"{100 * done:.1f}%")
            if time.monotonic() - saved > 300:
                self.save()
                saved = time.monotonic()
        self.save()
        self.record.finish(steps=step)

    def step(self, examples: Examples, rate: float) -> Tensor:
        scenes = examples.scenes
        clean, hole = scenes.target.float(), scenes.hole
        sigma = noise_levels(len(clean), 1, self.generator)
        level = sigma.view(-1, 1, 1, 1)
        noise = torch.randn(clean.shape, generator=self.generator, device=self.device)
        text, pooled = self.prompts.encode(examples.text)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        concat = concat_of(self.base, scenes.canvas, scenes.mask)
        with mixed_precision(self.device):
            x0 = denoised(self.base, (1 - level) * clean + level * noise, sigma, text, pooled, concat)
        predicted, wanted = (patchify(x, PATCH) for x in (x0, clean))
        loss = token_loss(predicted, wanted, parametrisation("flow_x0").loss_weight(sigma), torch.ones_like(hole), hole)
        loss.backward()
        nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(self.transformer)
        return loss.detach()

    def save(self) -> None:
        """The averaged transformer, in one move."""
        new = self.args.out / "model.new.safetensors"
        save_stand_in(self.average.module, new, {"family": self.args.family, "objects": self.args.objects})
        os.replace(new, self.args.out / "model.safetensors")


def denoised(base: Any, x: Tensor, sigma: Tensor, text: Tensor, pooled: Tensor, concat: Tensor | None) -> Tensor:
    """Clean latent [B, C, h, w] as the host's own `apply_model` gives it, with attention that trains fast."""
    import comfy.ldm.pixart.blocks
    import comfy.model_management

    comfy.ldm.pixart.blocks.optimized_attention = attention  # PixArt hands its attention no options
    comfy.model_management.in_training = True  # later hosts: a rotary embedding that can be differentiated
    options = {"optimized_attention_override": lambda _, *given, **named: attention(*given, **named)}
    return base.apply_model(x, sigma, concat, text, None, options, y=pooled)


def attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None, skip_reshape: bool = False, **_: Any
) -> Tensor:
    """For the host's calls: q, k, v [B, L, H d], or [B, H, L, d] with `skip_reshape` -> [B, L, H d]."""
    if not skip_reshape:
        q, k, v = (x.flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    attend = plain if q.device.type == "cpu" else F.scaled_dot_product_attention
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


def aligned(mask: Tensor) -> Tensor:
    """Masks [B, 1, H, W] grown to whole latents, as `concat_of` sees them."""
    coarse = nn.functional.max_pool2d(threshold(mask).float(), 8)
    return coarse.repeat_interleave(8, 2).repeat_interleave(8, 3)


if __name__ == "__main__":
    raise SystemExit(main())
