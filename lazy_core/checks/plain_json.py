"""JSON from files of strangers: bounded in size and depth, numbers that a program can hold, one error."""

from __future__ import annotations

import json
import math
from typing import Any

DIGITS = 40  # of a number; what is written and read here has fewer than twenty


def parse(text: str | bytes, limit: int) -> Any:
    """The value of JSON `text` of at most `limit` bytes. Raises ValueError, and nothing else, with a short reason."""
    if len(text) > limit:
        raise ValueError(f"longer than {limit:,} bytes")
    try:
        return json.loads(text, parse_int=_whole, parse_float=_number, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason})") from None


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _number(text: str) -> float:
    if len(text) > DIGITS or not math.isfinite(value := float(text)):
        raise ValueError(f"the number {text[:20]}{'…' if len(text) > 20 else ''}")
    return value


def _constant(text: str) -> float:
    raise ValueError(f"{text} instead of a number")
