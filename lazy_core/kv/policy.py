"""Training-free lazy edits: a stock transformer denoises the hole's tokens against keys and values kept from passes
over all tokens.

The mask is known before the first step, what is visible is known exactly at every noise level, and positions never
move: so the keys and values of all tokens but the hole's, as attention sees them (after norm and rotary embedding), can
be kept from a few full passes (`store.py`) and used by sparse steps. With those of the same step a sparse step is
exact; with those of other noise levels, interpolated between them, it is an approximation whose error the `Policy`
bounds. Compare RegionE (arXiv 2510.25590) and SpotEdit (arXiv 2512.22323), which have to find the region first and keep
keys before the rotary embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..tokens import patchify, unpatchify

Reuse = Literal["fast", "balanced", "exact"]
REUSES: tuple[Reuse, ...] = get_args(Reuse)


@dataclass(frozen=True)
class Policy:
    """At which noise levels all tokens are computed; between two of them keys and values are interpolated.

    `plans`: what to do with one such pass, with two, and so on: the shares of the steps, 0 (the first) to 1, at whose
    noise levels they are, rising; short schedules take an earlier plan. None is a pass at every step.

    A pass at 0 is the first step itself. One further on is made as soon as the run comes to the one before it, with the
    canvas as it is at that level and the hole as it looks by then (before the first step: its smooth fill). A single
    pass at 0 would see nothing of the canvas, as of a flow model's visible tokens only noise is left there; so a plan
    of one pass looks ahead.
    """

    plans: tuple[tuple[float, ...], ...] | None

    @property
    def keeps(self) -> bool:
        """Whether a step ever uses what another one computed."""
        return self.plans is not None

    def levels(self, steps: int) -> list[int]:
        """The steps, of so many, at whose noise levels all tokens are computed."""
        if self.plans is None:
            return list(range(steps))
        passes = max(round(len(self.plans) * min(1.0, steps / 20)), 1)
        return sorted({min(int(share * steps), steps - 1) for share in self.plans[passes - 1]})

    def at_once(self, steps: int) -> int:
        """How many passes' keys and values are kept at the same time."""
        return min(len(self.levels(steps)), 2) if self.keeps else 0


Policies = dict[Reuse, Policy]
POLICIES: Policies = {  # the knee of `python -m benchmarks.fidelity --sweep`, see docs/benchmark.md
    "fast": Policy(((0.3,),)),
    "balanced": Policy(((0.3,), (0.2, 0.6))),
    "exact": Policy(None),
}
EARLY: Policies = {  # for networks whose keys and values change most in the first steps
    "fast": Policy(((0.1,),)),
    "balanced": Policy(((0.1,), (0.0, 0.35), (0.0, 0.15, 0.55))),
    "exact": Policy(None),
}


def step_at(sigma: float, sigmas: Sequence[float]) -> int:
    """Index of the step, of those between falling `sigmas`, that a model call at `sigma` belongs to."""
    for index in range(len(sigmas) - 1):
        if sigma > sigmas[index + 1] * (1 + 1e-6):
            return index
    return max(len(sigmas) - 2, 0)


@dataclass(frozen=True)
class HoleInLatent:
    """Where one image's hole tokens lie in its latent: a sparse pass sees a strip of them, a full pass the latent.

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
