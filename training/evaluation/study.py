"""What the studies of one checkpoint share: their command line, what they open, and how they print."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..loop.record import summary
from ..scenery.scenes import SpriteSheet
from .judges import Judges
from .methods import MethodEditor


def study_parser(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every study has."""
    parser = argparse.ArgumentParser(prog=f"python -m training.{name}", description=summary(docstring))
    parser.add_argument("--model", type=Path, default=Path("models/fluent-small.safetensors"))
    parser.add_argument("--judge", type=Path, default=Path("training/judge.safetensors"))
    parser.add_argument("--data", type=Path, default=Path("training/data/sprites.safetensors"))
    parser.add_argument("--json", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None)
    return parser


def opened(args: argparse.Namespace) -> tuple[SpriteSheet, MethodEditor, Judges]:
    """What the options name; the model on a GPU where there is one."""
    sheet = SpriteSheet.load(args.data)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return sheet, MethodEditor.load(args.model, device), Judges.load(args.judge, sheet, device)


def percent(figure: list[float] | None) -> str:
    return "-" if figure is None else f"{100 * figure[0]:.1f} [{100 * figure[1]:.0f}, {100 * figure[2]:.0f}] %"
