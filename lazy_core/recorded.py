"""Holes of a decoder that sees its whole picture at once (AutoencoderKL of SD, SDXL, Flux): what a hole's window lacks comes from a record.

Its GroupNorms want the mean and variance of the whole picture, its attention the keys and values of all latents. A full pass
leaves both behind; a later pass computes the holes and takes the rest from there (the idea of SIGE, Li et al. 2022, arXiv
2211.02048). As a hole's content moves the statistics, and they in turn everything outside it, small patches all over the
canvas are computed along: they tell how far the record has moved.

`benchmarks.recorded` measures it. No node uses it yet: it is neither as near nor as cheap as it has to be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import sdpa
from .geometry import Box
from .lazy_vae import DecodeImage, windows

BLOCK = 2  # latents a side of what moments are recorded over
HALOS = (8, 4, 3, 2)  # latents around a hole, at each resolution from the latents' to the pixels': what its convolutions still see
MARGIN = 2  # latents around a hole that count as computed, not as recorded: content reaches so far
PATCH, PATCHES = 4, 6  # latents a side of a patch; a square of so many patches a side is spread over the canvas
PATCH_HALOS = (2, 1, 1, 0)  # latents around each, like HALOS


@dataclass(frozen=True)
class Parts:
    """What of a decoder is neither pointwise nor a convolution, and the `first` of these.

    An attention has `optimized_attention(q, k, v)` on maps [B, C, h, w].
    """

    norms: dict[str, nn.GroupNorm]
    attentions: dict[str, Any]
    upsamples: dict[str, nn.Module]
    first: nn.Module


@dataclass(frozen=True)
class Record:
    """What a full pass left behind: `moments` of each norm's input, mean and variance [2, G, h / 2, w / 2]; keys and values [1, C, h, w].

    `patches` are the moments [2, patches, G] of patches that were decoded by themselves with the whole picture's statistics.
    """

    latent: Tensor
    moments: dict[str, Tensor]
    attended: dict[str, tuple[Tensor, Tensor]]
    patches: dict[str, Tensor]

    @property
    def canvas(self) -> Box:
        return Box(0, 0, *self.latent.shape[-2:])

    def get_ram_usage(self) -> int:
        kept = [self.latent, *self.moments.values(), *self.patches.values(), *(x for pair in self.attended.values() for x in pair)]
        return sum(x.nbytes for x in kept)

    def changed(self, latent: Tensor, cells: Tensor) -> float:
        """Share of the latents [1, C, h, w] outside a hole's `cells` [h, w] that are not what was recorded; 1 for another size."""
        if latent.shape != self.latent.shape:
            return 1.0
        moved = (latent.cpu() - self.latent).abs().amax(1)[0] > 0.1 * float(self.latent.std())
        return float((moved & ~cells.cpu()).float().mean())


class NotWholeError(RuntimeError):
    """The decoder was called with something else than was asked: the host went over to tiles, for example."""


@contextlib.contextmanager
def replaced(parts: Parts, norm: Any, attend: Any, upsample: Any, first: Any) -> Iterator[None]:
    """Calls of a decoder's parts go to `norm(name, module, original, x)` and so on; afterwards everything is as it was."""
    calls = [(module, "forward", norm, name) for name, module in parts.norms.items()]
    calls += [(module, "optimized_attention", attend, name) for name, module in parts.attentions.items()]
    calls += [(module, "forward", upsample, name) for name, module in parts.upsamples.items()]
    calls.append((parts.first, "forward", first, "first"))
    own = [(module, call, module.__dict__.get(call)) for module, call, _, _ in calls]
    try:
        for module, call, instead, name in calls:
            setattr(module, call, (layer if call == "forward" else attention)(instead, name, module, getattr(module, call)))
        yield
    finally:
        for module, call, before in own:
            delattr(module, call) if before is None else setattr(module, call, before)


def layer(instead: Any, name: str, module: Any, original: Any) -> Callable[..., Tensor]:
    """Newer hosts call layers with arguments for video as well, which are handed on."""
    return lambda x, *rest, **named: instead(name, module, lambda y: original(y, *rest, **named), x)


def attention(instead: Any, name: str, module: Any, original: Any) -> Callable[..., Tensor]:
    return lambda q, k, v: instead(name, module, original, q, k, v)


