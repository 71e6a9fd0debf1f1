"""Prompts that ask for no object: the hole shows what the canvas shows around it."""

from __future__ import annotations

NOTHING = {
    "en": (
        "empty background",
        "background",
        "nothing",
        "empty",
        "remove it",
        "remove the object",
        "clear this",
        "no object",
    ),
    "zh": ("空白背景", "背景", "空白", "什么都没有", "移除", "删除物体", "清除", "去掉这个"),
}


def asks_for_nothing(prompt: str) -> bool:
    """Whether a prompt, as a whole, is one of `NOTHING`."""
    return " ".join(prompt.casefold().split()).strip(" .!。！") in PHRASES


PHRASES = frozenset(phrase for phrases in NOTHING.values() for phrase in phrases)
