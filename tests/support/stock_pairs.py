"""Edits of two images by a stock model, each with its own hole and prompt, and the host's own run of the same."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_edits import SEED, canvas_and_holes, filling
from stock_models import conditioning, vae_of

SIZE = (256, 320)  # the host's PixArt divides by zero below
STEPS = 3
EXACT = 1e-5


@functools.cache
def two_canvases() -> tuple[Tensor, Tensor]:
    image, mask = canvas_and_holes(*SIZE)
    other = torch.zeros_like(mask)
    other[:, 100:180, 30:110] = 1
    return torch.cat([image, image.flip(1)]), torch.cat([mask, other])


def two_prompts(name: str, seed: int) -> list:
    """One conditioning of a text for each image."""
    (text, values), ((other, _),) = conditioning(name, seed)[0], conditioning(name, seed + 50)
    return [[torch.cat([text, other]), values]]


def edit(
    lazy: Lazy, name: str, model: Any, reuse: str, pictures: Any = None, **widgets: Any
) -> tuple[Any, Tensor, dict]:
    """-> CONTEXT, the LATENT's samples, what the page is told."""
    image, mask = pictures or two_canvases()
    vae = vae_of(name)
    context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse=reuse)
    given = {
        "model": model,
        "vae": vae,
        "context": context,
        "positive": two_prompts(name, 3),
        "negative": two_prompts(name, 4),
        "seed": SEED,
        "steps": STEPS,
        "cfg": 4.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
        "blend": "none",
    }
    output = lazy.call("LazyDecode", **{**given, **widgets})
    return context, output.args[1]["samples"], output.ui["lazydiffusion"][0]


def masks_of(context: Any) -> Tensor:
    """[B, 1, h, w], 1 at the holes' tokens, made of the pixels' mask and not as the pack makes it."""
    grid = context.grid
    side = grid.patch * grid.scale
    tokens = torch.nn.functional.max_pool2d(grid.pad(context.mask[:, None].float()), side)
    return tokens.repeat_interleave(grid.patch, 2).repeat_interleave(grid.patch, 3)


def host_run(model: Any, name: str, context: Any, cfg: float, sampler: str, positive: list | None = None) -> Tensor:
    """The host's KSampler on the whole batch, with the holes' tokens as its noise mask -> latents [B, C, h, w]."""
    import comfy.sample
    import node_helpers

    timed = model.model.latent_format.latent_dimensions == 3
    latent, mask = (x.unsqueeze(2) if timed else x for x in (context.latent, masks_of(context)))
    noise = comfy.sample.prepare_noise(latent, SEED)
    positive = two_prompts(name, 3) if positive is None else positive
    values = {"width": context.grid.width, "height": context.grid.height, **filling(context, positive)}
    conds = [node_helpers.conditioning_set_values(each, values) for each in (positive, two_prompts(name, 4))]
    out = comfy.sample.sample(
        model, noise, STEPS, cfg, sampler, "simple", *conds, latent, noise_mask=mask, disable_pbar=True, seed=SEED
    )
    return out.squeeze(2) if timed else out


def error(latent: Tensor, expected: Tensor, context: Any) -> float:
    """In the holes, relative to what the host's own run has there at most."""
    hole = masks_of(context).expand_as(expected) > 0
    return float((latent - expected)[hole].abs().max() / expected[hole].abs().max())


def own_steps(lazy: Lazy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make steps on the hole alone read keys and values of a pass over all tokens at the same noise level: they must
    equal the host's.
    """
    runs = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.run")
    monkeypatch.setattr(runs.Run, "step", lambda run, x, t, call: run.run_sparse(x, t, run.run_full(x, t, call), call))
