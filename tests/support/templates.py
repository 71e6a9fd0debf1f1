"""The shipped workflows as files, and what they have to be given before they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
LOOPS_THAT_NEED_FILES = (
    "9_lazy_canvas_flux_fill",
    "10_lazy_canvas_qwen_edit",
    "12_lazy_canvas_qwen_edit_2511",
    "13_lazy_canvas_flux2_klein",
)
NEED_FILES = ("5_flux_fill", "6_z_image", "7_qwen_image", *LOOPS_THAT_NEED_FILES)
"""These use checkpoints of many gigabytes: tests open them, and do not run them."""
LOOPS = ("8_lazy_canvas", *LOOPS_THAT_NEED_FILES)
"""Driven from the canvas in the page, not by a run of the whole graph."""
PAINTED = ("11_paint_and_paint_again",)
"""These edit nothing before somebody paints a mask."""
COMPLETE = [name for name in TEMPLATES if name not in (*NEED_FILES, *LOOPS, *PAINTED)]
LOADING = [name for name in (*NEED_FILES, *PAINTED) if name not in LOOPS]
"""These start from the picture that comes with every ComfyUI."""


def graph_of(name: str) -> dict[str, Any]:
    """As the page saves it."""
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))


def files_of(node: dict[str, Any]) -> list[str]:
    """Model files in a node's widgets that are not in the pack."""
    values = [value for value in node.get("widgets_values") or [] if isinstance(value, str)]
    return [value for value in values if value.endswith(".safetensors") and not (ROOT / "models" / value).is_file()]
