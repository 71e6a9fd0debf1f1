"""`python -m training.average BEFORE AFTER --share 0.5 --out FILE`: a checkpoint on the line between one and what it
became by training.

Weights of a fine-tuned network, averaged with those it started from, often keep what it knew and most of what it
learned (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from lazy_core.checkpoint import load_model, read_checkpoint, save_checkpoint
from lazy_core.model import LazyDiffusion

from .loop.record import summary
from .scenery.photographs import PhotographSheet


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.average", description=summary(__doc__))
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of `after`, 0 to 1")
    parser.add_argument("--style-guidance", type=float, default=None, help="for the config; default: that of `after`")
    parser.add_argument("--style-emphasis", type=float, default=None, help="for the config; default: that of `after`")
    parser.add_argument(
        "--style-prior",
        type=float,
        default=0.0,
        help="added to the first style's logit: what a canvas has that shows none",
    )
    parser.add_argument(
        "--object-prior", type=float, default=0.0, help="added to the logit that a pixel of the hole is the object's"
    )
    parser.add_argument("--matte", type=Path, default=None, help="a checkpoint whose matte to take, as it is")
    parser.add_argument(
        "--credit",
        type=Path,
        default=None,
        help="photographs.safetensors whose training split the weights were made from",
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    model, read = load_model(args.after)
    given = {name: getattr(args, name) for name in ("style_guidance", "style_emphasis")}
    config = replace(model.config, **{name: value for name, value in given.items() if value is not None})
    result = LazyDiffusion(config)
    result.load_state_dict(between(read_checkpoint(args.before).weights, model.state_dict(), args.share))
    if args.matte:
        take_matte(result, load_model(args.matte)[0])
    if args.style_prior:
        prefer_first_style(result, args.style_prior)
    if args.object_prior:
        prefer_object(result, args.object_prior)
    credit = {"attribution": PhotographSheet.load(args.credit, "train").attribution} if args.credit else {}
    save_checkpoint(args.out, result, read.tokenizer, torch.float16, **read.notes | credit)
    return 0


def take_matte(model: LazyDiffusion, other: LazyDiffusion) -> None:
    """Give a model the matte of another that was trained from the same one. Raises ValueError where either has none."""
    own, theirs = model.transformer.matte, other.transformer.matte
    if own is None or theirs is None:
        raise ValueError("--matte needs two models with a matte (training.matte). Leave it out.")
    own.load_state_dict(theirs.state_dict())


def between(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], share: float) -> dict[str, torch.Tensor]:
    """`share` of the way from `before` to `after`. Parts that `before` lacks started at zero (`loop.extended`).

    Raises ValueError for a share outside 0..1, parts that `after` lacks, or other shapes.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"--share is {share}, expected 0 (the file before) to 1 (the file after).")
    if strange := before.keys() - after.keys():
        raise ValueError(
            f"{sorted(strange)[0]} is in the file before, not in the one after: they must be of one model."
        )
    if strange := [name for name, value in before.items() if value.shape != after[name].shape]:
        first = strange[0]
        raise ValueError(
            f"{first} is {list(before[first].shape)} before and {list(after[first].shape)} after: they must be of one"
            " model."
        )
    start = {name: before.get(name, torch.zeros_like(value)).to(value) for name, value in after.items()}
    return {name: torch.lerp(start[name], value, share) for name, value in after.items()}


@torch.no_grad()
def prefer_first_style(model: LazyDiffusion, logit: float) -> None:
    """`logit` more for the first style, whatever the canvas shows. In place; raises ValueError where no reader names
    styles.

    A reader's tokens are averaged with weights that sum to one (`StyleReader`), so its head's bias is a bias of the
    whole.
    """
    naming = model.transformer.context_encoder.naming
    if naming is None or naming.reader is None:
        raise ValueError("--style-prior needs a model with a reader of styles (training.naming). Leave it out.")
    naming.reader.head.get_parameter("bias")[0] += logit


@torch.no_grad()
def prefer_object(model: LazyDiffusion, logit: float) -> None:
    """`logit` more for each pixel of the hole to be the object's. In place.

    Raises ValueError where no network tells objects.
    """
    matte = model.transformer.matte
    if matte is None:
        raise ValueError("--object-prior needs a model that tells objects (training.matte). Leave it out.")
    bias = matte.last.get_parameter("bias")
    bias[: len(bias) // 2] += logit  # the first half of the channels is alpha's, the other light's


if __name__ == "__main__":
    raise SystemExit(main())
