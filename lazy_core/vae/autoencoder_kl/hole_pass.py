"""Holes of a decoder that sees its whole picture at once (AutoencoderKL of SD, SDXL, Flux): what a hole's window lacks comes from a record.

Its GroupNorms want the mean and variance of the whole picture, its attention the keys and values of all latents. A full pass
leaves both behind; later passes compute the holes and take the rest from there (the idea of SIGE, Li et al. 2022, arXiv
2211.02048). As a hole's content moves the statistics, and they in turn everything outside it, patches all over the canvas
are computed along (`witnesses`): they tell how far the record has moved.
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
from . import witnesses
from .atlas import NotWholeError, Strip
from .moments import Line, Moments, Shift, affine, block_moments, normalised, patch_moments, together
from .record import Parts, Record, check_all_ran, norm_of, replaced
from .witnesses import BLOCK

HALOS = (8, 4, 3, 2)  # latents around a hole, at each resolution from the latents' to the pixels': what its convolutions still see
COSTS = (0.08, 0.22, 0.35, 0.35)  # of a full decode's operations at each resolution, in SD, SDXL and Flux
FARTHEST = 0.2  # that variances may have moved since the full pass: of their logarithm, on average over a norm's groups
UNSUREST = 0.02  # that patches may disagree on it: the standard error of that
MARGIN = 2  # latents around a hole that count as computed, not as recorded: content reaches so far


class FarError(RuntimeError):
    """The holes have moved the picture's statistics too far from the record, or nobody knows how far."""


