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


def cost(levels: list[int], steps: int, share: float) -> float:
    """Token-steps of a run with passes over all tokens at `levels`, as a share of all tokens at every step."""
    sparse = steps - (0 in levels)  # the first step may be a pass itself; one ahead replaces no step
    return (len(levels) + sparse * share) / steps


@dataclass(frozen=True)
class Plan:
    """Passes over all tokens, for runs of at least `steps` steps: whatever their holes, as the images of a batch share
    their passes and are to be what each is by itself.

    `levels` are the shares of the steps, 0 (the first) to 1, at whose noise levels the passes are, rising.
    """

    levels: tuple[float, ...]
    steps: int = 1

    def at(self, steps: int) -> list[int]:
        """The steps, of so many, at whose noise levels all tokens are computed."""
        return sorted({min(int(level * steps), steps - 1) for level in self.levels})


@dataclass(frozen=True)
class Policy:
    """At which noise levels all tokens are computed; between two of them keys and values are interpolated.

    Of `plans` the last one that fits is taken: the first one fits every run. None is a pass at every step.

    A pass at 0 is the first step itself. One further on is made as soon as the run comes to the one before it, with the
    canvas as it is at that level and the hole as it looks by then (before the first step: its smooth fill). A single
    pass at 0 would see nothing of the canvas, as of a flow model's visible tokens only noise is left there; so a plan
    of one pass looks ahead.
    """

    plans: tuple[Plan, ...] | None

    @property
    def keeps(self) -> bool:
        """Whether a step ever uses what another one computed."""
        return self.plans is not None

    def levels(self, steps: int) -> list[int]:
        """The steps, of so many, at whose noise levels all tokens are computed."""
        if self.plans is None:
            return list(range(steps))
        first, *others = self.plans
        fitting = [first, *(plan for plan in others if steps >= plan.steps)]
        return fitting[-1].at(steps)

    def cost(self, steps: int, share: float) -> float:
        """Token-steps that a run takes, as a share of those that all tokens at every step are."""
        return 1.0 if self.plans is None else cost(self.levels(steps), steps, share)

    def at_once(self, steps: int) -> int:
        """How many passes' keys and values are kept at the same time."""
        return min(len(self.levels(steps)), 2) if self.keeps else 0


Policies = dict[Reuse, Policy]
POLICIES: Policies = {  # the knee of `python -m benchmarks.fidelity --sweep`, see docs/benchmark.md
    "fast": Policy((Plan((0.3,)),)),
    "balanced": Policy((Plan((0.3,)), Plan((0.0, 0.65), steps=12), Plan((0.2, 0.6), steps=15))),
    "exact": Policy(None),
}
EARLY: Policies = {  # for networks whose keys and values change most in the first steps
    "fast": Policy((Plan((0.1,)),)),
    "balanced": Policy((Plan((0.1,)), Plan((0.0, 0.35), steps=10), Plan((0.0, 0.15, 0.55), steps=17))),
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
