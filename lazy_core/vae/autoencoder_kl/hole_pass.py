"""Decode the holes of a VAE that sees its whole picture at once (AutoencoderKL: SD, SDXL, Flux).

What a hole's window lacks comes from a record.

Its GroupNorms want the mean and variance of the whole picture, its attention the keys and values of all latents. A full
pass leaves both behind; later passes compute the holes and take the rest from there (the idea of SIGE, Li et al. 2022,
arXiv 2211.02048). As a hole's content moves the statistics, and they in turn everything outside it, probes all over the
canvas are computed along (`probes`): they tell how far the record has moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...attention import sdpa
from ...geometry import Box
from ..windows import DecodeImage
from . import probes
from .atlas import Atlas, UnexpectedShapeError
from .moments import (
    ChannelAffine,
    Moments,
    MomentShift,
    block_moments,
    groupnorm_affine,
    normalised,
    pooled_parts,
    probe_moments,
)
from .probes import BLOCK
from .record import Parts, Record, check_all_ran, norm_of, put, replaced

HOLE_HALOS = (
    8,
    4,
    3,
    2,
)  # latents around a hole, at each resolution from the latents' to the pixels': what its convolutions still see
COSTS = (0.08, 0.22, 0.35, 0.35)  # of a full decode's operations at each resolution, in SD, SDXL and Flux
MAX_VARIANCE_SHIFT = (
    0.2  # that variances may have moved since the full pass: of their logarithm, on average over a norm's groups
)
MAX_STANDARD_ERROR = 0.02  # that probes may disagree on it: the standard error of that
CONTENT_REACH = 2  # latents around a hole that count as computed, not as recorded: content reaches so far


class FarError(RuntimeError):
    """The holes have moved the picture's statistics too far from the record, or nobody knows how far."""


