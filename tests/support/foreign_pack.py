"""Somebody else's node pack, for tests/nodes/test_errors.py: a CONTEXT and a CONDITIONING of another kind, a bad
pixel.
"""

from __future__ import annotations

from typing import Any

import torch


class ForeignContext:
    RETURN_TYPES, FUNCTION, CATEGORY = ("CONTEXT",), "run", "foreign"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[dict[str, Any]]:
        return ({"steps": 20, "seed": 0},)


class BadPixel:
    RETURN_TYPES, FUNCTION, CATEGORY = ("IMAGE",), "run", "foreign"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "value": ("STRING",)}}

    def run(self, image: Any, value: str) -> tuple[Any]:
        bad = image.clone()
        bad[0, 3, 4, 1] = float(value)
        return (bad,)


class ForeignConditioning:
    """As a stock checkpoint's CLIP makes it: 77 tokens, 768 wide."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("CONDITIONING",), "run", "foreign"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def run(self) -> tuple[list[Any]]:
        return ([[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]],)


NODE_CLASS_MAPPINGS = {
    "ForeignConditioning": ForeignConditioning,
    "ForeignContext": ForeignContext,
    "BadPixel": BadPixel,
}
