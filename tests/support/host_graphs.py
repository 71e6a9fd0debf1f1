"""What the tests of the nodes share: pictures, masks of every kind, edits as API-format workflows and inside this
process.
"""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from comfy_client import ComfyClient, Result
from devtools.graphs import MODEL, WIDGETS

SHIPPED = Path(__file__).resolve().parents[2] / "models" / MODEL
TOKEN = 16  # px, of the shipped model
MASKS = ("ring", "disjoint", "border", "one pixel", "full")


# -- pictures ----------------------------------------------------------------------------------------------------------
def random_canvas(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[H, W, 3] uint8: noise, so that a pixel computed anew cannot be what it was by chance."""
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_mask(rng: np.random.Generator, kind: str, height: int, width: int) -> np.ndarray:
    """One of MASKS as [H, W] bool, True = hole: never empty, full for `full` alone."""
    y, x = np.ogrid[:height, :width]
    mask = np.zeros((height, width), bool)
    if kind == "full":
        mask[:] = True
    elif kind == "one pixel":
        mask[rng.integers(height), rng.integers(width)] = True
    elif kind == "ring":
        outer = rng.uniform(3, max(4, min(height, width) / 2))
        distance = np.hypot(y - rng.integers(height), x - rng.integers(width))
        mask = (distance <= outer) & (distance >= outer * rng.uniform(0.3, 0.7))
    elif kind == "disjoint":
        for band in np.array_split(np.arange(width), 3)[:: int(rng.integers(1, 3))]:
            top, left = rng.integers(height - 1), band[0] + rng.integers(max(len(band) - 2, 1))
            mask[top : top + rng.integers(1, height), left : band[-1]] = True
    elif kind == "border":
        size = rng.integers(1, height), rng.integers(1, width)
        mask[: size[0], : size[1]] = True
        mask = np.rot90(mask, 2) if rng.random() < 0.5 else mask
    else:
        raise ValueError(f"mask kind is {kind!r}, expected one of {MASKS}.")
    assert mask.any() and mask.all() == (kind == "full"), f"a {kind} mask of {width} x {height} px that is none"
    return np.ascontiguousarray(mask)


def box_mask(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


# -- workflows ---------------------------------------------------------------------------------------------------------
def upload(client: ComfyClient, name: str, canvas: np.ndarray, mask: np.ndarray) -> tuple[str, str]:
    """-> the names that `edit_graph` takes."""
    white = mask.astype(np.uint8) * 255
    return client.upload_array(f"{name} canvas.png", canvas), client.upload_array(f"{name} mask.png", white)


def figures(result: Result, which: str) -> dict[str, Any]:
    """What Encode Context or Lazy Decode told the page."""
    assert result.error is None, result.error
    return result.outputs[which]["lazydiffusion"][0]


# -- inside this process -----------------------------------------------------------------------------------------------
class Lazy:
    """The pack's nodes as the host calls them, with the shipped model loaded; pictures are the host's IMAGE and MASK
    tensors.
    """

    def __init__(self, pack: ModuleType):
        self.pack = pack
        self.stock = importlib.import_module("nodes")  # ComfyUI's
        self.nodes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(nodes_of(pack))}
        self.model, self.clip, self.vae = self.call("LazyModelLoader", model_name=MODEL).args
        self.negative = self.text("")

    def call(self, node_id: str, **inputs: Any) -> Any:
        """-> the node's NodeOutput, made under inference mode as in the host."""
        with torch.inference_mode():
            return self.nodes[node_id].execute(**inputs)

    def core(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.lazy_core.{name}")

    def node_module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.nodes.{name}")

    def text(self, prompt: str) -> list[Any]:
        """CONDITIONING of the stock node."""
        with torch.inference_mode():
            return self.stock.CLIPTextEncode().encode(self.clip, prompt)[0]

    def encode(self, image: Tensor, mask: Tensor, **inputs: Any) -> tuple[Any, dict[str, Any]]:
        """-> CONTEXT, what the page is told."""
        output = self.call(
            "LazyEncodeContext", **{"model": self.model, "vae": self.vae, "image": image, "mask": mask, **inputs}
        )
        return output.args[0], output.ui["lazydiffusion"][0]

    def decode(self, context: Any, prompt: str = "panda", **inputs: Any) -> tuple[Tensor, Tensor]:
        """-> IMAGE [B, H, W, 3], the LATENT's samples [B, C, h, w]."""
        given = {
            "model": self.model,
            "vae": self.vae,
            "context": context,
            "negative": self.negative,
            **WIDGETS,
            **inputs,
        }
        given.setdefault("positive", self.text(prompt))
        image, latent = self.call("LazyDecode", **given).args
        return image, latent["samples"]

    def edit(self, image: Tensor, mask: Tensor, **inputs: Any) -> Tensor:
        return self.decode(self.encode(image, mask)[0], **inputs)[0]


async def nodes_of(pack: ModuleType) -> list[Any]:
    """As the host asks for them, with all that this does: folders of models are registered, too."""
    return await (await pack.comfy_entrypoint()).get_node_list()


def image_of(*pixels: np.ndarray) -> Tensor:
    """[H, W, 3] uint8 each -> IMAGE [B, H, W, 3]."""
    return torch.from_numpy(np.stack(pixels)).float() / 255


def mask_of(*holes: np.ndarray) -> Tensor:
    """[H, W] bool each -> MASK [B, H, W]."""
    return torch.from_numpy(np.stack(holes)).float()
