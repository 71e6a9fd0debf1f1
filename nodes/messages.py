"""What a run has to tell its user in words, without stopping: shown on the node in their language (web/js/messages.js)."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]
"""{"code": one of `CODES`, ...values that its sentence names}."""

CODES: tuple[str, ...] = (
    "no_mask_painted",
    "black_under_alpha",
)
"""Every code has a sentence in each language of web/js/messages.js; a test compares them."""


def message(code: str, **values: Any) -> Message:
    """Return the message `code` with the values that its sentence names. Raises KeyError for a code without a sentence."""
    if code not in CODES:
        raise KeyError(f"no message '{code}', expected one of {', '.join(CODES)}.")
    return {"code": code, **values}
