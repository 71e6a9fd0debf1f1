"""The one error of everything that reads a checkpoint."""

from __future__ import annotations

from typing import Any

AGAIN = "Download or copy it again."


class CheckpointError(ValueError):
    """A file that is damaged, made by something else, or hostile: which `file`, which `key` in it, what was `got`,
    what was `expected`."""

    def __init__(self, file: str, key: str, got: str, expected: str, remedy: str = AGAIN, sentence: str | None = None):
        self.file, self.key, self.got, self.expected = file, key, got, expected
        super().__init__(sentence or f"{file}: {key} is {got}, expected {expected}. {remedy}")


def shown(value: Any, limit: int = 60) -> str:
    """`value` as it stands in a sentence: short, whatever it is."""
    text = (
        repr(value[: 2 * limit] if isinstance(value, (str, list)) else value)
        if not isinstance(value, dict)
        else "an object"
    )
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else text[:limit] + "…"
