"""Attention of a stock transformer in a lazy run: what passes over all tokens keep, and steps on the hole read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...lazy_core.kv.split import Near, Split
from ...lazy_core.kv.store import KeptKV
from .family import Family
from .passes import Group, Pass, select_rows
from .roles import Prefix, Role


class HoleAttention:
    """Keeps keys and values of a run's passes in `kept`, and gives them to its steps on the hole; `near` says of which
    visible tokens there are means instead.
    """

    def __init__(self, family: Family, transformer: Any, kept: KeptKV, near: Near | None = None):
        self.family, self.transformer, self.kept, self.near = family, transformer, kept, near
        self.groups: Sequence[Group] = ()
        self.images = 0
        self.roles: dict[Prefix, list[Role]] = {}
        self.splits: dict[tuple[int, int, int], Split] = {}

    def start(self, groups: Sequence[Group], images: int) -> None:
        """Sampling begins, with these holes on the device that computes."""
        self.groups, self.images = groups, images

    def forget(self) -> None:
        """Drop everything that is kept."""
        self.kept.forget()
        self.splits = {}

    def attend(
        self, now: Pass, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The host's attention in the pass `now`, counted. Layouts [B, H, L, D] and [B, L, H D].

        Raises ValueError for a call too many, and for an attention mask.
        """
        if now.attention_calls == now.limit:
            raise ValueError(
                "a patch runs a block of the model more often than once, which steps on the hole alone cannot follow. "
                "Set reuse to exact on Encode Context, or take that patch off the model."
            )
        roles = self.roles_of(now.prefix)
        role = roles[now.attention_calls] if now.attention_calls < len(roles) else "joint"
        call, now.attention_calls = now.attention_calls, now.attention_calls + 1
        if role == "text":
            return function(q, k, v, *args, **kwargs)
        call -= roles[:call].count("text")  # of which a pass over all tokens may make more than one on the hole's
        mask = kwargs.get("mask", args[1] if len(args) > 1 else None)
        if mask is not None:
            raise ValueError(
                "the conditioning has an attention mask, which Lazy Decode cannot apply to hole tokens. "
                "Set reuse to exact on Encode Context, or remove that node."
            )
        before = {"joint": now.tokens_before, "pictures": self.family.references_before(now.prefix)}
        return self.exchanged(now, call, before.get(role, 0), function, q, k, v, *args, **kwargs)

    def attend_control(
        self, now: Pass, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Attention in a control patch's own block, between the picture's tokens."""
        now.control_calls += 1
        return self.exchanged(now, -now.control_calls, 0, function, q, k, v, *args, **kwargs)

    def exchanged(
        self,
        now: Pass,
        call: int,
        start: int,
        function: Callable[..., Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """Attention of the `call` of that number, in which the picture's tokens begin at `start`: in a pass over all
        tokens keys and values are kept, on the hole they are read.
        """
        if not kwargs.get("skip_reshape"):
            k, v = k.flatten(2), v.flatten(2)  # SD3 leaves its values' heads apart
        if now.kind == "sparse":
            hole = slice(start, start + len(self.groups[now.group].hole.index))  # what comes after is padding
            key = (now.batch, now.group)
            k, v = self.kept.extend(key, call, k[..., hole, :], v[..., hole, :], now.fraction)
            if (bias := self.kept.bias(key, call, q)) is not None:
                args, kwargs = args[:1], {**kwargs, "mask": bias.expand(len(q), -1, q.shape[-2], -1)}
            return function(q, k, v, *args, **kwargs)
        for number, group in enumerate(self.groups):
            keys, values = select_rows((k, v), group.rows(now.batch_size, self.images), now.batch_size)
            split = self.split(number, k.shape[-2], start, k.device)
            self.kept.keep((now.batch, number), call, keys, values, split, now.later)
        return function(q, k, v, *args, **kwargs)

    def roles_of(self, prefix: Prefix) -> list[Role]:
        """What the attention calls of a pass see, as far as the family lists them."""
        if prefix not in self.roles:
            self.roles[prefix] = self.family.roles(self.transformer, prefix)
        return self.roles[prefix]

    def split(self, group: int, total: int, offset: int, device: torch.device) -> Split:
        """Which tokens of a sequence are the hole's, counted from `offset`, and what is kept of the others."""
        if (key := (group, total, offset)) not in self.splits:
            hole = self.groups[group].hole
            pools = None if self.near is None else self.near.pools(hole)
            self.splits[key] = Split.of(hole.index.to(device), total, offset, pools)
        return self.splits[key]
