"""`python dev.py run -- python -m benchmarks.stock`: stock models made lazy, beside the host's own sampling of all tokens, in one run.

Random weights at a checkpoint's true width; the depth is cut to what a CPU can wait for, which ratios do not depend on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import torch

from devtools.host import pinned_folder
from devtools.places import ROOT

from .holes import hole


@dataclass(frozen=True)
class Shape:
    """A checkpoint's true sizes but for its depth: class in `comfy.supported_models`, transformer, text [L, T], latent channels."""

    config: str
    transformer: dict[str, Any]
    text: tuple[int, int]
    channels: int
    depth: str
    conditions: tuple[str, ...] = ()


SHAPES = {
    "flux": Shape(
        "Flux",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
        },
        (256, 4096),
        16,
        "1 of 19 double and 1 of 38 single blocks",
        ("pooled_output",),
    ),
    "pixart": Shape(
        "PixArtAlpha",
        {
            "image_model": "pixart_alpha",
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 1152,
            "depth": 4,
            "num_heads": 16,
            "caption_channels": 4096,
            "model_max_length": 120,
            "micro_condition": True,
        },
        (120, 4096),
        4,
        "4 of 28 blocks",
    ),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stock", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("--families", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hole", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    pack = load_pack()
    rows = []
    with torch.inference_mode():
        for name in args.families:
            rows += measure(pack, name, args)
    for row in rows:
        print(json.dumps(row))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def load_pack() -> ModuleType:
    """ComfyUI and this pack inside this process; ComfyUI's folder comes first, as its `nodes.py` is not our folder of that name."""
    folder = os.environ.get("COMFYUI_PATH") or str(pinned_folder())
    sys.path[:] = [folder, *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT), str(ROOT)]
    import comfy.options  # noqa: F401
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    spec = importlib.util.spec_from_file_location("lazydiffusion_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = sys.modules["lazydiffusion_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(shape: Shape) -> Any:
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, shape.config)(dict(shape.transformer))
    device = mm.get_torch_device()
    config.set_inference_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16, None)
    model = config.get_model({}, device=torch.device("cpu"))
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(model, device, mm.unet_offload_device())


def measure(pack: ModuleType, name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Stock sampling on all tokens, then `balanced` and `fast`: same model, noise, sampler and steps."""
    import comfy.sample

    core = lambda module: importlib.import_module(f"{pack.__name__}.{module}")  # noqa: E731
    edit, host, tokens = core("nodes.stock.edit"), core("nodes.host"), core("lazy_core.tokens")
    shape, model = SHAPES[name], make_model(SHAPES[name])
    torch.manual_seed(0)
    conditions = {"width": args.size, "height": args.size} | {key: torch.randn(1, 768) for key in shape.conditions}
    cond = [[torch.randn(1, *shape.text), conditions]]
    latents = torch.randn(1, shape.channels, args.size // 8, args.size // 8)
    picture, mask = torch.rand(1, 3, args.size, args.size), hole("compact", args.hole, args.size)[None]
    make = core("lazy_core.pipeline").encode_canvas
    rows, times = [], {}

    def report(method: str, marks: list[float], context: Any) -> None:
        steps = [1000 * (b - a) for a, b in pairwise(marks)]
        times[method] = steps
        rows.append(
            {
                "family": name,
                "depth": shape.depth,
                "method": method,
                "size": args.size,
                "steps": args.steps,
                "hole_tokens": context.hole.count,
                "all_tokens": context.hole.total,
                "text_tokens": shape.text[0],
                "edit_ms": round(sum(steps), 1),
                "step_ms": round(median(steps), 1),
                "edit_ratio": round(sum(times["stock"]) / sum(steps), 2),
                "step_ratio": round(median(times["stock"]) / median(steps), 2),
            }
        )

    for method in ("stock", "balanced", "fast"):
        context = make(lambda _: latents, picture, mask, "benchmark", 8, 2, shape.channels, "fast" if method == "stock" else method)
        for steps in (1, args.steps):  # the first warms up
            timing = host.Timing()
            settings = host.Settings(1, steps, 1.0, "euler", "simple")
            if method == "stock":
                noise = comfy.sample.prepare_noise(latents, 1)
                callback = lambda i, x0, x, total, timing=timing: timing.mark(x0.device)  # noqa: E731
                given = (model, noise, steps, 1.0, "euler", "simple", cond, cond, latents)
                comfy.sample.sample(*given, callback=callback, disable_pbar=True, seed=1)
            else:
                strip = context.hole.gather(tokens.patchify(latents, 2))
                edit.hole_sampler(model, context, cond, cond, settings, timing)(torch.randn_like(strip), strip, 1.0)
        report(method, timing.marks, context)
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