@dataclass
class Holes:
    """One pass over the holes of a canvas, and the patches that go with it: `kept` are their numbers."""

    record: Record
    boxes: list[Box]  # of the holes
    kept: list[int]

    def __post_init__(self) -> None:
        everywhere = witnesses.spread(self.record.canvas)
        self.patches = [everywhere[i] for i in self.kept]
        self.live = [live_box(box, self.record.canvas) for box in self.boxes]
        self.rest = self.record.without_holes(self.live)
        self.level = 0
        self.strip = Strip.of(self.pieces(0), 1)
        self.whole: dict[str, Tensor] = {}  # each attention's input, normalised, all over the canvas
        self.moments: dict[str, list[Tensor]] = {}
        self.inputs: dict[str, list[Tensor]] = {}
        self.patch_moments: dict[str, Tensor] = {}
        self.patch_inputs: dict[str, Tensor] = {}

    @classmethod
    def over(cls, record: Record, boxes: list[Box]) -> Holes:
        """With the patches that no hole touches."""
        near = [live_box(box, record.canvas).grown(MARGIN) for box in boxes]
        numbered = enumerate(witnesses.spread(record.canvas))
        return cls(record, boxes, [i for i, patch in numbered if not any(patch.overlaps(box) for box in near)])

    @cached_property
    def known(self) -> Tensor:
        """Which of the patches were recorded [patches] bool: none in the pass that records them."""
        known = torch.full((len(self.kept),), bool(self.record.patch_moments))
        for recorded in self.record.patch_moments.values():
            known &= torch.isfinite(recorded[..., self.kept]).all(0).all(0)
        return known

    @cached_property
    def shares(self) -> Tensor:
        """Of the rest of the canvas that each known patch stands for."""
        numbers = torch.tensor(self.kept)[self.known]
        recorded = {name: value[..., numbers] for name, value in self.record.patch_moments.items()}
        left = int(self.rest.sum())
        wholes = {name: Moments.of(value[:, :, self.rest]).united(1 / left) for name, value in self.record.moments.items()}
        return witnesses.shares(witnesses.areas(self.record.canvas)[numbers], recorded, wholes)

    def decode(self, parts: Parts, decode: DecodeImage, latent: Tensor) -> Tensor:
        with replaced(parts, self.norm, self.attend, self.upsample, self.first):
            pixels = decode(self.gathered(latent))
        check_all_ran(parts, self.moments)
        if self.whole:
            raise NotWholeError(f"attention did not run: {sorted(self.whole)}")
        return pixels

    @property
    def cost(self) -> float:
        """Operations to a full decode's, roughly."""
        areas = (sum(piece.area for piece in self.pieces(level)) for level in range(len(COSTS)))
        return sum(area * cost for area, cost in zip(areas, COSTS, strict=True)) / self.record.canvas.area

    def pieces(self, level: int) -> list[Box]:
        halo, small = (halos[min(level, len(halos) - 1)] for halos in (HALOS, witnesses.HALOS))
        around = [box.grown(halo).union(live) for box, live in zip(self.boxes, self.live, strict=True)]
        around += [box.grown(small) for box in self.patches]
        return [box.within(self.record.canvas) for box in around]

    def gathered(self, latent: Tensor) -> Tensor:
        strip = self.strip.room(latent)
        for piece, place in zip(self.strip.pieces, self.strip.places, strict=True):
            place.cut(strip).copy_(piece.cut(latent))
        return strip

    def first(self, name: str, module: nn.Module, original: Any, x: Tensor) -> Tensor:
        """Zero between the pieces, as convolutions pad with it; what comes before may have made something of the nothing."""
        return original(x * self.strip.at(x).covered(x))

    def upsample(self, name: str, module: nn.Module, original: Any, x: Tensor) -> Tensor:
        """Convolutions above see less far, in latents: pieces lose some of their halo."""
        old = self.strip.at(x)
        self.level += 1
        new = Strip.of(self.pieces(self.level), old.scale)
        small = new.room(x)
        for source, place in zip(old.inside(list(new.pieces)), new.places, strict=True):
            place.cut(small).copy_(source.cut(x))
        self.strip = new
        return original(small)

    def attend(self, name: str, module: Any, original: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The strip's queries against the canvas's keys and values."""
        whole = self.whole.pop(norm_of(name))
        rows = [x.flatten(2).transpose(1, 2).contiguous() for x in (q, module.k(whole), module.v(whole))]  # strided, the CPU is slower
        return sdpa(rows[0], rows[1], rows[2], 1).transpose(1, 2).reshape(q.shape)

    def norm(self, name: str, module: nn.GroupNorm, original: Any, x: Tensor) -> Tensor:
        """GroupNorm with the whole picture's statistics; zero between the pieces, as convolutions pad with it."""
        strip = self.strip.at(x)
        places = strip.inside([*self.live, *self.patches])
        live, small = places[: len(self.live)], places[len(self.live) :]
        found = self.statistics(name, module, x, strip.scale * BLOCK, live, small)
        weight, bias = affine(module, original, x)
        if name in self.record.inputs:
            self.whole[name] = normalised(self.everywhere(name, x, live, small), found, weight, bias, module.eps)
        return normalised(x, found, weight, bias, module.eps).mul_(strip.covered(x))

    def statistics(self, name: str, module: nn.GroupNorm, x: Tensor, side: int, live: list[Box], small: list[Box]) -> Moments:
        """-> mean and variance of each group [G]: of the holes as they are, of the rest as recorded and moved like its patches."""
        recorded = Moments.of(self.record.moments[name].to(x.device))
        centre = recorded.mean.mean((1, 2))
        shift = self.shift(name, patch_moments(x, small, module.num_groups), module.eps) if small else None
        blocks = [block_moments(place.cut(x), side, centre) for place in live]
        self.moments[name] = [(shift.undo(each) if shift else each).stacked().cpu() for each in blocks]
        parts = [Moments(*(each.flatten(1) for each in block)).united(1 / block.mean[0].numel()) for block in blocks]
        sizes = [box.area for box in self.live]
        if left := int(self.rest.sum()):
            rest = self.rest.to(x.device)
            outside = Moments(recorded.mean[:, rest], recorded.variance[:, rest]).united(1 / left)
            parts.append(shift.apply(outside) if shift else outside)
            sizes.append(left * BLOCK**2)
        return together(parts, sizes)

    def shift(self, name: str, now: Tensor, eps: float) -> Shift | None:
        """How the patches' moments [2, G, patches] moved since they were recorded."""
        shift = None
        if bool(self.known.any()):
            before = self.record.patch_moments[name][..., self.kept].to(now)
            shares = self.shares.to(now)
            old, new = (Moments.of(each[..., self.known]) for each in (before, now))
            shift = Shift.between(old.united(shares), new.united(shares), eps)
            far, unsure = float(shift.factor.log().abs().mean()), witnesses.disagreement(old, new, shares)
            if not (far <= FARTHEST and unsure <= UNSUREST):  # nor where they are NaN
                raise FarError(f"variances moved by {far:.2f} +- {unsure:.3f} at {name}, expected {FARTHEST} +- {UNSUREST} at most")
        self.patch_moments[name] = (shift.undo(Moments.of(now)).stacked() if shift else now).cpu()
        return shift

    def everywhere(self, name: str, x: Tensor, live: list[Box], small: list[Box]) -> Tensor:
        """An attention's input all over the canvas [1, C, h, w]: of the holes as it is, of the rest recorded and moved like its patches."""
        kept = self.record.inputs[name].to(x, copy=True)
        line = self.line(name, torch.stack([place.cut(x)[0].flatten(1) for place in small], 1).float()) if small else None
        if line:
            kept = line.apply(kept)
        self.inputs[name] = [(line.undo(place.cut(x)) if line else place.cut(x)).cpu() for place in live]
        for box, place in zip(self.scaled(kept), live, strict=True):
            box.cut(kept).copy_(place.cut(x))
        return kept

    def scaled(self, whole: Tensor) -> list[Box]:
        """Where the holes are in a map of the canvas, whose latents may be of several px (Flux.2)."""
        return [box.times(whole.shape[-1] // self.record.canvas.right) for box in self.live]

    def line(self, name: str, now: Tensor) -> Line | None:
        """How the patches' values [C, patches, px] moved since they were recorded."""
        line = None
        if bool(self.known.any()):
            before = self.record.patch_inputs[name][:, self.kept].to(now)
            line = Line.between(before[:, self.known], now[:, self.known], self.shares.to(now))
        self.patch_inputs[name] = (line.undo(now) if line else now).cpu()
        return line

    def updated(self, latent: Tensor) -> Record:
        """The record with this pass's holes in it, as they would have been in the full pass; patches that they touched are unknown."""
        record = self.record
        blocks = [box.divided(BLOCK) for box in self.live]
        moments = {name: put(value, blocks, self.moments[name]) for name, value in record.moments.items()}
        inputs = {name: put(value, self.scaled(value), self.inputs[name]) for name, value in record.inputs.items()}
        seen = put(record.latent, self.live, [box.cut(latent) for box in self.live])
        known = {
            "patch_moments": {name: self.renewed(value, self.patch_moments[name], 2) for name, value in record.patch_moments.items()},
            "patch_inputs": {name: self.renewed(value, self.patch_inputs[name], 1) for name, value in record.patch_inputs.items()},
        }
        return Record(seen, moments, inputs, **known, edits=record.edits + 1)

    def renewed(self, recorded: Tensor, now: Tensor, axis: int) -> Tensor:
        """What is recorded of the patches, numbered along an axis: what was, where it was known, and what is now where it was not."""
        numbers = torch.tensor(self.kept, dtype=torch.long)
        fresh = numbers[~self.known]
        result = torch.full_like(recorded, torch.nan).index_copy_(axis, numbers, recorded.index_select(axis, numbers))
        return result.index_copy_(axis, fresh, now.index_select(axis, (~self.known).nonzero().flatten()))


def put(whole: Tensor, boxes: list[Box], news: list[Tensor]) -> Tensor:
    """A copy with new content in the boxes."""
    result = whole.clone()
    for box, new in zip(boxes, news, strict=True):
        box.cut(result).copy_(new)
    return result


def with_patches(parts: Parts, decode: DecodeImage, record: Record) -> Record:
    """The record with its patches, each decoded by itself. Raises NotWholeError."""
    count = len(witnesses.spread(record.canvas))
    if record.patch_moments or not count:
        return record
    alone = Holes(record, [], list(range(count)))
    alone.decode(parts, decode, record.latent)
    return replace(record, patch_moments=alone.patch_moments, patch_inputs=alone.patch_inputs)


def decode_holes(
    parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, boxes: list[Box], record: Record
) -> tuple[Tensor, Record]:
    """Latent [1, C, h, w] of the edited canvas [3, H, W], `boxes` of latents to compute, the record `with_patches` of nearly the same.

    -> (picture [3, H, W], right in the boxes and the canvas's own elsewhere; the record with the boxes' new content).
    Raises NotWholeError where the host decodes in tiles, and FarError.
    """
    holes = Holes.over(record, boxes)
    pixels = holes.decode(parts, decode, latent)
    strip = holes.strip.at(pixels)
    result = canvas.clone()
    for box, place in zip(boxes, strip.inside(boxes), strict=True):
        box.times(strip.scale).cut(result).copy_(place.cut(pixels[0]))
    return result, holes.updated(latent)


def live_box(box: Box, canvas: Box) -> Box:
    return box.grown(MARGIN).aligned(BLOCK).within(canvas)
