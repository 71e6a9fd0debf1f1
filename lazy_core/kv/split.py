"""Which of a sequence's tokens are the hole's, and what is kept of the others: all, or, far from the hole, means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .policy import HoleInLatent


@dataclass(frozen=True)
class Near:
    """Visible tokens up to `reach` tokens from the hole are kept one by one, those beyond as means of squares of `side`
    tokens.
    """

    reach: int
    side: int

    def pools(self, hole: HoleInLatent) -> Tensor:
        """-> [rows x cols] int64: which mean each of a grid's tokens goes into; -1: it is kept as it is."""
        near = torch.zeros(1, 1, hole.rows, hole.cols)
        near.view(-1)[hole.index.cpu()] = 1
        near = F.max_pool2d(near, 2 * self.reach + 1, stride=1, padding=self.reach)[0, 0] > 0
        row, col = torch.arange(hole.rows) // self.side, torch.arange(hole.cols) // self.side
        square = torch.where(near, -1, row[:, None] * (1 + int(col[-1])) + col).flatten()
        names, number = square.unique(return_inverse=True)
        return number - int(names[0] < 0)


Visible = Literal["all", "near"]
"""Which visible tokens the hole's tokens attend to: all, or those near it and means of the others."""
VISIBLE: tuple[Visible, ...] = get_args(Visible)
NEAR: dict[Visible, Near | None] = {"all": None, "near": Near(reach=4, side=4)}


@dataclass(frozen=True)
class Split:
    """Which tokens of a sequence of `total` are the hole's, ascending [K] int64, and which of the others [L] int64 are
    kept as they are.

    Others are pooled: `pooled` [M] int64 are those tokens, `pool` [M] the mean that each goes into, of `sizes` [P].
    """

    hole: Tensor
    others: Tensor
    total: int
    pooled: Tensor | None = None
    pool: Tensor | None = None
    sizes: Tensor | None = None

    @classmethod
    def of(cls, hole: Tensor, total: int, offset: int = 0, pools: Tensor | None = None) -> Split:
        """`hole` [K] and `pools` [N] (`Near.pools`) count from `offset`, where a sequence's image tokens begin."""
        keep = torch.ones(total, dtype=torch.bool, device=hole.device)
        keep[hole + offset] = False
        if pools is None or not bool((pools >= 0).any()):
            return cls(hole + offset, keep.nonzero()[:, 0], total)
        far = (pools >= 0).nonzero()[:, 0].to(hole.device)
        keep[far + offset] = False
        pool = pools.to(hole.device)[far]
        return cls(hole + offset, keep.nonzero()[:, 0], total, far + offset, pool, pool.bincount())

    @cached_property
    def order(self) -> Tensor:
        """All tokens but those pooled, the hole's last."""
        return torch.cat([self.others, self.hole])

    @property
    def kept(self) -> int:
        """Rows that are kept: tokens, and means."""
        return len(self.others) + (0 if self.sizes is None else len(self.sizes))

    def arranged(self, values: Tensor) -> Tensor:
        """Keys or values [..., total, D] -> [..., L + P + K, D]: tokens that are kept, means, the hole's."""
        if self.pooled is None or self.pool is None or self.sizes is None:
            return values.index_select(-2, self.order)
        means = values.new_zeros(*values.shape[:-2], len(self.sizes), values.shape[-1], dtype=torch.float32)
        means.index_add_(-2, self.pool, values.index_select(-2, self.pooled).float())
        means = (means / self.sizes[:, None]).to(values)
        return torch.cat([values.index_select(-2, self.others), means, values.index_select(-2, self.hole)], -2)

    @cached_property
    def bias(self) -> Tensor | None:
        """What is added to attention's logits [L + P + K], so that a mean of n tokens weighs as much as they: log n.

        None where nothing is pooled.
        """
        if self.sizes is None:
            return None
        bias = torch.zeros(self.kept + len(self.hole), device=self.hole.device)
        bias[len(self.others) : self.kept] = self.sizes.log()
        return bias