def decode_and_record(parts: Parts, decode: DecodeImage, latent: Tensor) -> tuple[Tensor, Record]:
    """A full decode of one latent [1, C, h, w], bit for bit as without a record, h and w even. Raises NotWholeError."""
    record = Record(latent.cpu().clone(), {}, {}, {})

    def norm(name: str, module: nn.GroupNorm, original: Any, x: Tensor) -> Tensor:
        side = scale_of(x, latent) * BLOCK
        record.moments[name] = torch.stack(block_moments(x, side, group_means(x, module.num_groups))).cpu()
        return original(x)

    def attend(name: str, module: Any, original: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        record.attended[name] = (k.cpu().clone(), v.cpu().clone())
        return original(q, k, v)

    with replaced(parts, norm, attend, unchanged, unchanged):
        pixels = decode(latent)
    if patches := spread_patches(record.canvas):
        alone = Holes(record, [], patches)
        with replaced(parts, alone.norm, alone.attend, alone.upsample, alone.first):
            decode(alone.gathered(latent))
        record.patches.update(alone.patch_moments)
    return pixels, record


def unchanged(name: str, module: nn.Module, original: Any, x: Tensor) -> Tensor:
    return original(x)


def scale_of(x: Tensor, latent: Tensor) -> int:
    scale = x.shape[-2] // latent.shape[-2]
    if x.shape[0] != 1 or tuple(side * scale for side in latent.shape[-2:]) != tuple(x.shape[-2:]):
        raise NotWholeError(f"a layer was given {tuple(x.shape)}, expected the {tuple(latent.shape)} that were to be decoded")
    return scale


def group_means(x: Tensor, groups: int) -> Tensor:
    """Of [1, C, H, W]: [G]."""
    return x[0].mean((1, 2), dtype=torch.float32).view(groups, -1).mean(1)


def block_moments(x: Tensor, side: int, centre: Tensor) -> tuple[Tensor, Tensor]:
    """[1, C, H, W] -> mean and variance of each group in each block of `side` px, twice [G, H / side, W / side].

    `centre` [G] is near the values, so that squares do not lose what they differ by.
    """
    values = x[0].float().unflatten(0, (len(centre), -1)) - centre.view(-1, 1, 1, 1)
    mean = F.avg_pool2d(values.mean(1), side)
    square = F.avg_pool2d(values.square_().mean(1), side)
    return mean + centre.view(-1, 1, 1), (square - mean.square()).clamp_min_(0)


@dataclass(frozen=True)
class Strip:
    """Pieces of a canvas side by side in one map: `pieces` in latents of the canvas, `places` in px of the map, `scale` px a latent."""

    pieces: tuple[Box, ...]
    places: tuple[Box, ...]
    scale: int

    @classmethod
    def of(cls, pieces: list[Box], scale: int) -> Strip:
        """In columns, one px apart."""
        tall = max(box.height for box in pieces) * scale
        places, left, below, right = [], 0, 0, 0
        for box in pieces:
            height, width = box.height * scale, box.width * scale
            if below and (below + height > tall or left + width > right):
                left, below = right + 1, 0
            places.append(Box(below, left, below + height, left + width))
            right, below = max(right, left + width), below + height + 1
        return cls(tuple(pieces), tuple(places), scale)

    @property
    def size(self) -> tuple[int, int]:
        return max(place.bottom for place in self.places), max(place.right for place in self.places)

    def times(self, scale: int) -> Strip:
        return replace(self, places=tuple(place.times(scale) for place in self.places), scale=self.scale * scale)

    def at(self, x: Tensor) -> Strip:
        """This strip where a layer works on a multiple of its resolution."""
        height, width = self.size
        scale = x.shape[-2] // height
        if x.shape[0] != 1 or (height * scale, width * scale) != tuple(x.shape[-2:]):
            raise NotWholeError(f"a layer was given {tuple(x.shape)}, expected one strip of {(height, width)} or a multiple")
        return self.times(scale)

    def room(self, like: Tensor) -> Tensor:
        return like.new_zeros(*like.shape[:-2], *self.size)

    def inside(self, parts: list[Box]) -> list[Box]:
        """Where `parts` of the first pieces, one of each, in latents of the canvas, lie in the map."""
        shifts = zip(parts, self.pieces, self.places, strict=False)
        return [part.moved(-piece.top, -piece.left).times(self.scale).moved(place.top, place.left) for part, piece, place in shifts]

    def covered(self, like: Tensor) -> Tensor:
        """[H, W], 1 on the pieces and 0 between them."""
        mask = like.new_zeros(self.size)
        for place in self.places:
            place.cut(mask).fill_(1)
        return mask


@dataclass
class Holes:
    """One pass over the holes of a canvas, and the patches that go with it."""

    record: Record
    boxes: list[Box]  # of the holes
    patches: list[Box]

    def __post_init__(self) -> None:
        self.live = [live_box(box, self.record.canvas) for box in self.boxes]
        self.level = 0
        self.strip = Strip.of(self.pieces(), 1)
        self.moments: dict[str, list[Tensor]] = {}
        self.patch_moments: dict[str, Tensor] = {}
        self.attended: dict[str, list[tuple[Tensor, ...]]] = {}

    def pieces(self) -> list[Box]:
        halo, small = (halos[min(self.level, len(halos) - 1)] for halos in (HALOS, PATCH_HALOS))
        around = [box.grown(halo).aligned(BLOCK) for box in self.boxes] + [box.grown(small) for box in self.patches]
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
        new = Strip.of(self.pieces(), old.scale)
        small = new.room(x)
        for source, place in zip(old.inside(list(new.pieces)), new.places, strict=True):
            place.cut(small).copy_(source.cut(x))
        self.strip = new
        return original(small)

    def attend(self, name: str, module: Any, original: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The strip's queries against the canvas's keys and values, of which the holes' are new."""
        kept = [x.to(q, copy=True) for x in self.record.attended[name]]
        strip = self.strip.at(q)
        scale = kept[0].shape[-1] // self.record.canvas.right
        places = strip.inside(self.live)
        self.attended[name] = [tuple(place.cut(x).cpu() for x in (k, v)) for place in places]
        for all_of_it, new in zip(kept, (k, v), strict=True):
            for box, place in zip(self.live, places, strict=True):
                box.times(scale).cut(all_of_it).copy_(place.cut(new))
        rows = [x.flatten(2).transpose(1, 2) for x in (q, *kept)]
        return sdpa(rows[0], rows[1], rows[2], 1).transpose(1, 2).reshape(q.shape)

    def norm(self, name: str, module: nn.GroupNorm, original: Any, x: Tensor) -> Tensor:
        """GroupNorm with the whole picture's statistics; zero between the pieces, as convolutions pad with it."""
        strip, groups = self.strip.at(x), module.num_groups
        mean, variance = self.statistics(name, module, x, strip)
        weight, bias = affine(module, original, x)
        scale = weight.view(groups, -1) / (variance + module.eps).sqrt()[:, None]
        shift = bias.view(groups, -1) - mean[:, None] * scale
        normed = torch.addcmul(shift.view(1, -1, 1, 1).to(x), x, scale.view(1, -1, 1, 1).to(x))
        return normed.mul_(strip.covered(x))

    def statistics(self, name: str, module: nn.GroupNorm, x: Tensor, strip: Strip) -> Moments:
        """-> mean and variance of each group [G]: of the holes as they are, of the rest as recorded and moved like its patches."""
        mean, variance = self.record.moments[name].to(x.device)
        places, count, centre = strip.inside([*self.live, *self.patches]), len(self.live), mean.mean((1, 2))
        blocks = [torch.stack(block_moments(place.cut(x), strip.scale * BLOCK, centre)) for place in places[:count]]
        self.moments[name] = [each.cpu() for each in blocks]
        rest = torch.ones(mean.shape[1:], dtype=torch.bool, device=x.device)
        for box in self.live:
            box.divided(BLOCK).cut(rest).fill_(False)
        live = [as_one(*each.flatten(2)) for each in blocks]
        if not bool(rest.any()):
            return together(live, [box.area for box in self.live])
        outside = as_one(mean[:, rest], variance[:, rest])
        if self.patches:
            outside = self.moved(name, outside, patch_moments(x, places[count:], module.num_groups), module.eps)
        return together([*live, outside], [*(box.area for box in self.live), int(rest.sum()) * BLOCK**2])

    def moved(self, name: str, outside: Moments, patches: Tensor, eps: float) -> Moments:
        """What was recorded of the outside, moved as its patches [2, patches, G] moved since."""
        self.patch_moments[name] = patches.cpu()
        if name not in self.record.patches:  # this pass is to record them
            return outside
        everywhere = spread_patches(self.record.canvas)
        kept = [everywhere.index(box) for box in self.patches]
        share = patch_areas(self.record.canvas).to(patches)[kept]
        before = self.record.patches[name].to(patches)[:, kept]
        old, new = (weighed(each[0].T, each[1].T, share / share.sum()) for each in (before, patches))
        return outside[0] + new[0] - old[0], outside[1] * (new[1] + eps) / (old[1] + eps)

    def updated(self, latent: Tensor) -> Record:
        """The record with this pass's holes in it."""
        kept = {name: value.clone() for name, value in self.record.moments.items()}
        for name, news in self.moments.items():
            for box, new in zip(self.live, news, strict=True):
                box.divided(BLOCK).cut(kept[name]).copy_(new)
        attended = {name: (k.clone(), v.clone()) for name, (k, v) in self.record.attended.items()}
        for name, news in self.attended.items():
            scale = attended[name][0].shape[-1] // self.record.canvas.right
            for box, pair in zip(self.live, news, strict=True):
                for whole, new in zip(attended[name], pair, strict=True):
                    box.times(scale).cut(whole).copy_(new)
        seen = self.record.latent.clone()
        for box in self.live:
            box.cut(seen).copy_(box.cut(latent))
        return Record(seen, kept, attended, self.record.patches)


def affine(module: nn.GroupNorm, original: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """A GroupNorm's weight and bias [C] as it applies them, whatever the host casts: zeros give the bias, plus and minus one the weight."""
    probe = x.new_zeros(2, module.num_channels, 1, 2)
    probe[1] = x.new_tensor([1.0, -1.0])
    given = original(probe).float()
    return (given[1, :, 0, 0] - given[1, :, 0, 1]) / 2 * (1 + module.eps) ** 0.5, given[0, :, 0, 0]


Moments = tuple[Tensor, Tensor]  # mean and variance [G]


def patch_moments(x: Tensor, places: list[Box], groups: int) -> Tensor:
    """Of patches of one size in [1, C, H, W]: [2, patches, G]."""
    stacked = torch.stack([place.cut(x)[0] for place in places]).float()
    variance, mean = torch.var_mean(stacked.view(len(places), groups, -1), 2, correction=0)
    return torch.stack([mean, variance])


def as_one(mean: Tensor, variance: Tensor) -> Moments:
    """Blocks of one size [G, blocks] as one."""
    middle = mean.mean(1)
    return middle, (variance + (mean - middle[:, None]).square()).mean(1)


def together(parts: list[Moments], sizes: list[int]) -> Moments:
    """Parts of different `sizes` as one."""
    share = torch.tensor(sizes, device=parts[0][0].device) / sum(sizes)
    mean, variance = (torch.stack([part[i] for part in parts], -1) for i in (0, 1))
    return weighed(mean, variance, share)


def weighed(mean: Tensor, variance: Tensor, share: Tensor) -> Moments:
    """Parts [G, parts], of which each is a `share` of the whole, as one."""
    middle = (mean * share).sum(-1)
    return middle, ((variance + (mean - middle[:, None]).square()) * share).sum(-1)


def live_box(box: Box, canvas: Box) -> Box:
    return box.grown(MARGIN).aligned(BLOCK).within(canvas)


def spread_patches(canvas: Box) -> list[Box]:
    """Patches at even distances, from the canvas's edge to its opposite."""
    rows, cols = (starts(side) for side in (canvas.bottom, canvas.right))
    return [Box(top, left, top + PATCH, left + PATCH) for top in rows for left in cols]


def patch_areas(canvas: Box) -> Tensor:
    """How much of the canvas each patch stands for: those at an edge for half, those at a corner for a quarter."""
    halves = []
    for side in (canvas.bottom, canvas.right):
        half = torch.ones(len(starts(side)))
        half[0] = half[-1] = 0.5
        halves.append(half)
    return (halves[0][:, None] * halves[1]).flatten()


def starts(side: int) -> list[int]:
    count = min(PATCHES, side // (2 * PATCH))
    return [round(i * (side - PATCH) / max(1, count - 1)) // BLOCK * BLOCK for i in range(count)]


def decode_holes(parts: Parts, decode: DecodeImage, latent: Tensor, canvas: Tensor, cells: Tensor, record: Record) -> tuple[Tensor, Record]:
    """Latent [1, C, h, w] of the edited canvas [3, H, W], touched latents `cells` [h, w] bool, the record of nearly the same latent.

    -> (picture [3, H, W], right in the hole and the canvas's own elsewhere; the record with the hole's new content).
    Raises NotWholeError where the host decodes in tiles.
    """
    right = [window.right for window in windows(cells, HALOS[0])]
    live = [live_box(box, record.canvas).grown(MARGIN) for box in right]
    untouched = [patch for patch in spread_patches(record.canvas) if not any(patch.overlaps(box) for box in live)]
    holes = Holes(record, right, untouched)
    with replaced(parts, holes.norm, holes.attend, holes.upsample, holes.first):
        pixels = decode(holes.gathered(latent))
    strip = holes.strip.at(pixels)
    result = canvas.clone()
    for box, place in zip(right, strip.inside(right), strict=True):
        box.times(strip.scale).cut(result).copy_(place.cut(pixels[0]))
    return result, holes.updated(latent)
