"""`python -m training.matte`: train the network that tells an object in a hole from its background, and nothing else.

First the checkpoint paints empty holes on training canvases: these are the backgrounds that it makes. Then it draws
objects on plain colours, from which they can be told. These and sprites are put on the backgrounds with shadows, so
that what is the object is known, and go through the VAE.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from lazy_core.blend.prefill import prefill
from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.editor import LazyEditor
from lazy_core.masks import threshold
from lazy_core.model import LazyDiffusion
from lazy_core.networks.matte import ObjectMatte
from lazy_core.text.removal import NOTHING
from lazy_core.vae.tiny import TinyVAE

from .loop.extended import extended
from .loop.record import RunRecord, learning_rate, summary
from .scenery.draw import Draw
from .scenery.rows import Rows, cat
from .scenery.scenes import Recipe, Scenes, SpriteSheet, compose, fade, lights, place, shade

SIZE, PART = 256, 8
ABSENT = 0.05  # share of holes without an object: where a prompt asks for none, nobody asks this network
SIZES = (0.55, 1.5)  # of objects relative to their hole's smaller side: people paint holes that an object fills
LEARNED, REPLACED = 4, 16  # batches between two changes of the pool, and how many of its pictures change then


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.matte", description=summary(__doc__))
    parser.add_argument("--init", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("training/runs/matte"))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--backgrounds", type=int, default=1536, help="holes that the checkpoint paints first")
    parser.add_argument("--drawn", type=int, default=768, help="objects that the checkpoint draws first")
    parser.add_argument("--pool", type=int, default=1024, help="pictures with sprites held in memory")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--record-every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.manual_seed(args.seed)
    model, checkpoint = load_model(args.init)
    sheet = SpriteSheet.load(args.data).with_photographs(args.data.with_name("photographs.safetensors"), "train")
    args.out.mkdir(parents=True, exist_ok=True)
    record = RunRecord(args.out / "record.json", vars(args))
    draw = Draw(torch.Generator().manual_seed(args.seed))
    editor = LazyEditor(model, checkpoint.tokenizer, checkpoint.identity, checkpoint.styles)
    backgrounds = painted(editor, sheet, draw, args.backgrounds, args.out)
    objects = drawn(editor, sheet, draw, args.drawn, args.out)
    model = extended(model, replace(model.config, matte=args.channels))
    train(model, Pool(sheet, model, backgrounds, objects, draw), args, record)
    assert sheet.photographs is not None
    notes = checkpoint.notes | {"attribution": sheet.photographs.attribution}
    save_checkpoint(args.out / "model.safetensors", model, checkpoint.tokenizer, torch.float16, **notes)
    record.finish(steps=args.steps, batch=args.batch)
    return 0


@dataclass(frozen=True)
class Pictures(Rows):
    """`image` [B, 3, H, W] whose `hole` [B, H, W] was painted, the canvas's smooth `fill`, and what is known of the
    hole: `alpha` and `light` [B, 1, H, W]. Stored as bytes.
    """

    image: Tensor
    fill: Tensor
    hole: Tensor
    alpha: Tensor
    light: Tensor


def painted(editor: LazyEditor, sheet: SpriteSheet, draw: Draw, count: int, out: Path) -> Pictures:
    """Let the checkpoint paint `count` empty holes; kept beside the weights, for another run."""
    path = out / f"backgrounds-{count}-{editor.identity[:8]}.pt"
    if path.is_file():
        return Pictures(**torch.load(path))
    parts = []
    recipe = Recipe(photographs=0.65, bare=0.2, outward=0.1, everything=0.0)
    for number in tqdm(range(0, count, PART), desc="backgrounds"):
        scenes = compose(sheet, PART, SIZE, draw.generator, recipe)
        hole = threshold(scenes.mask[:, 0])
        context = editor.encode(scenes.empty, scenes.mask[:, 0]).with_(texture=None)
        image = editor.decode(context, [NOTHING["en"][0]] * PART, number, 4, blend="none")
        parts.append(in_bytes(image, prefill(scenes.empty, hole), hole, *nothing(scenes)))
    found = cat(parts)
    torch.save(vars(found), path)
    return found


def drawn(editor: LazyEditor, sheet: SpriteSheet, draw: Draw, count: int, out: Path) -> Tensor:
    """Let the checkpoint draw objects on plain colours -> premultiplied sprites [N, 4, 128, 128] in 0..1 of those that
    stand out from them; kept beside the weights.
    """
    path = out / f"drawn-{count}-{editor.identity[:8]}.pt"
    if path.is_file():
        return torch.load(path)
    part = slice((SIZE - CUT) // 2, (SIZE + CUT) // 2)
    mask = torch.zeros(1, SIZE, SIZE)
    mask[:, part, part] = 1
    found: list[Tensor] = []
    for number in tqdm(range(0, count, PART), desc="objects"):
        colour = draw.uniform(PART, 3, 1, 1, low=0.25, high=1.0)
        style = sheet.styles[number // PART % len(sheet.styles)]
        context = editor.encode(colour.expand(-1, -1, SIZE, SIZE), mask, style).with_(texture=None)
        prompts = sheet.prompts(draw.integers(PART, high=len(sheet)))
        image = editor.decode(context, prompts, number, 4, blend="none")[..., part, part]
        found += [each for each in cut_out(image, colour) if KEPT[0] < float(each[3].mean()) < KEPT[1]]
    sprites = F.interpolate(torch.stack(found), (128, 128), mode="bilinear", antialias=True)
    torch.save(sprites, path)
    return sprites


CUT, KEPT = 144, (0.08, 0.75)  # px of a drawn object's hole; share of it that an object covers, or it was not found


def cut_out(image: Tensor, colour: Tensor) -> Tensor:
    """Objects on plain `colour` [B, 3, 1, 1], in whatever light -> premultiplied [B, 4, H, W]: what is of another hue,
    and what that encloses.
    """
    light = ((image * colour).sum(1, keepdim=True) / colour.square().sum(1, keepdim=True)).clamp(0.5, 1.02)
    apart = (image - light * colour).abs().amax(1, keepdim=True)
    alpha = ((apart - 0.05) / 0.12).clamp(0, 1)
    for each in alpha[:, 0]:
        inside = ndimage.binary_fill_holes((each > 0.5).numpy())
        labels, count = ndimage.label(inside)  # type: ignore[misc]
        large = [part for part in range(1, count + 1) if (labels == part).mean() > 0.01]
        whole = torch.from_numpy(ndimage.binary_erosion(inside, iterations=2))
        near = torch.from_numpy(ndimage.binary_dilation(np.isin(labels, large), iterations=2))
        each.copy_(torch.where(near, torch.where(whole, 1.0, each), 0.0))
    return torch.cat([(image - (1 - alpha) * light * colour).clamp_min(0) * (alpha > 0), alpha], 1)


def nothing(scenes: Scenes) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(scenes.mask), torch.ones_like(scenes.mask)


def in_bytes(image: Tensor, fill: Tensor, hole: Tensor, alpha: Tensor, light: Tensor) -> Pictures:
    image, fill, alpha, light = ((x * 255).round().byte() for x in (image, fill, alpha, light))
    return Pictures(image, fill, hole, alpha, light)


class Pool:
    """Pictures with sprites in painted holes, a few of which are replaced as training goes on."""

    def __init__(self, sheet: SpriteSheet, model: LazyDiffusion, backgrounds: Pictures, objects: Tensor, draw: Draw):
        assert model.vae is not None
        self.sheet, self.vae, self.backgrounds, self.objects, self.draw = sheet, model.vae, backgrounds, objects, draw

    def made(self, count: int) -> Pictures:
        """Put sprites into `count` holes."""
        return cat([self.part() for _ in tqdm(range(0, count, PART), desc="pictures", disable=count < 256)])

    @torch.no_grad()
    def part(self) -> Pictures:
        draw, count = self.draw, PART
        under = self.backgrounds.take(draw.integers(count, high=len(self.backgrounds.hole)))
        image, fill = under.image.float() / 255, under.fill.float() / 255
        mask = under.hole[:, None].float()
        layer = self.layers(mask)
        light = shade(layer, lights(draw, count) * 0.3 * draw.uniform(count, 1, low=0.1, high=0.4), fade(mask))
        shown = ((draw.uniform(count) > ABSENT).float()).view(-1, 1, 1, 1)
        layer, light = layer * mask * shown, torch.where((mask * shown) > 0, light, 1.0)
        pasted = image * light * (1 - layer[:, 3:]) + layer[:, :3]
        pasted = torch.where(mask > 0.5, through(self.vae, pasted), image)
        tint = 1 - 0.3 * draw.uniform(count, 3, 1, 1) * (draw.uniform(count, 1, 1, 1) < 0.3)
        return in_bytes(pasted * tint, fill * tint, under.hole, layer[:, 3:], light)

    def layers(self, mask: Tensor) -> Tensor:
        """Sprites [B, 4, H, W] where the holes [B, 1, H, W] have their middle, as large as these."""
        draw, count = self.draw, len(mask)
        ramp = (torch.arange(SIZE) + 0.5) / SIZE
        across, down = mask.amax(2)[:, 0] > 0, mask.amax(3)[:, 0] > 0
        sides = torch.stack([across.float().mean(1), down.float().mean(1)], 1)
        middle = torch.stack([(x * ramp).sum(1) / x.sum(1).clamp_min(1) for x in (across.float(), down.float())], 1)
        side = sides.amin(1, keepdim=True) * draw.uniform(count, 1, low=SIZES[0], high=SIZES[1])
        centre = middle + (draw.uniform(count, 2) - 0.5) * (sides - side).clamp_min(0.1 * sides)
        sprites = self.sheet.sprites
        chosen = sprites[draw.integers(count, high=len(sprites)), draw.integers(count, high=sprites.shape[1])]
        own = self.objects[draw.integers(count, high=len(self.objects))]
        chosen = torch.where(draw.uniform(count, 1, 1, 1) < 0.5, own, chosen)
        return place(chosen, torch.cat([centre, side.clamp(0.08, 0.9)], 1), SIZE)


def through(vae: TinyVAE, image: Tensor) -> Tensor:
    """Images [B, 3, H, W] in 0..1 encoded and decoded."""
    return ((vae.decode(vae.encode(image * 2 - 1)) + 1) / 2).clamp(0, 1)


def train(model: LazyDiffusion, pool: Pool, args: argparse.Namespace, record: RunRecord) -> None:
    """Fits `matte` in place; all other weights stay as they are."""
    matte = model.transformer.matte
    assert matte is not None
    model.requires_grad_(False)
    matte.requires_grad_(True)
    held = pool.made(args.pool)
    optimizer = torch.optim.AdamW(matte.parameters(), lr=args.lr, weight_decay=1e-4)
    for step in tqdm(range(1, args.steps + 1), desc="matte"):
        if step % LEARNED == 0:
            held.put(torch.randperm(len(held.hole), generator=pool.draw.generator)[:REPLACED], pool.made(REPLACED))
        batch = held.take(pool.draw.integers(args.batch, high=len(held.hole)))
        loss, wrong = step_of(matte, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(matte.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.lr, step / args.steps, warmup=0.04)
        optimizer.step()
        if step % args.record_every == 0 or step == 1:
            record.add(step, loss=loss.item(), wrong=wrong.item())


def step_of(matte: ObjectMatte, batch: Pictures) -> tuple[Tensor, Tensor]:
    """-> loss: cross-entropy of what is the object's, and how far its shadow's light is from the true one; and the mean
    error of alpha in the hole.
    """
    mask = batch.hole[:, None].float()
    alpha, light = matte(batch.image.float() / 255, batch.fill.float() / 255, batch.hole)
    true, lit = batch.alpha.float() / 255, batch.light.float() / 255
    count = mask.sum()
    entropy = F.binary_cross_entropy(alpha.clamp(1e-5, 1 - 1e-5), true, reduction="none")
    shadow = (light - lit).abs() * (1 - true)
    return ((entropy + 2 * shadow) * mask).sum() / count, ((alpha - true).abs() * mask).sum() / count


if __name__ == "__main__":
    raise SystemExit(main())
