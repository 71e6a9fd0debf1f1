"""Continue a picture into its holes by its own patches: what a decoder of few parameters cannot draw, the picture has.

Patches are looked up and averaged from coarse to fine, so that every patch of the result is like one of what is visible
(Wexler et al. 2007, "Space-Time Completion of Video"; the search is PatchMatch's, Barnes et al. 2009). 1 = hole.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..geometry import Box
from ..masks import boxes_of
from .composite import poisson
from .prefill import prefill

RADIUS = 2  # of a patch, px
REACH = 48  # px around a hole that are looked at, beside half of its longer side
FADING, DEEPEST = 1.5, 24  # a pixel counts this much less for each px that it lies deeper in the hole, up to so many
TOWARDS_FILL = 0.3  # how much a patch's mean colour may not leave the smooth fill
TOWARDS_HOLE = 0.05  # how much near patches are preferred
ALL_PAIRS = 1_000_000  # of patches to fill and visible ones, up to which each is compared with each
SEARCHED = 20_000  # patches to fill, beyond which a level takes over what the coarser one found
MOST = 32  # holes of an image, the largest: what is left is filled smoothly
AT_ONCE = 1 << 14  # patches that are averaged together: what does not fit a cache is slower
FEWEST = 32  # visible patches that a level needs
ROUNDS_FIRST, ROUNDS_ALL, ROUNDS = 8, 4, 2  # of look-up and average: on the coarsest level, with all pairs, without
ROUNDS_LAST, REACH_LAST = 1, 6  # on the finest level, and how many px around what was found are looked at there
SHARP = 0.05  # quantile of the distances at which a patch counts e^-1/2


def continue_texture(image: Tensor, hole: Tensor, fill: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Replace the holes of [B, 3, H, W] by patches of what is visible around them; hole [B, H, W] bool -> a new tensor,
    and where that was done [B, H, W] bool.

    Where too little is visible the fill is smooth (`prefill`; `fill`, if somebody made it already). The same input
    gives the same result, bit for bit.
    """
    result = prefill(image, hole) if fill is None else fill.clone()
    done = torch.zeros_like(hole)
    for index, own in enumerate(hole):
        canvas = Box(0, 0, *own.shape)
        for box in sorted(boxes_of(own), key=lambda box: -box.area)[:MOST]:
            window = box.grown(REACH + max(box.size) // 2).within(canvas)
            inside = box.moved(-window.top, -window.left)
            smooth, wanted = window.cut(result[index]).float(), torch.zeros(window.size, dtype=torch.bool)
            inside.cut(wanted).copy_(box.cut(own))
            filled = filled_window(smooth, window.cut(own), wanted)
            if filled is not None:
                filled = poisson(smooth, filled, wanted).clamp(*smooth.aminmax())
                target = box.cut(result[index])
                target.copy_(torch.where(box.cut(own), inside.cut(filled), target))
                box.cut(done[index]).logical_or_(box.cut(own))
    return result, done


def filled_window(smooth: Tensor, hole: Tensor, wanted: Tensor) -> Tensor | None:
    """Picture with its holes filled smoothly [3, H, W], all of them [H, W] and the one that is wanted [H, W] -> the
    picture from patches, right in that one and on the pixels next to it; None where too few are visible.
    """
    levels = [Level(smooth, hole, wanted, 0)]
    while levels[-1].deepest > RADIUS and min(levels[-1].hole.shape) > 8 * RADIUS:
        levels.append(levels[-1].coarser())
    generator = torch.Generator().manual_seed(0)
    known: tuple[Level, Tensor] | None = None
    result = None
    for level in reversed(levels):
        few, many = len(level.sources) < FEWEST, known is None and len(level.targets) > SEARCHED
        if few and known is None:
            continue  # a finer level shows more
        if few or many:
            return None
        start = level.source_of(known, generator)
        estimate = level.voted(start, None) if known else level.pixels
        found, result = level.matched(estimate, start, generator, first=known is None)
        known = level, found
    return None if result is None else levels[0].unpadded(result)


@dataclass
class Level:
    """A picture [3, H, W] at one size, its holes [H, W] filled smoothly, and which patches can be filled from which:
    those that reach into the part of them that is `wanted` [H, W], from those that are visible altogether.

    Pixels are rows of a padded list [(H + 2 RADIUS) (W + 2 RADIUS), 3], so that a step sideways is a number.
    """

    smooth: Tensor
    hole: Tensor
    wanted: Tensor
    number: int

    def coarser(self) -> Level:
        """Half the size: means of what is visible alone."""
        keep = (~self.hole).float()[None]
        colour, share = (F.avg_pool2d(x[None], 2, ceil_mode=True)[0] for x in (self.smooth * keep, keep))
        fill = F.avg_pool2d(self.smooth[None], 2, ceil_mode=True)[0]
        smooth, hole = torch.where(share > 0, colour / share.clamp_min(1e-6), fill), share[0] < 0.5
        wanted = F.max_pool2d(self.wanted.float()[None], 2, ceil_mode=True)[0] > 0
        return Level(smooth, hole, hole & wanted, self.number + 1)

    @cached_property
    def depth(self) -> Tensor:
        """How deep in the hole each pixel lies, in px; 0: visible [H, W]."""
        return torch.from_numpy(ndimage.distance_transform_edt(self.hole.numpy())).float()

    @property
    def deepest(self) -> float:
        """How deep the deepest wanted pixel lies, in px."""
        return float((self.depth * self.wanted).max())

    @property
    def stride(self) -> int:
        """From a pixel of the list to the one below it."""
        return self.hole.shape[1] + 2 * RADIUS

    def padded(self, values: Tensor) -> Tensor:
        """[C, H, W] -> the list [N, C]; zeros beyond the edge."""
        return F.pad(values, (RADIUS,) * 4).flatten(1).t().contiguous()

    def unpadded(self, pixels: Tensor) -> Tensor:
        """The inverse of `padded`."""
        return pixels.t().unflatten(1, (-1, self.stride))[:, RADIUS:-RADIUS, RADIUS:-RADIUS]

    @cached_property
    def pixels(self) -> Tensor:
        """The smoothly filled picture as a list [N, 3]."""
        return self.padded(self.smooth)

    @cached_property
    def steps(self) -> list[int]:
        """From a patch's centre to each of its pixels."""
        around = range(-RADIUS, RADIUS + 1)
        return [y * self.stride + x for y in around for x in around]

    @cached_property
    def fillable(self) -> Tensor:
        """Which patches are visible altogether [N] bool."""
        keep = F.pad((~self.hole).float()[None, None], (2 * RADIUS,) * 4)
        return (-F.max_pool2d(-keep, 2 * RADIUS + 1, 1)).flatten() > 0

    @cached_property
    def sources(self) -> Tensor:
        """Centres of the patches that are visible altogether."""
        return self.fillable.nonzero()[:, 0]

    @cached_property
    def targets(self) -> Tensor:
        """Centres of the patches that reach into what is wanted."""
        near = F.max_pool2d(self.wanted.float()[None, None], 2 * RADIUS + 1, 1, RADIUS)[0]
        return self.padded(near)[:, 0].nonzero()[:, 0]

    @cached_property
    def number_of(self) -> Tensor:
        """Each pixel's number among the targets [N]; -1: none."""
        result = torch.full((len(self.pixels),), -1)
        result[self.targets] = torch.arange(len(self.targets))
        return result

    @cached_property
    def certainty(self) -> Tensor:
        """How much each pixel counts [N]: 1 where it is visible, less and less inside the hole, 0 beyond the edge."""
        return self.padded((FADING ** -self.depth.clamp_max(DEEPEST))[None])[:, 0]

    @cached_property
    def weights(self) -> Tensor:
        """How much each pixel of a target counts [n, patch]; a target's sum to 1/3, for its three channels."""
        weights = self.certainty[self.targets[:, None] + torch.tensor(self.steps)]
        return weights / (3 * weights.sum(1, keepdim=True))

    @cached_property
    def means(self) -> Tensor:
        """Mean colour of each patch of the smoothly filled picture [N, 3]."""
        return self.padded(F.avg_pool2d(self.smooth[None], 2 * RADIUS + 1, 1, RADIUS, count_include_pad=False)[0])

    def patches(self, pixels: Tensor, centres: Tensor) -> Tensor:
        """-> [n, 3 patch], rows of a patch after one another."""
        side = 2 * RADIUS + 1
        rows = pixels.as_strided((len(pixels) - self.steps[-1] * 2, side, 3 * side), (3, 3 * self.stride, 1))
        return rows[centres + self.steps[0]].flatten(1)

    def source_of(self, known: tuple[Level, Tensor] | None, generator: torch.Generator) -> Tensor:
        """Where each target's patch is taken from [n], by what the coarser level `known` found; at random without."""
        anywhere = self.sources[torch.randint(len(self.sources), (len(self.targets),), generator=generator)]
        if known is None:
            return anywhere
        coarse, found = known
        factor = 2 ** (coarse.number - self.number)
        rows, cols = self.targets // self.stride - RADIUS, self.targets % self.stride - RADIUS
        number = coarse.number_of[(rows // factor + RADIUS) * coarse.stride + cols // factor + RADIUS]
        there = found[number.clamp_min(0)]
        y = (there // coarse.stride - RADIUS) * factor + rows % factor
        x = (there % coarse.stride - RADIUS) * factor + cols % factor
        height, width = self.hole.shape
        moved = (y.clamp(0, height - 1) + RADIUS) * self.stride + x.clamp(0, width - 1) + RADIUS
        return torch.where((number >= 0) & self.fillable[moved], moved, anywhere)

    def matched(
        self, estimate: Tensor, start: Tensor, generator: torch.Generator, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Look up patches and average them in turns -> where each was found [n], and the picture [N, 3]."""
        found, all_pairs = start, len(self.targets) * len(self.sources) <= ALL_PAIRS
        if len(self.targets) > SEARCHED and not first:
            return found, estimate
        rounds = ROUNDS_FIRST if first else ROUNDS_ALL if all_pairs else ROUNDS if self.number else ROUNDS_LAST
        for _ in range(rounds):
            search = Search(self, estimate)
            found, distance = search.all_pairs() if all_pairs else search.near(found, generator)
            estimate = self.voted(found, distance)
        return found, estimate

    @cached_property
    def voters(self) -> Tensor:
        """Numbers [n, patch] of the targets whose patches show each target's centre, at their own pixel `steps`; -1:
        none.
        """
        return self.number_of[self.targets[:, None] - torch.tensor(self.steps)]

    def voted(self, found: Tensor, distance: Tensor | None) -> Tensor:
        """The picture [N, 3] with each target pixel the mean of what the patches over it show there."""
        share = self.certainty[self.targets]
        if distance is not None:
            share = share * (-distance / (2 * distance.quantile(SHARP).clamp_min(1e-6))).exp().clamp_min(1e-6)
        share, steps = F.pad(share, (0, 1)), torch.tensor(self.steps)  # number -1 is the last: it counts nothing
        found = F.pad(found, (0, 1), value=int(found[0]))
        result = self.pixels.clone()
        for targets, voters in zip(self.targets.split(AT_ONCE), self.voters.split(AT_ONCE), strict=True):
            weight = share[voters][:, None]
            total = weight @ self.pixels[found[voters] + steps]
            result[targets] = total[:, 0] / weight.sum(2)
        return result


class Search:
    """One look-up of a level's targets, whose patches are now as `estimate` [N, 3] shows."""

    def __init__(self, level: Level, estimate: Tensor):
        self.level = level
        known = torch.where(level.certainty[:, None] == 1, level.pixels, estimate)
        self.wanted = level.patches(known, level.targets)
        self.mean = level.means[level.targets]
        self.weights = level.weights[..., None].expand(-1, -1, 3).flatten(1)
        height, width = level.hole.shape
        self.towards_fill = TOWARDS_FILL / 3
        self.towards_hole = TOWARDS_HOLE / (height**2 + width**2)

    def all_pairs(self) -> tuple[Tensor, Tensor]:
        """-> the nearest source of each target [n], and its distance."""
        level, sources = self.level, self.level.sources
        shown = level.patches(level.pixels, sources)
        weighted = self.weights * self.wanted
        distance = self.weights @ shown.square().t() - 2 * weighted @ shown.t()
        distance += (weighted * self.wanted).sum(1, keepdim=True)
        distance += self.towards_fill * torch.cdist(self.mean, level.means[sources]).square()
        own, other = (torch.stack([x // level.stride, x % level.stride], 1).float() for x in (level.targets, sources))
        distance += self.towards_hole * torch.cdist(own, other).square()
        least, which = distance.min(1)
        return sources[which], least

    def distance(self, numbers: Tensor, centres: Tensor) -> Tensor:
        """Of targets by their numbers to sources by their centres."""
        level = self.level
        gap = level.patches(level.pixels, centres) - self.wanted[numbers]
        result = (gap.square() * self.weights[numbers]).sum(1)
        result += self.towards_fill * (level.means[centres] - self.mean[numbers]).square().sum(1)
        own = level.targets[numbers]
        y, x = centres // level.stride - own // level.stride, centres % level.stride - own % level.stride
        return result + self.towards_hole * (y * y + x * x)

    def near(self, found: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Better sources from neighbours and from around what was found."""
        level, count = self.level, len(found)
        best = [found, self.distance(torch.arange(count), found)]

        def consider(centres: Tensor, possible: Tensor | None = None) -> None:
            inside = (centres >= 0) & (centres < len(level.fillable))
            centres = torch.where(inside, centres, 0)
            better = inside & level.fillable[centres] & (centres != best[0])
            numbers = (better if possible is None else better & possible).nonzero()[:, 0]
            distance = self.distance(numbers, centres[numbers])
            closer = distance < best[1][numbers]
            numbers, distance = numbers[closer], distance[closer]
            best[0] = best[0].index_put((numbers,), centres[numbers])
            best[1] = best[1].index_put((numbers,), distance)

        for step in (1, -1, level.stride, -level.stride):
            number = level.number_of[level.targets + step]
            consider(best[0][number] - step, number >= 0)
        reach = max(level.hole.shape) if level.number else REACH_LAST
        while reach >= 1:
            apart = torch.rand(count, 2, generator=generator).mul(2).sub(1).mul(reach).round().long()
            consider(best[0] + apart[:, 0] * level.stride + apart[:, 1])
            reach //= 3
        return best[0], best[1]
