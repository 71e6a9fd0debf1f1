"""One sampling run of a stock transformer over hole tokens: what the host's forward is told, and what it is spared.

Samplers, guidance and the host's noise mask see whole latents, as ever; only model calls are lazy. In a full pass the
model runs on the whole latent, and the keys and values of every token but the hole's are kept. In a sparse pass it runs
on a strip of the hole's tokens, at their true positions, with a single token of text, and its attention reads what was
kept. The host's forward is never rewritten, and no weight is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...lazy_core.kv.policy import Policy, step_at
from ...lazy_core.kv.split import Near
from ...lazy_core.kv.store import KeptKV
from ..host.control import on_hole
from .attention import HoleAttention
from .controlnets import ControlNets, part_of
from .family import Family
from .passes import (
    Call,
    FullPasses,
    Group,
    Kind,
    KnownLatents,
    Pass,
    clock,
    drop_time_axis,
    replaced_blocks,
    restore_time_axis,
    select_rows,
)
from .roles import Prefix

# Conditions that a full pass alone can take.
WHOLE_IMAGE = ("ref_latents", "ref_latents_method", "image_slots", "siglip_feats", "attention_mask")


class Run:
    """One sampling run of the transformer in `base`, on the holes of `groups`; `policy` says at which steps it computes
    all tokens.

    Keys and values of these lie in `kept`. Calls of the host's model reach `apply`, of its attention `attend`, of its
    positional embedder `positions` (`hooks`). A run belongs to one thread.
    """

    def __init__(
        self,
        base: Any,
        family: Family,
        groups: Sequence[Group],
        policy: Policy,
        kept: KeptKV,
        near: Near | None = None,
    ):
        self.base, self.family, self.groups, self.policy = base, family, groups, policy
        self.transformer = base.diffusion_model
        self.kept, self.attention = kept, HoleAttention(family, self.transformer, kept, near)
        self.control_nets = ControlNets()
        self.control_patches: list[Any] = []
        self.canvas: KnownLatents
        self.recorded_positions: dict[Any, list[Tensor]] = {}
        self.tokens_before: dict[Any, int] = {}
        self.control_calls: dict[Any, int] = {}
        self.full_passes: dict[Any, FullPasses] = {}
        self.under_way: Pass | None = None
        self.passes = {"full": 0, "sparse": 0}
        self.seconds: dict[Kind, list[float]] = {"full": [], "sparse": []}
        self.model_calls = 0

    def start(self, canvas: KnownLatents) -> None:
        """Sampling begins, on the device where the canvas is."""
        self.canvas = canvas
        self.groups = [group.to(canvas.latent.device) for group in self.groups]
        self.attention.start(self.groups, len(canvas.latent))

    def forget(self) -> None:
        """The run is over. The host takes its patches off the model only when it loads the next; keys and values must
        not wait for that.
        """
        self.attention.forget()
        self.recorded_positions, self.full_passes = {}, {}

    # -- a model call -----------------------------------------------------------------------------------------------
    def apply(
        self,
        execute: Any,
        x: Tensor,
        t: Tensor,
        concat: Any,
        text: Tensor,
        control: Any,
        options: Any,
        conds: dict[str, Any],
    ) -> Tensor:
        """Around the host's `apply_model`: noisy latents [B, C, (1,) h, w] at sigma t [B] -> clean ones, computed anew
        in the holes.
        """
        self.model_calls += 1
        parts = tuple(options.get("uuids") or options.get("cond_or_uncond") or ())
        batch = (parts, replaced_blocks(options))
        if parts and len(x) != len(parts) * len(self.canvas.latent):
            raise ValueError(
                f"the model was called with {len(x)} latents, expected {len(self.canvas.latent)} for each of"
                f" {len(parts)} prompts: a wrapper on MODEL splits calls. Set reuse to exact on Encode Context, or"
                " remove it."
            )
        call = Call(execute, concat, text, options, batch, conds, control, self.control_nets.take(control))
        return self.step(x, t, call)

    def step(self, x: Tensor, t: Tensor, call: Call) -> Tensor:
        """Noisy latents at sigma t [B] -> clean ones: by passes over all tokens where the policy has them, and between
        these by the hole's tokens alone.
        """
        sigmas = [float(sigma) for sigma in call.options.get("sample_sigmas", t[:1])]
        step, now = step_at(float(t[0]), sigmas), self.full_passes.get(call.batch)
        if now is None:
            now = self.full_passes[call.batch] = FullPasses(self.policy.levels(len(sigmas) - 1))
            if step >= now.steps[0]:  # or later, where the host batches conditionings in a new way as memory got short
                now.steps = [step, *(later for later in now.steps if later > step)]
                now.denoised = now.denoised_full[0] = self.run_full(x, t, call)
                self.look_ahead(x, t, sigmas, now, 1, call)
                return now.denoised
            for which in (0, 1):
                self.look_ahead(x, t, sigmas, now, which, call)
        while now.more and step >= now.steps[now.behind + 1]:
            now.behind += 1
            now.denoised_full = [now.denoised_full[1], None]
            for group in range(len(self.groups)):
                self.kept.advance((call.batch, group), last=not now.more)
            self.look_ahead(x, t, sigmas, now, 1, call)
        fraction = now.fraction(float(t[0]), sigmas, self.timestep)
        now.denoised = self.run_sparse(x, t, now.interpolated(fraction), call, fraction)
        return now.denoised

    def look_ahead(self, x: Tensor, t: Tensor, sigmas: list[float], now: FullPasses, which: int, call: Call) -> None:
        """Run all tokens at the noise level of the pass behind (`which` 0) or of the one after it (1), if there is one,
        and keep what it leaves: keys and values, and its denoised latents.
        """
        index = now.behind + which
        if index < len(now.steps):
            level = torch.full_like(t, sigmas[now.steps[index]])
            # What the host says of the step, for models and patches that read it.
            noised = self.canvas.noised(self.base, x, level, now.denoised)
            control = None if call.compute_control is None else call.compute_control(noised, level)
            call = call._replace(options={**call.options, "sigmas": level}, control=control)
            now.denoised_full[which] = self.run_full(noised, level, call, later=which == 1)

    def timestep(self, sigma: float) -> float:
        """A noise level in the network's own time."""
        return float(self.base.model_sampling.timestep(torch.tensor(sigma)))

    def run_full(self, x: Tensor, t: Tensor, call: Call, later: bool = False) -> Tensor:
        """All tokens at noise level t [B] -> clean latents; `later`: at one that the run has not come to."""
        batch, conds = call.batch, call.conds
        self.recorded_positions[batch] = []
        self.passes["full"] += 1
        prefix = self.family.prefix_of(self.transformer, call.text.shape[1], conds)
        before = self.tokens_before[batch] = self.family.tokens_before(self.transformer, prefix)
        with self.running(Pass("full", batch, prefix, before, len(x), later=later)):
            clean = call.execute(x, t, call.concat, call.text, call.control, call.options, **conds)
        recorded = self.recorded_positions[batch]
        if len(recorded) > 2:  # a step on the hole has one text and no references
            self.recorded_positions[batch] = [recorded[0], recorded[-1 - prefix.late]]
        return clean

    def run_sparse(self, x: Tensor, t: Tensor, around: Tensor, call: Call, fraction: float = 0.0) -> Tensor:
        """The hole's tokens alone, group by group -> clean latents: `around` [B, C, (1,) h, w] with the holes put into
        it.

        `fraction`, 0 to 1: how far from the keys and values of the pass behind to those of the later one.
        """
        text, conds = call.text, {name: value for name, value in call.conds.items() if name not in WHOLE_IMAGE}
        for each in self.family.more_text:
            value = conds.pop(each.told, None)
            if value is not None and each.least is not None:
                conds[each.told] = each.least(value)
        if self.family.text_in_sequence:
            text = text[:, :1]  # as few tokens as the host's reshapes can take; nobody reads what becomes of it
            conds |= {"num_tokens": 1} if self.family.counts_text else {}
        prefix, before = Prefix(text.shape[1]), self.family.tokens_before(self.transformer, Prefix(text.shape[1]))
        self.passes["sparse"] += 1
        for number, group in enumerate(self.groups):
            hole, rows = group.hole, group.rows(len(x), len(self.canvas.latent))
            part = select_rows((x, t, call.concat, text, conds), rows, len(x))
            strips = [
                None if each is None else restore_time_axis(x, hole.take(drop_time_axis(each)))
                for each in (part[0], part[2])
            ]
            with self.running(Pass("sparse", call.batch, prefix, before, len(part[0]), number, fraction=fraction)):
                options = on_hole(call.options, hole, rows, len(x), self.control_patches)
                control = part_of(call.control, hole, rows, len(x))
                clean = call.execute(strips[0], part[1], strips[1], part[3], control, options, **part[4])
            put = restore_time_axis(
                x, hole.put(drop_time_axis(clean), drop_time_axis(select_rows(around, rows, len(x))))
            )
            around = (
                put if rows is None else around.index_copy(0, torch.tensor(rows, device=around.device), put.to(around))
            )
        return around

    @contextmanager
    def running(self, under_way: Pass) -> Iterator[None]:
        """While a pass runs: hooks know it, it is timed, and its calls are counted. Raises ValueError where calls were
        missed.
        """
        self.under_way = under_way
        begin = clock()
        try:
            yield
        finally:
            self.under_way = None
        self.seconds[under_way.kind].append(clock() - begin)
        if under_way.kind == "full":
            self.control_calls[under_way.batch] = under_way.control_calls
        recorded = len(self.recorded_positions[under_way.batch])
        asked = recorded if under_way.kind == "full" else under_way.position_calls
        counts = [
            ("attention calls", under_way.attention_calls, self.family.calls(self.transformer, under_way.prefix)),
            ("attention calls of control patches", under_way.control_calls, self.control_calls[under_way.batch]),
            ("requests for positions", asked, recorded or 1),
        ]
        for what, got, expected in counts:
            if got != expected:
                raise ValueError(
                    f"a pass made {got} {what}, expected {expected}: something on MODEL, or another run of it at the"
                    " same time, came between. Set reuse to exact on Encode Context, or take it off the model."
                )

    @property
    def here_and_now(self) -> Pass | None:
        """The pass that this thread is in, if any: hooks that lie in a model's modules are called by other runs of it,
        too.
        """
        now = self.under_way
        return now if now is not None and now.thread == threading.get_ident() else None

    @property
    def saved_seconds(self) -> float:
        """What the run took less than as many passes over all tokens as the sampler asked for, each as fast as the
        run's fastest.
        """
        full, sparse = self.seconds["full"], self.seconds["sparse"]
        return self.model_calls * min(full) - sum(full) - sum(sparse) if full and sparse else 0.0

    @property
    def is_sparse(self) -> bool:
        """Whether the pass under way computes the hole's tokens alone."""
        now = self.here_and_now
        return now is not None and now.kind == "sparse"

    # -- positions --------------------------------------------------------------------------------------------------
    def positions(self, compute: Callable[[], Tensor], axis: int, wanted: int | None = None) -> Tensor:
        """Positional embeddings along `axis`: recorded in a full pass; in a sparse one those of the hole.

        `wanted`: how many tokens the forward asks for, dummies of text and padding included; None means the hole's
        alone.
        """
        now = self.here_and_now
        if now is None:
            return compute()
        recorded = self.recorded_positions[now.batch]
        if now.kind == "full":
            recorded.append(compute())
            return recorded[-1]
        known, last = recorded[now.position_calls], now.position_calls == len(recorded) - 1
        now.position_calls += 1
        rows = self.groups[now.group].hole.index.to(known.device)
        if wanted is not None:
            known = known[: now.batch_size]  # the same for every image and prompt, of which a group has fewer
            text = torch.arange(now.tokens_before if last else wanted, device=known.device)
            if len(recorded) == 1:  # one call for text and image
                rows = torch.cat([text, rows + self.tokens_before[now.batch]])
            elif not last:  # newer hosts ask for each apart, the image last
                rows = text
            rows = torch.cat([rows, rows.new_zeros(wanted - len(rows))])
        return known.index_select(axis, rows)

    # -- attention --------------------------------------------------------------------------------------------------
    def attend(
        self, function: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The host's attention, with the keys and values of the whole picture. Layouts [B, H, L, D] and [B, L, H D]."""
        now = self.here_and_now
        if now is None:
            return function(q, k, v, *args, **kwargs)
        return self.attention.attend(now, function, q, k, v, *args, **kwargs)

    def attend_control(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The same in the blocks of control patches."""
        now = self.here_and_now
        return (
            function(*args, **kwargs) if now is None else self.attention.attend_control(now, function, *args, **kwargs)
        )
