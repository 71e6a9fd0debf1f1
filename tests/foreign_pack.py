"""Somebody else's node pack, for tests/test_host_errors.py: a CONTEXT of another kind, and a picture with a bad pixel."""

from __future__ import annotations

from typing import Any


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


NODE_CLASS_MAPPINGS = {"ForeignContext": ForeignContext, "BadPixel": BadPixel}
