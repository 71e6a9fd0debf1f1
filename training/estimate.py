"""`python -m training.estimate`: what a training at scale costs, with its arithmetic: operations, memory, storage,
days.
"""

from __future__ import annotations

import argparse

import torch

from lazy_core.config import PRESETS, LazyConfig
from lazy_core.cost import encoder_flops, step_flops
from lazy_core.networks.layers import Build
from lazy_core.networks.transformer import LazyTransformer

from .loop.record import summary

PASSES = 3  # forward, and a backward pass of twice its products
STATE = (
    4 + 4 + 4 + 4 + 8
)  # bytes a parameter: weight, gradient and its bucket, average, AdamW's two moments, all float32


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.estimate", description=summary(__doc__))
    parser.add_argument("--preset", default="pixart-xl", choices=list(PRESETS))
    parser.add_argument("--size", type=int, default=1024, help="canvas in px")
    parser.add_argument("--hole", type=float, default=0.2, help="mean share of the canvas that masks cover")
    parser.add_argument("--draws", type=int, default=1, help="noise levels a sample and step")
    parser.add_argument("--text-tokens", type=int, default=120)
    parser.add_argument("--samples", type=float, default=50e6, help="samples seen in training")
    parser.add_argument("--stored", type=float, default=10e6, help="samples on disk")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--tflops", type=float, default=989, help="a GPU's dense bf16 peak")
    parser.add_argument(
        "--utilisation", type=float, default=0.35, help="share of the peak that training reaches: measure yours"
    )
    args = parser.parse_args(argv)
    print("\n".join(estimate(PRESETS[args.preset], args)))
    return 0


def estimate(config: LazyConfig, args: argparse.Namespace) -> list[str]:
    tokens = (args.size // config.token_pixels) ** 2
    hole = round(tokens * args.hole)
    encode = encoder_flops(config, tokens)
    decode, whole = (args.draws * step_flops(config, count, args.text_tokens) for count in (hole, tokens))
    sample, baseline = PASSES * (encode + decode), PASSES * (encode + whole)
    days = args.samples * sample / (args.gpus * args.tflops * 1e12 * args.utilisation) / 86400
    parameters = sum(p.numel() for p in LazyTransformer(config, Build(device="meta", dtype=torch.float32)).parameters())
    latent = config.latent_channels * (args.size // config.latent_scale) ** 2 * 2
    text = args.text_tokens * config.caption_width * 2 if config.text is None else 100
    stored = 2 * latent + latent // config.latent_channels // 2 + text
    return [
        (
            f"{config.preset} at {args.size} px: {tokens} tokens, {hole} of them in a hole of {args.hole:.0%};"
            f" {parameters / 1e6:.0f} M parameters"
        ),
        (
            f"a sample: {PASSES} x (encoder {encode / 1e12:.2f} + {args.draws} x decoder"
            f" {decode / args.draws / 1e12:.2f} TFLOP) = {sample / 1e12:.1f} TFLOP (all tokens, as RegenerateImage:"
            f" {baseline / 1e12:.1f})"
        ),
        (
            f"{args.samples:.3g} samples on {args.gpus} GPUs at {args.utilisation:.0%} of {args.tflops:.0f} TFLOP/s:"
            f" {days:.1f} days"
        ),
        (
            f"memory of weights, gradients, average and AdamW: {STATE * parameters / 1e9:.1f} GB on each GPU"
            f" ({(STATE - 8 + 8 / args.gpus) * parameters / 1e9:.1f} GB with --shard-optimizer), activations beside it"
        ),
        (
            f"storage: {stored / 1e6:.2f} MB a sample (two latents {2 * latent / 1e6:.2f}, text {text / 1e6:.2f}),"
            f" {args.stored * stored / 1e12:.1f} TB for {args.stored:.3g}"
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