@dataclass
class HolePass:
    """One pass over the holes of a canvas, and the probes that go with it: `probe_ids` are their numbers in
    `probes.spread`.
    """

    record: Record
    boxes: list[Box]  # of the holes
    probe_ids: list[int]

    def __post_init__(self) -> None:
        everywhere = probes.spread(self.record.canvas)
        self.probes = [everywhere[i] for i in self.probe_ids]
        self.computed = [computed_box(box, self.record.canvas) for box in self.boxes]
        self.outside = self.record.blocks_outside(self.computed)
        self.level = 0
        self.atlas = Atlas.of(self.pieces(0), 1)
        self.attended: dict[str, Tensor] = {}  # each attention's input, normalised, all over the canvas
        self.moments: dict[str, list[Tensor]] = {}
        self.inputs: dict[str, list[Tensor]] = {}
        self.probe_moments: dict[str, Tensor] = {}
        self.probe_inputs: dict[str, Tensor] = {}

    @classmethod
    def over(cls, record: Record, boxes: list[Box]) -> HolePass:
        """With the probes that no hole touches."""
        near = [computed_box(box, record.canvas).grown(CONTENT_REACH) for box in boxes]
        numbered = enumerate(probes.spread(record.canvas))
        return cls(record, boxes, [i for i, probe in numbered if not any(probe.overlaps(box) for box in near)])

    @cached_property
    def known(self) -> Tensor:
        """Which of the probes were recorded [probes] bool: none in the pass that records them."""
        known = torch.full((len(self.probe_ids),), bool(self.record.probe_moments))
        for recorded in self.record.probe_moments.values():
            known &= torch.isfinite(recorded[..., self.probe_ids]).all(0).all(0)
        return known

    @cached_property
    def shares(self) -> Tensor:
        """Of the rest of the canvas that each known probe stands for."""
        numbers = torch.tensor(self.probe_ids)[self.known]
        recorded = {name: value[..., numbers] for name, value in self.record.probe_moments.items()}
        left = int(self.outside.sum())
        wholes = {
            name: Moments.of(value[:, :, self.outside]).pooled(1 / left) for name, value in self.record.moments.items()
        }
        return probes.shares(probes.areas(self.record.canvas)[numbers], recorded, wholes)

    def decode(self, parts: Parts, decode: DecodeImage, latent: Tensor) -> Tensor:
        """Decode the canvas's pieces in one map -> its pixels [1, 3, h, w]. Raises UnexpectedShapeError and
        FarError.
        """
        with replaced(parts, self.norm, self.attend, self.upsample, self.first):
            pixels = decode(self.gathered(latent))
        check_all_ran(parts, self.moments)
        if self.attended:
            raise UnexpectedShapeError(f"attention did not run: {sorted(self.attended)}")
        return pixels

    @property
    def cost(self) -> float:
        """Operations to a full decode's, roughly."""
        areas = (sum(piece.area for piece in self.pieces(level)) for level in range(len(COSTS)))
        return sum(area * cost for area, cost in zip(areas, COSTS, strict=True)) / self.record.canvas.area

    def pieces(self, level: int) -> list[Box]:
        """Return the parts of the canvas to compute at a resolution (`level` 0 is the latents'): holes, then probes,
        each with its halo.
        """
        halo, small = (halos[min(level, len(halos) - 1)] for halos in (HOLE_HALOS, probes.PROBE_HALOS))
        around = [box.grown(halo).union(live) for box, live in zip(self.boxes, self.computed, strict=True)]
        around += [box.grown(small) for box in self.probes]
        return [box.within(self.record.canvas) for box in around]

    def gathered(self, latent: Tensor) -> Tensor:
        """Copy the pieces of a latent [1, C, h, w] into one map."""
        pieces = self.atlas.blank(latent)
        for piece, slot in zip(self.atlas.pieces, self.atlas.slots, strict=True):
            slot.cut(pieces).copy_(piece.cut(latent))
        return pieces

    def first(self, name: str, module: nn.Module, original: Any, x: Tensor) -> Tensor:
        """Zero between the pieces, as convolutions pad with it; what comes before may have made something of the
        nothing.
        """
        return original(x * self.atlas.at(x).covered(x))

    def upsample(self, name: str, module: nn.Module, original: Any, x: Tensor) -> Tensor:
        """Convolutions above see less far, in latents: pieces lose some of their halo."""
        old = self.atlas.at(x)
        self.level += 1
        new = Atlas.of(self.pieces(self.level), old.scale)
        small = new.blank(x)
        for source, slot in zip(old.inside(list(new.pieces)), new.slots, strict=True):
            slot.cut(small).copy_(source.cut(x))
        self.atlas = new
        return original(small)

    def attend(self, name: str, module: Any, original: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The atlas's queries against the canvas's keys and values."""
        whole = self.attended.pop(norm_of(name))
        rows = [
            x.flatten(2).transpose(1, 2).contiguous() for x in (q, module.k(whole), module.v(whole))
        ]  # strided, the CPU is slower
        return sdpa(rows[0], rows[1], rows[2], 1).transpose(1, 2).reshape(q.shape)

    def norm(self, name: str, module: nn.GroupNorm, original: Any, x: Tensor) -> Tensor:
        """GroupNorm with the whole picture's statistics; zero between the pieces, as convolutions pad with it."""
        atlas = self.atlas.at(x)
        slots = atlas.inside([*self.computed, *self.probes])
        live, small = slots[: len(self.computed)], slots[len(self.computed) :]
        found = self.statistics(name, module, x, atlas.scale * BLOCK, live, small)
        weight, bias = groupnorm_affine(module, original, x)
        if name in self.record.inputs:
            self.attended[name] = normalised(self.everywhere(name, x, live, small), found, weight, bias, module.eps)
        return normalised(x, found, weight, bias, module.eps).mul_(atlas.covered(x))

    def statistics(
        self, name: str, module: nn.GroupNorm, x: Tensor, side: int, live: list[Box], small: list[Box]
    ) -> Moments:
        """-> mean and variance of each group [G]: of the holes as they are, of the rest as recorded and moved like its
        probes.
        """
        recorded = Moments.of(self.record.moments[name].to(x.device))
        centre = recorded.mean.mean((1, 2))
        shift = self.shift(name, probe_moments(x, small, module.num_groups), module.eps) if small else None
        blocks = [block_moments(slot.cut(x), side, centre) for slot in live]
        self.moments[name] = [(shift.undo(each) if shift else each).stacked().cpu() for each in blocks]
        parts = [Moments(*(each.flatten(1) for each in block)).pooled(1 / block.mean[0].numel()) for block in blocks]
        sizes = [box.area for box in self.computed]
        if left := int(self.outside.sum()):
            rest = self.outside.to(x.device)
            outside = Moments(recorded.mean[:, rest], recorded.variance[:, rest]).pooled(1 / left)
            parts.append(shift.apply(outside) if shift else outside)
            sizes.append(left * BLOCK**2)
        return pooled_parts(parts, sizes)

    def shift(self, name: str, now: Tensor, eps: float) -> MomentShift | None:
        """How the probes' moments [2, G, probes] moved since they were recorded."""
        shift = None
        if bool(self.known.any()):
            before = self.record.probe_moments[name][..., self.probe_ids].to(now)
            shares = self.shares.to(now)
            old, new = (Moments.of(each[..., self.known]) for each in (before, now))
            shift = MomentShift.between(old.pooled(shares), new.pooled(shares), eps)
            far, unsure = float(shift.factor.log().abs().mean()), probes.disagreement(old, new, shares)
            if not (far <= MAX_VARIANCE_SHIFT and unsure <= MAX_STANDARD_ERROR):  # nor where they are NaN
                most = f"{MAX_VARIANCE_SHIFT} +- {MAX_STANDARD_ERROR}"
                raise FarError(f"variances moved by {far:.2f} +- {unsure:.3f} at {name}, expected {most} at most")
        self.probe_moments[name] = (shift.undo(Moments.of(now)).stacked() if shift else now).cpu()
        return shift

    def everywhere(self, name: str, x: Tensor, live: list[Box], small: list[Box]) -> Tensor:
        """An attention's input all over the canvas [1, C, h, w]: of the holes as it is, of the rest recorded and moved
        like its probes.
        """
        kept = self.record.inputs[name].to(x, copy=True)
        line = self.line(name, torch.stack([slot.cut(x)[0].flatten(1) for slot in small], 1).float()) if small else None
        if line:
            kept = line.apply(kept)
        self.inputs[name] = [(line.undo(slot.cut(x)) if line else slot.cut(x)).cpu() for slot in live]
        for box, slot in zip(self.scaled(kept), live, strict=True):
            box.cut(kept).copy_(slot.cut(x))
        return kept

    def scaled(self, whole: Tensor) -> list[Box]:
        """Where the holes are in a map of the canvas, whose latents may be of several px (Flux.2)."""
        return [box.times(whole.shape[-1] // self.record.canvas.right) for box in self.computed]

    def line(self, name: str, now: Tensor) -> ChannelAffine | None:
        """How the probes' values [C, probes, px] moved since they were recorded."""
        line = None
        if bool(self.known.any()):
            before = self.record.probe_inputs[name][:, self.probe_ids].to(now)
            line = ChannelAffine.between(before[:, self.known], now[:, self.known], self.shares.to(now))
        self.probe_inputs[name] = (line.undo(now) if line else now).cpu()
        return line

    def updated(self, latent: Tensor) -> Record:
        """The record with this pass's holes in it, as they would have been in the full pass; probes that they touched
        are unknown.
        """
        record = self.record
        blocks = [box.divided(BLOCK) for box in self.computed]
        moments = {name: put(value, blocks, self.moments[name]) for name, value in record.moments.items()}
        inputs = {name: put(value, self.scaled(value), self.inputs[name]) for name, value in record.inputs.items()}
        seen = put(record.latent, self.computed, [box.cut(latent) for box in self.computed])
        known = {
            "probe_moments": {
                name: self.renewed(value, self.probe_moments[name], 2) for name, value in record.probe_moments.items()
            },
            "probe_inputs": {
                name: self.renewed(value, self.probe_inputs[name], 1) for name, value in record.probe_inputs.items()
            },
        }
        return Record(seen, moments, inputs, **known, edits=record.edits + 1)

    def renewed(self, recorded: Tensor, now: Tensor, axis: int) -> Tensor:
        """What is recorded of the probes, numbered along an axis: what was, where it was known, and what is now where
        it was not.
        """
        numbers = torch.tensor(self.probe_ids, dtype=torch.long)
        fresh = numbers[~self.known]
        result = torch.full_like(recorded, torch.nan).index_copy_(axis, numbers, recorded.index_select(axis, numbers))
        return result.index_copy_(axis, fresh, now.index_select(axis, (~self.known).nonzero().flatten()))


def with_probes(parts: Parts, decode: DecodeImage, record: Record) -> Record:
    """The record with its probes, each decoded by itself. Raises UnexpectedShapeError."""
    count = len(probes.spread(record.canvas))
    if record.probe_moments or not count:
        return record
    alone = HolePass(record, [], list(range(count)))
    alone.decode(parts, decode, record.latent)
    return replace(record, probe_moments=alone.probe_moments, probe_inputs=alone.probe_inputs)


def decode_holes(
    parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, boxes: list[Box], record: Record
) -> tuple[Tensor, Record]:
    """Latent [1, C, h, w] of the edited canvas [3, H, W], `boxes` of latents to compute, the record `with_probes` of
    nearly the same.

    -> (picture [3, H, W], right in the boxes and the canvas's own elsewhere; the record with the boxes' new content).
    Raises UnexpectedShapeError where the host decodes in tiles, and FarError.
    """
    holes = HolePass.over(record, boxes)
    pixels = holes.decode(parts, decode, latent)
    atlas = holes.atlas.at(pixels)
    result = canvas.clone()
    for box, slot in zip(boxes, atlas.inside(boxes), strict=True):
        box.times(atlas.scale).cut(result).copy_(slot.cut(pixels[0]))
    return result, holes.updated(latent)


def computed_box(box: Box, canvas: Box) -> Box:
    """Grow a hole's box to what counts as computed: whole blocks, and what its content reaches."""
    return box.grown(CONTENT_REACH).aligned(BLOCK).within(canvas)
