"""One sampling run of a stock transformer over hole tokens: what the host's forward is told, and what it is spared.

The sampler sees a strip of the hole's tokens. In a full pass the model runs on the whole latent, as ever, and the keys and values
of every token but the hole's are kept. In a sparse pass it runs on the strip, at the hole's true positions, with a single token of
text, and its attention reads what was kept. The host's forward is never rewritten, and no weight is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...lazy_core.kept import KeptKV, Split
from ...lazy_core.reuse import Policy, Whole, step_at
from .families import Family, Role

WHOLE_IMAGE = ("ref_latents", "ref_latents_method", "attention_mask")  # conditions that a full pass alone can take


@dataclass(frozen=True)
class Canvas:
    """What a run knows of the picture, in the model's units: clean latent and noise [B, C, h, w], and where the hole lies.

    `concat` [B, C', h, w] is an inpainting model's mask and masked image, or None.
    """

    latent: Tensor
    noise: Tensor
    whole: Whole
    concat: Tensor | None = None


@dataclass
class Pass:
    """A model call under way: all tokens or the hole's, for which conditionings, and how far the forward has come.

    `later`: all tokens at a noise level to come; `weight`: how far towards it the hole's tokens are, 0 to 1.
    """

    full: bool
    batch: tuple[Any, ...]
    text: int
    later: bool = False
    weight: float = 0.0
    attention: int = 0
    positions: int = 0


@dataclass
class Between:
    """Where a batch of conditionings is between passes over all tokens: that of step `levels[behind]` and the next one.

    `hole` is its last clean strip [B, C, (1,) K p, p], if any.
    """

    levels: list[int]
    hole: Tensor | None = None
    behind: int = 0

    @property
    def more(self) -> bool:
        return self.behind + 1 < len(self.levels)


class Run:
    def __init__(self, base: Any, family: Family, canvas: Canvas, policy: Policy, kept: KeptKV):
        self.base, self.family, self.canvas, self.policy = base, family, canvas, policy
        self.transformer = base.diffusion_model
        self.roles: list[Role] = family.roles(self.transformer)
        self.kept = kept
        self.places: dict[Any, list[Tensor]] = {}
        self.full_text: dict[Any, int] = {}
        self.between: dict[Any, Between] = {}
        self.under_way: Pass | None = None
        self.passes = {True: 0, False: 0}
        self.seconds: dict[bool, list[float]] = {True: [], False: []}
        self.calls = 0
        self.splits: dict[tuple[int, int], Split] = {}

    def forget(self) -> None:
        """The run is over. The host takes its patches off the model only when it loads the next; keys and values must not wait for that."""
        self.kept.forget()
        self.places, self.splits, self.between = {}, {}, {}

    # -- a model call -----------------------------------------------------------------------------------------------
    def apply(
        self, execute: Any, x: Tensor, t: Tensor, concat: Any, text: Tensor, control: Any = None, options: Any = None, **conds: Any
    ) -> Tensor:
        """Around the host's `apply_model`: noisy strip [B, C, (1,) K p, p] at sigma t [B] -> clean strip."""
        self.calls += 1
        options = options if options is not None else conds.pop("transformer_options", {})
        batch = tuple(options.get("uuids") or options.get("cond_or_uncond") or ())
        sigmas = [float(sigma) for sigma in options.get("sample_sigmas", t[:1])]
        call = (execute, text, options, batch, conds)
        if not self.policy.keeps:
            return self.here(x, t, *call)
        step = step_at(float(t[0]), sigmas)
        now = self.between.get(batch)
        if now is None:
            now = self.between[batch] = Between(self.policy.levels(len(sigmas) - 1))
            if step >= now.levels[0]:  # or later, where the host batches conditionings in a new way as memory got short
                now.levels = [step, *(level for level in now.levels if level > step)]
                now.hole = self.here(x, t, *call)
                self.look_ahead(x, t, sigmas, now, 1, *call)
                return now.hole
            for which in (0, 1):
                self.look_ahead(x, t, sigmas, now, which, *call)
        while now.more and step >= now.levels[now.behind + 1]:
            now.behind += 1
            self.kept.advance(batch, last=not now.more)
            self.look_ahead(x, t, sigmas, now, 1, *call)
        now.hole = self.run_sparse(x, t, *call, weight=self.weight(float(t[0]), sigmas, now))
        return now.hole

    def here(self, x: Tensor, t: Tensor, *call: Any) -> Tensor:
        """All tokens at the strip's own noise level t [B] -> clean strip."""
        whole = self.canvas.whole.put(flat(x), self.noised(x, t).to(x))
        return self.like(x, self.canvas.whole.take(flat(self.run_full(self.like(x, whole), t, *call))))

    def look_ahead(self, x: Tensor, t: Tensor, sigmas: list[float], now: Between, which: int, *call: Any) -> None:
        """All tokens at the noise level of the pass behind (0) or of the one after it (1), if there is one."""
        index = now.behind + which
        if index < len(now.levels):
            level = torch.full_like(t, sigmas[now.levels[index]])
            self.run_full(self.like(x, self.noised(x, level, now.hole)), level, *call, later=which == 1)

    def weight(self, sigma: float, sigmas: list[float], now: Between) -> float:
        """How far `sigma` is from the pass behind to the one after it, 0 to 1, in the network's own time."""
        if not now.more:
            return 0.0
        known = [sigma, *(sigmas[now.levels[now.behind + which]] for which in (0, 1))]
        time, behind, after = (float(self.base.model_sampling.timestep(torch.tensor(each))) for each in known)
        return min(max((behind - time) / (behind - after), 0.0), 1.0) if behind != after else 0.0

    def run_full(
        self, x: Tensor, t: Tensor, execute: Any, text: Tensor, options: Any, batch: Any, conds: Any, later: bool = False
    ) -> Tensor:
        self.places[batch] = []
        self.full_text[batch] = self.family.text_tokens(self.transformer, text.shape[1])
        with self.told(Pass(True, batch, self.full_text[batch], later)):
            return execute(x, t, self.repeated(self.canvas.concat, x), text, None, options, **conds)

    def run_sparse(
        self, x: Tensor, t: Tensor, execute: Any, text: Tensor, options: Any, batch: Any, conds: Any, weight: float = 0.0
    ) -> Tensor:
        concat = None if self.canvas.concat is None else self.repeated(self.canvas.whole.take(self.canvas.concat), x)
        conds = {name: value for name, value in conds.items() if name not in WHOLE_IMAGE}
        if self.family.text_in_sequence:
            text = text[:, :1]  # as few tokens as the host's reshapes can take; nobody reads what becomes of it
        with self.told(Pass(False, batch, self.family.text_tokens(self.transformer, text.shape[1]), weight=weight)):
            return execute(x, t, concat, text, None, options, **conds)

    @contextmanager
    def told(self, under_way: Pass) -> Iterator[None]:
        self.under_way = under_way
        self.passes[under_way.full] += 1
        begin = clock()
        try:
            yield
        finally:
            self.under_way = None
        self.seconds[under_way.full].append(clock() - begin)

    @property
    def saved_seconds(self) -> float:
        """What the run took less than as many passes over all tokens as the sampler asked for, each as fast as the run's fastest."""
        full, sparse = self.seconds[True], self.seconds[False]
        return self.calls * min(full) - sum(full) - sum(sparse) if full and sparse else 0.0

    @property
    def is_sparse(self) -> bool:
        """Whether the pass under way computes the hole's tokens alone."""
        return self.under_way is not None and not self.under_way.full

    # -- latents ----------------------------------------------------------------------------------------------------
    def noised(self, x: Tensor, t: Tensor, hole: Tensor | None = None) -> Tensor:
        """The canvas at noise level t [B] -> [B, C, h, w] for all conditionings in x [B, ...]; `hole`: a clean strip to put into it."""
        latent, noise = (self.repeated(part, x) for part in (self.canvas.latent, self.canvas.noise))
        if hole is not None:
            latent = self.canvas.whole.put(flat(hole), latent)
        return self.base.scale_latent_inpaint(x=x, sigma=t, noise=noise, latent_image=latent)

    @staticmethod
    def repeated(part: Tensor | None, x: Tensor) -> Any:
        """[B, ...] once more for each of the conditionings that x carries, on its device."""
        return None if part is None else part.to(x.device).repeat(len(x) // len(part), *[1] * (part.dim() - 1))

    @staticmethod
    def like(x: Tensor, latent: Tensor) -> Tensor:
        """Some models' latents have a time axis of one."""
        return latent.unsqueeze(2) if x.dim() == 5 else latent

    # -- positions --------------------------------------------------------------------------------------------------
    def positions(self, compute: Callable[[], Tensor], axis: int, wanted: int | None = None) -> Tensor:
        """Positional embeddings along `axis`: recorded in a full pass; in a sparse one those of the hole.

        `wanted`: how many tokens the forward asks for, dummies of text and padding included; None means the hole's alone.
        """
        now = self.under_way
        if now is None:
            return compute()
        recorded = self.places[now.batch]
        if now.full:
            recorded.append(compute())
            return recorded[-1]
        known, last = recorded[now.positions], now.positions == len(recorded) - 1
        now.positions += 1
        rows = self.canvas.whole.index.to(known.device)
        if wanted is not None:
            text = torch.arange(now.text if last else wanted, device=known.device)
            if len(recorded) == 1:  # one call for text and image
                rows = torch.cat([text, rows + self.full_text[now.batch]])
            elif not last:  # newer hosts ask for each apart, the image last
                rows = text
            rows = torch.cat([rows, rows.new_zeros(wanted - len(rows))])
        return known.index_select(axis, rows)

    # -- attention --------------------------------------------------------------------------------------------------
    def attend(self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The host's attention, with the keys and values of the whole picture. Layouts [B, H, L, D] and [B, L, H D]."""
        now = self.under_way
        if now is None:
            return function(q, k, v, *args, **kwargs)
        role = self.roles[now.attention] if now.attention < len(self.roles) else "joint"
        call, now.attention = now.attention, now.attention + 1
        if role == "text":
            return function(q, k, v, *args, **kwargs)
        mask = kwargs.get("mask", args[1] if len(args) > 1 else None)
        if mask is not None:
            raise ValueError("the conditioning has an attention mask, which Lazy Decode cannot apply to hole tokens. Remove that node.")
        if not kwargs.get("skip_reshape"):
            k, v = k.flatten(2), v.flatten(2)  # SD3 leaves its values' heads apart
        start = now.text if role == "joint" else 0
        if not now.full:
            hole = slice(start, start + len(self.canvas.whole.index))  # what comes after is padding
            k, v = self.kept.extend(now.batch, call, k[..., hole, :], v[..., hole, :], now.weight)
        elif self.policy.keeps:
            self.kept.keep(now.batch, call, k, v, self.split(k.shape[-2], start, k.device), now.later)
        return function(q, k, v, *args, **kwargs)

    def split(self, total: int, offset: int, device: torch.device) -> Split:
        if (total, offset) not in self.splits:
            self.splits[total, offset] = Split.of(self.canvas.whole.index.to(device), total, offset)
        return self.splits[total, offset]


def clock() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def flat(latent: Tensor) -> Tensor:
    return latent.squeeze(2) if latent.dim() == 5 else latent
