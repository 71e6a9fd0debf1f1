"""Plain samplers for use without ComfyUI; inside it, every stock sampler takes their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..networks.cuda_graphs import StepGraphs
from ..networks.decoder import Conditioning, LazyDecoder
from .parametrisation import parametrisation

Solver = Literal["euler", "dpmpp_2m"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, K, D], sigma [B]) -> x0 [B, K, D]"""


def guided_denoiser(
    decoder: LazyDecoder,
    conditioning: Conditioning,
    negative: Conditioning | None = None,
    cfg: float = 1.0,
    graphs: StepGraphs | None = None,
) -> Denoiser:
    """Make a denoiser of the decoder under classifier-free guidance (Ho and Salimans 2022), both branches in one batch.

    `cfg` 1 or no `negative` runs one branch. `graphs` run the steps where a CUDA device does.
    """
    model, dtype = parametrisation(decoder.config.prediction), next(decoder.parameters()).dtype
    guided = conditioning.beside(negative) if negative is not None and cfg != 1.0 else None
    given = guided or conditioning
    prepared = decoder.prepare(replace(given, context=given.context.to(dtype)), shared_timestep=True)
    step = decoder.step if graphs is None else partial(graphs.step, decoder)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level, timestep = sigma.view(-1, 1, 1), model.timestep(sigma)
        scaled = model.scale_input(x, level).to(dtype)
        if guided is None:
            return model.to_x0(step(scaled, timestep, prepared).to(x), x, level)
        output = step(torch.cat([scaled, scaled]), torch.cat([timestep, timestep]), prepared).to(x)
        positive, unguided = (model.to_x0(branch, x, level) for branch in output.chunk(2))
        return unguided + cfg * (positive - unguided)

    return denoise


def euler(
    denoise: Denoiser, x: Tensor, sigmas: Tensor, callback: Callable[[int, Tensor], None] | None = None
) -> Tensor:
    """Euler's method on dx/dsigma = (x - x0) / sigma, the ODE of both parametrisations (Karras et al. 2022, eq. 3).

    Noisy x [B, K, D] at `sigmas[0]` -> clean [B, K, D]; `callback(step, x0)` after every step.
    """
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        x0 = denoise(x, sigma.to(x).expand(len(x)))
        if callback is not None:
            callback(step, x0)
        x = x + (x - x0) / sigma.to(x) * (following - sigma).to(x)
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M), which extrapolates from the last step's prediction as well (Lu et al. 2022, arXiv 2211.01095,
    algorithm 2).

    Noisy x [B, K, D] at `sigmas[0]` -> clean [B, K, D]. Steps are measured in log sigma, as k-diffusion and with it
    ComfyUI do for flow models, too, where the paper has half the log of the signal-to-noise ratio. The first and the
    last step are Euler's.
    """
    levels, last = sigmas.double(), None
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        x0 = denoise(x, sigma.to(x).expand(len(x)))
        target = x0
        if last is not None and following > 0:
            lean = float((sigma / following).log() / (levels[step - 1] / sigma).log()) / 2
            target = (1 + lean) * x0 - lean * last
        x, last = target + (x - target) * float(following / sigma), x0
    return x
