"""`python -m training.autoencoder`: train the tiny VAE on crops of scenes (L1 + gradient loss, noisy latents).

With `--decoder` its decoder alone goes on: latents stay what they were, and with them every diffusion model trained on
them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.config import PRESETS
from lazy_core.vae.tiny import TinyVAE

from .loop.precision import channels_last, mixed_precision
from .loop.record import RunRecord, learning_rate, progress_fraction, summary
from .scenery.scenes import SpriteSheet, compose

LATENT_NOISE = 0.1  # on latents bounded to +-3: small errors of the diffusion model must decode to small errors


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.autoencoder", description=summary(__doc__))
    parser.add_argument("--preset", default="fluent-small", choices=[k for k, v in PRESETS.items() if v.vae])
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("training/runs/vae"))
    parser.add_argument(
        "--init", type=Path, default=None, help="weights or a whole model to start from; mean and deviation stay"
    )
    parser.add_argument("--decoder", action="store_true", help="train the decoder alone; needs --init")
    parser.add_argument(
        "--into", type=Path, nargs="*", default=[], help="models of the same latents: --out gets copies with this VAE"
    )
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--minutes", type=float, default=None, help="stop by the clock instead, schedule included")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pool", type=int, default=2048, help="scenes held in memory; crops are drawn from them")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.decoder and args.init is None:
        parser.error("--decoder needs --init: the encoder whose latents the decoder shall read.")
    train(args)
    return 0


def train(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    sheet = SpriteSheet.load(args.data, device)
    vae_config = PRESETS[args.preset].vae
    assert vae_config is not None
    vae = channels_last(TinyVAE(vae_config).to(device))
    if args.init:
        vae.load_state_dict(vae_weights(args.init))
    vae.encoder.requires_grad_(not args.decoder)
    average = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998), use_buffers=True
    )
    averaged = cast(TinyVAE, average.module)
    optimizer = torch.optim.AdamW([p for p in vae.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    args.out.mkdir(parents=True, exist_ok=True)
    record = RunRecord(args.out / "record.json", vars(args))
    held_out = compose(sheet, 64, 256, torch.Generator(device).manual_seed(10_000)).image * 2 - 1
    pool = torch.cat(
        [
            (compose(sheet, 64, 256, generator).image * 255).to(torch.uint8)
            for _ in tqdm(range(args.pool // 64), desc="scenes")
        ]
    )
    start, step, bar = time.monotonic(), 0, tqdm(desc="vae", unit="step")
    while (done := progress_fraction(step, args.steps, start, args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(args.lr, done, warmup=0.02)
        loss = reconstruction_loss(vae, crops(pool, args.batch, generator))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(vae)
        step += 1
        bar.update()
        if step % 100 == 0:
            # Scenes are replaced a few at a time: the pool bounds memory, not variety.
            fresh = (compose(sheet, 32, 256, generator).image * 255).to(torch.uint8)
            pool[torch.randint(len(pool), (32,), generator=generator, device=device)] = fresh
            record.add(step, loss=loss.item())
        if step % 500 == 0:
            quality = psnr(averaged, held_out)
            bar.set_postfix(loss=f"{loss.item():.4f}", psnr=f"{quality:.2f} dB")
            record.add(step, psnr=quality)
            save(averaged, None if args.init else held_out, args.out)
    save(averaged, None if args.init else held_out, args.out)
    record.add(step, psnr=psnr(averaged, held_out))
    record.finish(steps=step)
    for path in args.into:
        transplant(averaged, path, args.out / f"{path.parent.name}-{path.name}")


def vae_weights(path: Path) -> dict[str, Tensor]:
    """Of a file that this command wrote, or of a whole model."""
    weights = load_file(path)
    inside = {key.removeprefix("vae."): value.float() for key, value in weights.items() if key.startswith("vae.")}
    return inside or weights


def transplant(vae: TinyVAE, source: Path, target: Path) -> None:
    """Write the model `source` with `vae` in the place of its own. Raises ValueError when the latents are others."""
    model, checkpoint = load_model(source, dtype=None)
    own = checkpoint.part("vae.")
    given = {key: value.to(own[key].dtype) for key, value in vae.state_dict().items()}
    other = sorted(
        key for key, value in given.items() if not key.startswith("decoder.") and not torch.equal(value, own[key])
    )
    if other:
        raise ValueError(
            f"{source} was trained on another encoder's latents ({other[0]} differs). Train with --init {source}"
            " --decoder."
        )
    assert model.vae is not None
    model.vae.load_state_dict(given)
    save_checkpoint(target, model, checkpoint.tokenizer, None, **checkpoint.notes)


def crops(pool: Tensor, count: int, generator: torch.Generator, size: int = 128) -> Tensor:
    """Random crops [count, 3, size, size] in -1..1 at multiples of 4 px."""
    draw = lambda high: torch.randint(high, (count,), generator=generator, device=pool.device).tolist()  # noqa: E731
    steps = (pool.shape[-1] - size) // 4 + 1
    parts = [
        pool[i, :, 4 * y : 4 * y + size, 4 * x : 4 * x + size]
        for i, y, x in zip(draw(len(pool)), draw(steps), draw(steps), strict=True)
    ]
    return (torch.stack(parts).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def reconstruction_loss(vae: TinyVAE, image: Tensor) -> Tensor:
    with mixed_precision(image.device):
        latent = vae.encoder(image)
        noisy = latent + LATENT_NOISE * torch.randn_like(latent)
        output = vae.decoder(noisy).float()
    gradient = (gradients(output)[0] - gradients(image)[0]).abs().mean() + (
        gradients(output)[1] - gradients(image)[1]
    ).abs().mean()
    coarse = F.l1_loss(F.avg_pool2d(output, 8), F.avg_pool2d(image, 8))
    return F.l1_loss(output, image) + 0.5 * gradient + 0.5 * coarse + 1e-4 * latent.float().square().mean()


def gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


@torch.no_grad()
def psnr(vae: TinyVAE, image: Tensor) -> float:
    """PSNR in dB over held-out scenes of images in -1..1."""
    with mixed_precision(image.device):
        output = torch.cat([vae.decode(vae.encode(part)).float() for part in image.split(16)])
    return -10 * torch.log10(((output.clamp(-1, 1) - image) / 2).square().mean()).item()


@torch.no_grad()
def save(vae: TinyVAE, image: Tensor | None, folder: Path) -> None:
    """Write the file; measure the latents' mean and deviation on `image` first, if given (a model trained on them wants
    the old ones).
    """
    if image is not None:
        latent = torch.cat([vae.encoder(part) for part in image.split(16)])
        vae.mean.copy_(latent.mean((0, 2, 3), keepdim=True))
        vae.std.copy_(latent.std((0, 2, 3), keepdim=True))
    save_file(
        {k: v.contiguous() for k, v in vae.state_dict().items()},
        folder / "vae.safetensors",
        metadata={"config": repr(vae.config)},
    )


if __name__ == "__main__":
    raise SystemExit(main())
