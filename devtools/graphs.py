"""One edit of uploaded pictures as a workflow in the API's format."""

from __future__ import annotations

from typing import Any

from .client import Prompt

MODEL = "fluent-small.safetensors"
WIDGETS = {
    "seed": 1,
    "steps": 2,
    "cfg": 3.0,
    "sampler_name": "euler",
    "scheduler": "simple",
    "denoise": 1.0,
    "blend": "feather",
}


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def edit_graph(canvas: str, mask: str, **widgets: Any) -> Prompt:
    """One edit of uploaded pictures; node ids are words. `widgets` are Lazy Decode's, and `prompt`, `negative` and
    `model_name`.
    """
    texts = {name: widgets.pop(name, default) for name, default in (("prompt", "panda"), ("negative", ""))}
    return {
        "model": node("LazyModelLoader", model_name=widgets.pop("model_name", MODEL)),
        "canvas": node("LoadImage", image=canvas),
        "mask": node("LoadImageMask", image=mask, channel="red"),
        "positive": node("CLIPTextEncode", text=texts["prompt"], clip=["model", 1]),
        "negative": node("CLIPTextEncode", text=texts["negative"], clip=["model", 1]),
        "context": node(
            "LazyEncodeContext", model=["model", 0], vae=["model", 2], image=["canvas", 0], mask=["mask", 0]
        ),
        "decode": decode_node(**widgets),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="edit"),
    }


def decode_node(**widgets: Any) -> dict[str, Any]:
    links = {
        "model": ["model", 0],
        "vae": ["model", 2],
        "context": ["context", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
    }
    return node("LazyDecode", **{**links, **WIDGETS, **widgets})
