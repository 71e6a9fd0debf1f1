"""What came for an input where the host does not look: a constant for a socket, null, NaN.

Each sentence names the input and what it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar

from torch import Tensor

Execute = TypeVar("Execute", bound=Callable[..., Any])


def is_conditioning(value: Any) -> bool:
    """Whether it is the host's [[text, {...}], ...]."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value)
    )


SOCKETS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "IMAGE": (lambda value: isinstance(value, Tensor), "Connect Load Image, or another node that makes one."),
    "MASK": (
        lambda value: isinstance(value, Tensor),
        "Connect the MASK of Load Image, or another node that makes one.",
    ),
    "MODEL": (lambda value: hasattr(value, "model_options"), "Connect the MODEL of Load Lazy Model."),
    "VAE": (lambda value: value is None or hasattr(value, "first_stage_model"), "Connect the VAE of Load Lazy Model."),
    "CONDITIONING": (is_conditioning, "Connect CLIP Text Encode."),
}
"""For each type: what has it, and where it comes from. A VAE that is None comes from a checkpoint without one
(`host.vae.check_vae`).
"""


def hides_tokens(mask: Tensor) -> bool:
    """Whether the attention mask of a prompt leaves out any of its tokens."""
    return bool((mask != 1).any())


def check_socket(kind: str, **inputs: Any) -> None:
    """Raises ValueError for an input that is not of the type `kind` of `SOCKETS`; the page cannot send one, a caller of
    the API can.
    """
    fits, remedy = SOCKETS[kind]
    for name, value in inputs.items():
        if not fits(value):
            raise ValueError(f"{name} is {described(value)}, expected {article(kind)} {kind}. {remedy}")


def article(word: str) -> str:
    return "an" if word[0] in "AEIOU" else "a"


def check_choice(offered: Sequence[str], **inputs: Any) -> None:
    """Raises ValueError for a value that is not `offered`; the host checks what it can before a run."""
    for name, value in inputs.items():
        if value not in offered:
            raise ValueError(f"{name} is {described(value)}, expected one of {', '.join(offered)}.")


def check_number(least: float, most: float, **inputs: Any) -> None:
    """Raises ValueError for NaN, which no comparison of the host's refuses, and for what is not a number from `least`
    to `most`.
    """
    for name, value in inputs.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or math.isnan(value) or not least <= value <= most:
            raise ValueError(f"{name} is {described(value)}, expected a number from {least:g} to {most:g}.")


def described(value: Any) -> str:
    """What a person calls it."""
    if value is None:
        return "null"
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, (str, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def explains_memory(execute: Execute) -> Execute:
    """A node's `execute` whose MemoryError says what to do: Python's own comes without a word."""

    @wraps(execute)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return execute(*args, **kwargs)
        except MemoryError as error:
            what = f" ({error})" if str(error) else ""
            raise MemoryError(
                f"this machine's main memory is full{what}. Scale the canvas down or crop it around the hole, "
                "take fewer images at once, or close other programs."
            ) from error

    return run  # type: ignore[return-value]
