"""The one kind of failure that a person is told about."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)  # no space left, quota exceeded


class Problem(Exception):
    """Something the person at the keyboard can act on: one plain sentence, shown without a traceback."""


def sentence_of(error: OSError) -> str:
    """One sentence for an operating-system error; a full disk is named as such."""
    where = f" ({error.filename})" if error.filename else ""
    remedy = "or move the cache folder with LAZYDIFFUSION_HOME, and run the command again"
    if error.errno in FULL:
        return f"The disk is full{where}: free some space, {remedy}."
    return f"{error.strerror or error}{where}: make this place exist and writable, {remedy}."
