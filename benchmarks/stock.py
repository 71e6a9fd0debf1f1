"""`python dev.py run -- python -m benchmarks.stock`: stock models made lazy, beside the host's own sampling of all
tokens, in one run.

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
    """A checkpoint's true sizes but for its depth: class in `comfy.supported_models`, transformer, text [L, T], latent
    channels.
    """

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
    parser = parser_of("stock", __doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--hole", type=float, default=0.1)
    args = parser.parse_args(argv)
    load_pack()
    rows = []
    with torch.inference_mode():
        for name in args.families:
            rows += measure(name, args)
            for row in rows[-len(METHODS) :]:
                print(json.dumps({key: value for key, value in row.items() if key != "runs"}), flush=True)
    return written(rows, args)


def parser_of(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every benchmark of stock models has."""
    about = (docstring or "").partition(": ")[2]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--families", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser


def written(rows: list[dict[str, Any]], args: argparse.Namespace) -> int:
    """Write rows down, where that was asked for -> the exit status."""
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
    return 0


def load_pack() -> None:
    """ComfyUI and this pack inside this process; ComfyUI's folder comes first, as its `nodes.py` is not our folder of
    that name.
    """
    folder = os.environ.get("COMFYUI_PATH") or str(pinned_folder())
    sys.path[:] = [folder, *(entry for entry in sys.path if entry and Path(entry).resolve() != ROOT), str(ROOT)]
    import comfy.options
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import comfy.utils

    comfy.utils.PROGRESS_BAR_ENABLED = False
    spec = importlib.util.spec_from_file_location(
        "lazydiffusion_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    module = sys.modules["lazydiffusion_pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def loaded(module: str) -> ModuleType:
    """A module of the pack that `load_pack` loaded: ComfyUI's name for it, not the repository's."""
    return importlib.import_module(f"lazydiffusion_pack.{module}")


def for_this_host(transformer: dict[str, Any]) -> dict[str, Any]:
    """A transformer's configuration with what later hosts read from a checkpoint of Flux, and 0.3.75 did not know."""
    import comfy.ldm.flux.model

    newer = "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__
    return transformer | ({"txt_ids_dims": []} if newer and transformer.get("image_model") == "flux" else {})


def make_model(shape: Shape) -> Any:
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models

    config = getattr(comfy.supported_models, shape.config)(for_this_host(shape.transformer))
    device = mm.get_torch_device()
    config.set_inference_dtype(torch.float32 if device.type == "cpu" else torch.bfloat16, None)
    model = config.get_model({}, device=torch.device("cpu"))
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(0, 0.02)
    return comfy.model_patcher.ModelPatcher(model, device, mm.unet_offload_device())


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Stock sampling on all tokens, `balanced` and `fast` in turn: same model, noise and sampler. Medians over the
    rounds.

    All of stock's steps cost the same, so that a few of them tell what `--steps` take.
    """
    case = Case(SHAPES[name], args)
    runs: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for method in METHODS:
        case.run(method, 1)  # warms up
    for _ in range(args.rounds):
        for method, steps in METHODS.items():
            runs[method].append(case.run(method, min(steps, args.steps)))
    edits = {method: [sum(steps) * args.steps / len(steps) for steps in each] for method, each in runs.items()}
    steps = {method: [median(steps) for steps in each] for method, each in runs.items()}
    row = {
        "family": name,
        "depth": SHAPES[name].depth,
        "size": args.size,
        "steps": args.steps,
        "text_tokens": SHAPES[name].text[0],
    }
    return [
        {
            **row,
            "method": method,
            "hole_tokens": case.hole,
            "all_tokens": case.total,
            "edit_ms": round(median(edits[method]), 1),
            "step_ms": round(median(steps[method]), 1),
            "edit_ratio": round(median(a / b for a, b in zip(edits["stock"], edits[method], strict=True)), 2),
            "step_ratio": round(median(a / b for a, b in zip(steps["stock"], steps[method], strict=True)), 2),
            "runs": [[round(ms, 1) for ms in each] for each in runs[method]],
        }
        for method in METHODS
    ]


METHODS = {"stock": 4, "balanced": 1000, "fast": 1000}  # and how many steps of each are run, at most


class Case:
    """One model and canvas with random content."""

    def __init__(self, shape: Shape, args: argparse.Namespace):
        self.timing, self.sampling = loaded("nodes.host.timing"), loaded("nodes.host.sampling")
        self.edit, self.tokens = loaded("nodes.stock.edit"), loaded("lazy_core.tokens")
        torch.manual_seed(0)
        self.model, size = make_model(shape), args.size
        conditions = {"width": size, "height": size} | {key: torch.randn(1, 768) for key in shape.conditions}
        self.cond = [[torch.randn(1, *shape.text), conditions]]
        self.latents = torch.randn(1, shape.channels, size // 8, size // 8)
        picture, mask = torch.rand(1, 3, size, size), hole("compact", args.hole, size)[None]
        encode = loaded("lazy_core.pipeline").encode_canvas
        self.contexts = {
            reuse: encode(lambda _: self.latents, picture, mask, "benchmark", 8, 2, shape.channels, reuse)
            for reuse in ("balanced", "fast")
        }
        self.hole, self.total = self.contexts["fast"].hole.count, self.contexts["fast"].hole.total

    def run(self, method: str, steps: int) -> list[float]:
        """-> ms of each step; what precedes the first, but for loading, counts to it."""
        import comfy.model_management as mm
        import comfy.sample

        mm.load_models_gpu([self.model])
        timing, settings = self.timing.Timing(), self.sampling.Settings(1, steps, 1.0, "euler", "simple")
        if method == "stock":
            given = (
                self.model,
                comfy.sample.prepare_noise(self.latents, 1),
                steps,
                1.0,
                "euler",
                "simple",
                self.cond,
                self.cond,
            )
            comfy.sample.sample(
                *given, self.latents, callback=lambda i, x0, x, total: timing.mark(x0.device), disable_pbar=True, seed=1
            )
        else:
            context = self.contexts[method]
            strip = context.hole.gather(self.tokens.patchify(self.latents, 2))
            sample = self.edit.hole_sampler(self.model, context, self.cond, self.cond, settings, timing)
            sample(torch.randn_like(strip), strip, 1.0)
        return [1000 * (b - a) for a, b in pairwise(timing.marks)]


if __name__ == "__main__":
    raise SystemExit(main())
