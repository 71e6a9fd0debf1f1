"""Model files of every wrong kind, and one good one, for tests/nodes/test_errors.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from host_graphs import SHIPPED


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def write_files(base: Path, trap: Path) -> None:
    """Into the model folders below `base`; `other.safetensors` is good. A pickle that is loaded writes `trap`."""
    ours, stock = base / "models" / "lazydiffusion", base / "models" / "diffusion_models"
    for folder in (ours, stock):
        folder.mkdir(parents=True)
    shipped = SHIPPED.read_bytes()
    (ours / "other.safetensors").write_bytes(with_zeros(shipped, "transformer.context_encoder.embed.weight"))
    for name, length in (("truncated", 1 << 20), ("cut in its header", 1000), ("cut to a few bytes", 5), ("empty", 0)):
        (ours / f"{name}.safetensors").write_bytes(shipped[:length])
    (ours / "picture.safetensors").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    for name in ("pickled.safetensors", "pickled.ckpt"):
        torch.save({"weights": Trap(trap)}, ours / name)
    save_file({"a.weight": torch.ones(2, 3)}, ours / "stock.safetensors", {"format": "pt"})
    write_misfits(ours)
    save_file(tiny_stock_model(), stock / "stock.safetensors")


def write_misfits(folder: Path) -> None:
    """Weights that do not fit their config, and configs that cannot be read."""
    with safe_open(str(SHIPPED), "pt") as file:
        metadata, weights = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    small = {
        key: value[:1].clone() for key, value in weights.items() if not key.startswith("transformer.decoder.blocks.0.")
    }
    configs = {
        "of other shapes": metadata,
        "without config": {key: value for key, value in metadata.items() if "config" not in key},
        "malformed config": {**metadata, "lazydiffusion.config": '{"width": '},
        "newer": {**metadata, "lazydiffusion.config": '{"format": 99}'},
    }
    for name, notes in configs.items():
        save_file(small, folder / f"{name}.safetensors", notes)


def with_zeros(file: bytes, name: str) -> bytes:
    """A safetensors file with one tensor zeroed, the same in every other byte: as after a fine-tuning of one part."""
    length = int.from_bytes(file[:8], "little")
    first, last = (8 + length + offset for offset in json.loads(file[8 : 8 + length])[name]["data_offsets"])
    return file[:first] + bytes(last - first) + file[last:]


def tiny_stock_model() -> dict[str, torch.Tensor]:
    """The few tensors by which ComfyUI takes a file for a (one block, 128 wide) Wan 2.1: a stock MODEL that loads in no
    time.
    """
    shapes = {"head.modulation": (1, 2, 128), "head.head.weight": (64, 128), "blocks.0.ffn.0.weight": (128, 128)}
    return {key: torch.zeros(shape) for key, shape in {**shapes, "patch_embedding.weight": (128, 16, 1, 2, 2)}.items()}
