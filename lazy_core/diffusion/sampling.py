"""Plain samplers for use without ComfyUI; inside it, every stock sampler takes their place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ..config import LazyConfig
from ..networks.cuda_graphs import StepGraphs
from ..networks.decoder import LazyDecoder
from ..networks.text_encoder import same_length
from .parametrisation import predict_x0, timestep_of

Solver = Literal["euler", "dpmpp_2m"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(x [B, K, D], sigma [B]) -> x0 [B, K, D]"""


def guided_denoiser(
    decoder: LazyDecoder,
    context: Tensor,
    coordinates: Tensor,
    caption: Tensor,
    negative: Tensor | None = None,
    cfg: float = 1.0,
    keys: Tensor | None = None,
    size: tuple[int, int] | None = None,
    edges: Tensor | None = None,
    negative_context: Tensor | None = None,
    graphs: StepGraphs | None = None,
) -> Denoiser:
    """The decoder under classifier-free guidance, both branches in one batch; `cfg` 1 or no `negative` runs one branch.

    `negative_context` goes with `negative`; None: both have the same. `graphs` run the steps where a CUDA device does.
    """
    config: LazyConfig = decoder.config
    both = negative is not None and cfg != 1.0

    def double(x: Tensor) -> Tensor:
        return torch.cat([x, x]) if both else x

    captions = caption
    if both and negative is not None:
        captions = torch.cat(same_length([caption, negative.expand(len(caption), -1, -1)]))
    marks, lines = (None if x is None else double(x) for x in (keys, edges))
    contexts = double(context) if negative_context is None or not both else torch.cat([context, negative_context])
    kind = next(decoder.parameters()).dtype
    prepared = decoder.prepare(contexts.to(kind), double(coordinates), captions, marks, size, packed=True, edges=lines)

    step = decoder.step if graphs is None else partial(graphs.step, decoder)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        scaled = x if config.prediction == "flow_x0" else x / (1 + sigma.view(-1, 1, 1) ** 2).sqrt()
        timestep = timestep_of(config.prediction, sigma)
        output = step(double(scaled.to(kind)), double(timestep), prepared)
        x0 = predict_x0(config, output.to(x), double(x), double(sigma))
        if not both:
            return x0
        positive, unguided = x0.chunk(2)
        return unguided + cfg * (positive - unguided)

    return denoise


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor, callback: Callable[[int, Tensor], None] | None = None) -> Tensor:
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
    """DPM-Solver++(2M), which extrapolates from the last step's prediction as well (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    Noisy x [B, K, D] at `sigmas[0]` -> clean [B, K, D]. Steps are measured in log sigma, as k-diffusion and with it ComfyUI do for flow
    models, too, where the paper has half the log of the signal-to-noise ratio. The first and the last step are Euler's.
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
