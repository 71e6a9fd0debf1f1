"""Which ComfyUI this is."""

from __future__ import annotations

import inspect
import logging
import sys
from functools import cache

import comfyui_version

TESTED = ("0.3.75", "0.33.0")  # ComfyUI versions that all tests pass on


def report_version() -> None:
    """One line in the server's log, so that a report of a problem says what ran."""
    tested = " and ".join(TESTED)
    known = "" if comfyui_version.__version__ in TESTED else " This one was not."
    logging.info(f"LazyDiffusion: ComfyUI {comfyui_version.__version__}; tested with {tested}.{known}")


@cache
def checks_combos() -> bool:
    """Whether the host compares a value with the options of a COMBO itself, as newer ones do."""
    execution = sys.modules.get("execution")
    return execution is not None and "Combo.io_type" in inspect.getsource(execution.validate_inputs)
