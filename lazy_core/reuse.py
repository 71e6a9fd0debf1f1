"""Training-free lazy edits: a stock transformer denoises the hole's tokens against keys and values kept from passes over all tokens.

The mask is known before the first step, what is visible is known exactly at every noise level, and positions never move: so the
keys and values of all tokens but the hole's, as attention sees them (after norm and rotary embedding), can be kept from a
full pass (`kept.py`) and used by the sparse steps that follow. With those of the same step a sparse step is exact; with those of an
earlier one it is an approximation whose error the `Policy` bounds. Compare RegionE (arXiv 2510.25590) and SpotEdit (arXiv 2512.22323),
which have to find the region first and keep keys before the rotary embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from .tokens import patchify, unpatchify

Reuse = Literal["fast", "balanced", "exact"]
REUSES: tuple[Reuse, ...] = get_args(Reuse)


@dataclass(frozen=True)
class Policy:
    """When all tokens are computed.

    A pass at the first step's noise level would see nothing of the canvas: of a flow model's visible tokens only noise is left
    there. So what the first steps reuse comes from the `anchor`, where the canvas shows through.

    `refresh`: at which shares of the steps, 0 (the first) to 1, a step computes all tokens; None is every step. `anchor`: the share
    of the steps at whose noise level one pass over the canvas alone precedes the first step; the hole then shows its smooth fill.
    `grow`: tokens around the hole that are generated with it and then thrown away, so that the hole's edge is not its network's edge.
    """

    refresh: tuple[float, ...] | None = ()
    anchor: float | None = None
    grow: int = 0

    @property
    def keeps(self) -> bool:
        """Whether a step ever uses what another one computed."""
        return self.refresh is not None

    def full_steps(self, steps: int) -> frozenset[int]:
        """Which of `steps` steps compute all tokens: fewer in a short schedule, and the first where nothing is known before it."""
        if self.refresh is None:
            return frozenset(range(steps))
        most = round(len(self.refresh) * min(1.0, steps / 20))
        first = {0} if self.anchor is None else set()
        return frozenset(first | {min(int(share * steps), steps - 1) for share in self.refresh[:most]})

    def anchor_sigma(self, sigmas: Sequence[float]) -> float | None:
        """Noise level of the pass before the first step."""
        return None if self.anchor is None else float(sigmas[min(int(self.anchor * (len(sigmas) - 1)), len(sigmas) - 2)])


POLICIES: dict[Reuse, Policy] = {  # the knee of `python -m benchmarks.fidelity --sweep`, see docs/benchmark.md
    "fast": Policy(anchor=0.3),
    "balanced": Policy(refresh=(0.65,), anchor=0.3),
    "exact": Policy(refresh=None),
}


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """Index of the step, of those between falling `sigmas`, that a model call at `sigma` belongs to."""
    for index in range(len(sigmas) - 1):
        if sigma > sigmas[index + 1] * (1 + 1e-6):
            return index
    return max(len(sigmas) - 2, 0)


def grow_tokens(mask: Tensor, rows: int, cols: int, tokens: int) -> Tensor:
    """Hole tokens [B, N] bool, grown by `tokens` on all sides."""
    if tokens == 0:
        return mask
    grid = mask.view(-1, 1, rows, cols).float()
    return F.max_pool2d(grid, 2 * tokens + 1, 1, tokens).flatten(1) > 0


@dataclass(frozen=True)
class Whole:
    """Between the strip of one image's hole tokens that a sampler sees and the whole latent that a full pass sees.

    `index` [K] int64 are the hole's tokens in a grid of `rows` x `cols`, `patch` latents a side each.
    """

    index: Tensor
    rows: int
    cols: int
    patch: int

    def put(self, strip: Tensor, latent: Tensor) -> Tensor:
        """Strip [B, C, K p, p] over latent [B, C, h, w] -> a new latent."""
        tokens = patchify(latent, self.patch)
        tokens = tokens.index_copy(1, self.index, patchify(strip, self.patch).to(tokens))
        return unpatchify(tokens, self.patch, self.rows, self.cols)

    def take(self, latent: Tensor) -> Tensor:
        """Latent [B, C, h, w] -> strip [B, C, K p, p]."""
        tokens = patchify(latent, self.patch)[:, self.index]
        return unpatchify(tokens, self.patch, len(self.index), 1)
