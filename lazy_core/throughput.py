"""What a decoder step would take on so many tokens, measured on this machine: counted operations are not time."""

from __future__ import annotations

import time
from itertools import count

import torch
from torch import Tensor

from .cost import step_flops
from .networks.decoder import LazyDecoder

MOST_TOKENS = (
    1024  # a block is timed on no more; beyond, time follows the counted operations, as all products are large by then
)
REPEATS, ENOUGH_SECONDS = 3, 0.3
_MEASURED: dict[tuple[object, ...], float] = {}


def step_seconds(decoder: LazyDecoder, tokens: int, text_tokens: int, images: int, dtype: torch.dtype) -> float:
    """Estimate the seconds of a decoder step on `tokens` tokens of each of `images` images (branches of guidance
    included), on the CPU.

    One of the decoder's blocks is timed once per process, size and dtype (some tenths of a second at most), and scaled
    to the whole step.
    """
    config, timed = decoder.config, min(tokens, MOST_TOKENS)
    branches = min(images, 2)
    key = (config.width, config.heads, config.mlp_ratio, timed, text_tokens, branches, dtype, torch.get_num_threads())
    if key not in _MEASURED:
        _MEASURED[key] = block_seconds(decoder, timed, text_tokens, branches, dtype) / branches
    one = step_flops(config, timed, text_tokens, kept_text=True) / config.depth
    return images * _MEASURED[key] * step_flops(config, tokens, text_tokens, kept_text=True) / one


@torch.inference_mode()
def block_seconds(decoder: LazyDecoder, tokens: int, text_tokens: int, images: int, dtype: torch.dtype) -> float:
    """Time the decoder's first block on random numbers: the fastest of a few runs."""
    block, width = decoder.blocks[0], decoder.config.width
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, text, modulation = (
        draw(images, tokens, width),
        (draw(images, text_tokens, width), draw(images, text_tokens, width)),
        draw(1, 6, width),
    )
    taken: list[float] = []
    for run in count():
        if run == REPEATS or sum(taken) > ENOUGH_SECONDS:
            return min(taken)
        begin = time.perf_counter()
        block(x, text, modulation)
        taken.append(time.perf_counter() - begin)
    raise AssertionError("not reached")
