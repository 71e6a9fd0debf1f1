"""Several prompts on one canvas: which of them each hole is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Grid
from .tokens import HoleTokens

ANOTHER = 0.2  # of a hole's pixels: another prompt's mask over so many is said


@dataclass(frozen=True)
class PromptPerHole:
    """`number` [R] int64: whose mask covers most of each hole's pixels, -1 where most lie under none.

    `shared` [R] bool: whether a good part of the hole lies under another prompt's mask.
    """

    number: Tensor
    shared: Tensor


def prompt_per_hole(mask: Tensor, hole: HoleTokens, grid: Grid, regions: Sequence[Tensor]) -> PromptPerHole:
    """Holes of the canvas `mask` [B, H, W] bool, and each prompt's region [M, h, w] (from 0.5 on it is the prompt's) ->
    the prompt of each of the R holes.

    A region of another size than the canvas is stretched over it, as the host does; M images' regions are repeated over
    the batch. Where regions overlap the last one counts.
    """
    owner = torch.full(mask.shape, len(regions), dtype=torch.int64)
    for number, region in enumerate(regions):
        sized = F.interpolate(region[:, None].float(), mask.shape[-2:], mode="bilinear")[:, 0] >= 0.5
        owner[sized[torch.arange(len(mask)) % len(sized)]] = number
    image, y, x = mask.nonzero(as_tuple=True)
    token = y // grid.token_pixels * grid.cols + x // grid.token_pixels
    pixels = torch.zeros(len(mask), grid.tokens, len(regions) + 1, dtype=torch.int64)  # of each token, by prompt
    pixels.index_put_((image, token, owner[mask]), torch.ones(1, dtype=torch.int64), accumulate=True)
    counts = (pixels[hole.owners[:, None], hole.index] * hole.valid[..., None]).sum(1)  # [R, prompts + 1]
    number = counts.argmax(1)
    others = counts.scatter(1, number[:, None], 0)[:, :-1].sum(1)
    shared = others >= ANOTHER * counts.sum(1).clamp_min(1)
    return PromptPerHole(torch.where(number == len(regions), -1, number), shared)
