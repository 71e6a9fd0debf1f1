"""What a run has to tell its user in words, without stopping: shown on the node in their language
(web/js/messages.js).
"""

from __future__ import annotations

from typing import Any

from ..lazy_core.config import LazyConfig
from ..lazy_core.context import Context
from ..lazy_core.downscale import known_side
from ..lazy_core.masks import largest_side

Message = dict[str, Any]
"""{"code": one of `CODES`, ...values that its sentence names}."""

CODES: tuple[str, ...] = (
    "approximate_patch",  # patch
    "patch_without_effect",  # patch
    "prompt_cut",  # cut: what was left out of the prompt
    "unknown_words",  # words: list
    "hole_too_large",  # side, trained: px
    "hole_enlarged",  # side: px, times
    "other_image",
    "no_mask_painted",
    "black_under_alpha",
    "prompts_share_hole",  # count
    "part_of_manifest",  # count, all
    "fields_not_used",  # names: list
    "odd_masks",  # names: list
)
"""Every code has a sentence in each language of web/js/messages.js; a test compares them."""


def message(code: str, **values: Any) -> Message:
    """Return the message `code` with the values that its sentence names. Raises KeyError for a code without a
    sentence.
    """
    if code not in CODES:
        raise KeyError(f"no message '{code}', expected one of {', '.join(CODES)}.")
    return {"code": code, **values}


def of_prompts(*conditionings: list) -> list[Message]:
    """What the text encoder had to leave out of these prompts: words after the longest prompt, and words that it does
    not know.
    """
    values = [entry for conditioning in conditionings for _, entry in conditioning]
    cut = [words for entry in values if (words := entry.get("lazy_cut"))]
    unknown = dict.fromkeys(word for entry in values for word in entry.get("lazy_unknown") or ())
    found = [message("prompt_cut", cut=" / ".join(dict.fromkeys(cut)))] if cut else []
    return [*found, message("unknown_words", words=list(unknown))] if unknown else found


def of_hole(context: Context, config: LazyConfig) -> list[Message]:
    """That a hole is larger than those that the model knows; that it saw the canvas smaller for it."""
    side, times, known = largest_side(context.mask), context.grid.downscale, known_side(context.grid, config)
    if known is not None and side > known:
        return [message("hole_too_large", side=side, trained=known)]
    return [message("hole_enlarged", side=side, times=times)] if times > 1 else []


def of_start(context: Context, denoise: float) -> list[Message]:
    """That the hole from which sampling starts is black: a picture that was erased to transparent."""
    return [message("black_under_alpha")] if context.starts_from_black(denoise) else []
