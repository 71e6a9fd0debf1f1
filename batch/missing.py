"""What is said where a Python lacks what the batch command needs."""

from __future__ import annotations

OWN = "batch", "lazy_core"


def in_words(error: ModuleNotFoundError) -> BaseException:
    """Return what to raise in its place: a sentence, or the error itself where a module of ours is missing."""
    if error.name is None or error.name.split(".")[0] in OWN:
        return error
    return SystemExit(
        f"this Python has no {error.name}: run it with ComfyUI's, or as `python dev.py run -- python -m batch run …`"
    )
