"""Do a file's tensors fit a module: all of them, none besides, each of its shape?"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn as nn
from torch import Tensor

from .errors import AGAIN, CheckpointError


def assign(module: nn.Module, weights: dict[str, Tensor], name: str, dtype: torch.dtype | None = None) -> None:
    """Check keys and shapes, then take `weights` as the module's own. Raises CheckpointError that lists what does not
    fit."""
    check_keys({key: tuple(value.shape) for key, value in module.state_dict().items()}, weights, name)
    module.load_state_dict({key: value.to(dtype or value.dtype) for key, value in weights.items()}, assign=True)


def check_keys(expected: dict[str, tuple[int, ...]], weights: dict[str, Tensor], name: str) -> None:
    """Raises CheckpointError that lists what is missing, unexpected or of another shape."""
    compare(expected, {key: tuple(value.shape) for key, value in weights.items()}, name)


def compare(expected: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]], name: str) -> None:
    """Raises CheckpointError where tensors' names and shapes are not what was expected, with all that is wrong in one
    sentence.
    """
    missing, unexpected = some(expected.keys() - got.keys()), some(got.keys() - expected.keys())
    wrong = some(key for key, shape in expected.items() if key in got and got[key] != shape)
    shapes = [f"{key[:100]} is {got[key]}, expected {expected[key]}" for key in wrong[0]]
    problems = [
        f"{count} {kind} ({', '.join(part)}{', …' if count > len(part) else ''})"
        for kind, part, count in (
            ("missing", *missing),
            ("unexpected", *unexpected),
            ("of another shape", shapes, wrong[1]),
        )
        if count
    ]
    if problems:
        found, key = "; ".join(problems), (wrong[0] or missing[0] or unexpected[0])[0]
        wanted = str(expected[key]) if key in expected else "no such tensor"
        raise CheckpointError(name, key, found, wanted, sentence=f"{name} does not fit its config: {found}. {AGAIN}")


def some(keys: Iterable[str]) -> tuple[list[str], int]:
    """The first three of `keys`, as they stand in a sentence, and how many there are."""
    ordered = sorted(keys)
    return [key if key.isprintable() and len(key) <= 100 else ascii(key)[:100] for key in ordered[:3]], len(ordered)
