"""Contexts of several canvases as one: their holes are rows of one call of the decoder."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .context import Context, View
from .tokens import HoleTokens

EDITS = 16  # in a pack, at most
PIXELS = 4 << 20  # of a pack's canvases together, or one that is larger
PER_IMAGE = "image", "mask", "latent", "weight", "alpha"
PER_ROW = "tokens", "edges", "negative_offset", "strength"


def packs_of(contexts: Sequence[Context], settings: Sequence[Hashable]) -> list[list[int]]:
    """The numbers of contexts that are decoded together: of one model and size, with the same `settings`, in order.

    One whose setting is None, or with a sketch, drawn edges or a soft mask, is by itself.
    """
    kinds: list[Hashable] = []
    for number, (context, setting) in enumerate(zip(contexts, settings, strict=True)):
        alone = setting is None or not can_be_packed(context)
        parts = context.view is None, context.negative_offset is None, context.texture is None
        kinds.append(number if alone else (context.model, context.grid, context.tokens.shape[-1], *parts, setting))
    return packs_of_kinds(kinds, [context.grid.height * context.grid.width for context in contexts])


def packs_of_kinds(kinds: Sequence[Hashable], pixels: Sequence[int]) -> list[list[int]]:
    """The numbers of canvases of one kind, and so of as many `pixels`: `EDITS` and `PIXELS` together at most, in order.

    The same kinds in the same order are the same packs.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, kind in enumerate(kinds):
        groups.setdefault(kind, []).append(number)
    packs = []
    for group in groups.values():
        count = max(min(EDITS, PIXELS // max(pixels[group[0]], 1)), 1)
        packs += [group[first : first + count] for first in range(0, len(group), count)]
    return packs


def can_be_packed(context: Context) -> bool:
    """Whether nothing but one canvas and a hard mask is in it, for a model of ours."""
    more = context.stock, context.sketch, context.edges, context.weight, context.strength
    return all(each is None for each in more) and context.hole.count > 0 and len(context.image) == 1


def packed(contexts: Sequence[Context]) -> Context:
    """Contexts of `packs_of` -> one whose images and rows are theirs, one after the other; alpha is left out."""
    first = contexts[0]
    if len(contexts) == 1:
        return replace(first, alpha=None)
    count, images = max(context.hole.count for context in contexts), 0
    owners = []
    for context in contexts:
        owners.append(context.owner + images)
        images += len(context.image)
    owner = torch.cat(owners)
    return replace(
        first,
        image=torch.cat([context.image for context in contexts]),
        mask=torch.cat([context.mask for context in contexts]),
        latent=torch.cat([context.latent for context in contexts]),
        hole=HoleTokens(
            rows([context.hole.index for context in contexts], count),
            rows([context.hole.valid for context in contexts], count),
            first.hole.total,
            None if torch.equal(owner, torch.arange(images)) else owner,
        ),
        tokens=torch.cat([F.pad(each.tokens, (0, 0, 0, count - each.hole.count)) for each in contexts]),
        view=one_view([context.view for context in contexts if context.view is not None], count),
        negative_offset=joined([context.negative_offset for context in contexts]),
        texture=joined([context.texture for context in contexts]),
        alpha=None,
    )


def taken(context: Context, images: Sequence[int]) -> Context:
    """At least one of a context's images, by number: in this order, each as often as it is named, with the rows of its
    holes. What the encoder read once serves several edits. For models of ours, before a sketch is added.
    """
    if list(images) == list(range(len(context.image))):
        return context
    own = [(context.owner == image).nonzero()[:, 0] for image in images]
    row = torch.cat(own)
    owner = torch.cat([torch.full_like(each, number) for number, each in enumerate(own)])
    hole, view, one_each = context.hole, context.view, torch.equal(owner, torch.arange(len(images)))
    texture = context.texture
    if texture is not None:
        parts = texture.split(context.mask.flatten(1).sum(1).tolist())
        texture = torch.cat([parts[image] for image in images])
    if view is not None:
        view = replace(view, index=view.index[row], sizes=None if view.sizes is None else view.sizes[row])
    return replace(
        context,
        hole=HoleTokens(hole.index[row], hole.valid[row], hole.total, None if one_each else owner),
        view=view,
        texture=texture,
        **{name: getattr(context, name)[list(images)] for name in PER_IMAGE if getattr(context, name) is not None},
        **{name: getattr(context, name)[row] for name in PER_ROW if getattr(context, name) is not None},
    )


def rows(parts: Sequence[Tensor], count: int) -> Tensor:
    """[r, k] each -> [R, count], zeros on what is added."""
    return torch.cat([F.pad(part, (0, count - part.shape[1])) for part in parts])


def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """All of them in a row; None where there are none."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def one_view(views: Sequence[View], count: int) -> View | None:
    """What the encoder read for all rows, in a grid as large as the largest (`pipeline.view_of`)."""
    if not views:
        return None
    height, width = max(view.grid.rows for view in views), max(view.grid.cols for view in views)
    grid = views[0].grid
    sizes = torch.cat(
        [
            view.sizes if view.sizes is not None else torch.tensor([[view.grid.rows, view.grid.cols]] * len(view.index))
            for view in views
        ]
    )
    index = rows([view.index // view.grid.cols * width + view.index % view.grid.cols for view in views], count)
    largest = replace(grid, height=height * grid.token_pixels, width=width * grid.token_pixels)
    same = bool((sizes == torch.tensor([height, width])).all())
    return View(largest, index, None if same else sizes)
