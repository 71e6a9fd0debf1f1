"""Scenes composed of sprites, in batches and on any device: the paper's training triple (canvas, entity mask, caption).

A scene is a background, up to four other objects with shadows, and one target object in front of them. Drawing style,
light, tint and scale are the scene's own: every object follows them and no caption says them, so the hole's must be
read from the context. Half of the scenes keep the others out of the square crop around the mask ("far"): only the rest
of the canvas tells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from .brushes import edge_masks, user_masks
from .crop import CropBox, crop_boxes, inside
from .draw import Draw, backgrounds
from .photographs import PhotographSheet, PhotographSplit
from .rows import Rows
from .surfaces import surfaces

OTHERS = 4
CANDIDATES = 10  # places tried for each of the others
UNKNOWN, NEAR, FAR = 0, 1, 2  # where another object of the scene can be seen: see `Scenes.seen`
PHOTOGRAPHS_BARE, PHOTOGRAPHS_REMOVED, PHOTOGRAPHS_MADE = 0.5, 0.25, 0.25  # shares, see `Recipe.photographs`
PLAIN, SMALL, BIG, TWO = 0, 1, 2, 3  # what a caption may say of the target beside its name: see `Scenes.look`
Split = Literal["train", "validation", "test", "all"]


@dataclass(frozen=True)
class Scenes(Rows):
    """B scenes: `image` [B, 3, H, W] in 0..1 with the target object and `empty` without it, equal outside `mask` [B, 1,
    H, W] (1 = hole).

    `label` [B] names the object; S (one past the last) where nothing is put back. `style` [B]; `look` [B] is PLAIN,
    SMALL, BIG or TWO. `seen` [B]: NEAR where another object is visible in the crop around the mask
    (`brushes.crop_boxes`), FAR where one is visible on the canvas but none of its pixels in that crop, else UNKNOWN.
    `unseen` [B]: a pair that never occurs in training. `lines` [B, 1, H, W], 1 on a line: the target as somebody might
    draw its edges, the less exactly the lower `binding` [B] in 0..1; 0: not drawn.
    """

    image: Tensor
    empty: Tensor
    mask: Tensor
    label: Tensor
    style: Tensor
    look: Tensor
    seen: Tensor
    unseen: Tensor
    lines: Tensor
    binding: Tensor


@dataclass(frozen=True)
class SpriteSheet:
    """Premultiplied RGBA sprites [Y, S, 4, s, s] in 0..1 of S objects in Y styles, and the names of both."""

    sprites: Tensor
    names: list[dict]
    styles: tuple[str, ...] = ("3d",)
    photographs: PhotographSheet | None = None  # canvases of scenes on photographs, see `Recipe.photographs`

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> SpriteSheet:
        """Files of one style hold [S, 4, s, s], as the first model's did. Ends the command where there is no file,
        saying what makes it.
        """
        if not path.is_file():
            raise SystemExit(f"There is no {path}. Make it with: python dev.py run -- python -m training.prepare")
        with safe_open(str(path), "pt", device=str(device)) as file:
            sprites, metadata = file.get_tensor("sprites").float() / 255, file.metadata()
        styles = tuple(json.loads(metadata.get("styles", '["3d"]')))
        return cls(sprites.view(len(styles), -1, *sprites.shape[-3:]), json.loads(metadata["names"]), styles)

    def with_photographs(self, path: Path, split: PhotographSplit) -> SpriteSheet:
        """Return the sheet with the photographs of a split (`python -m training.prepare --photographs`)."""
        return replace(self, photographs=PhotographSheet.load(path, split, self.sprites.device))

    def __len__(self) -> int:
        return len(self.names)

    def prompts(self, labels: Tensor, language: str = "en") -> list[str]:
        """The first name of each object [B]."""
        return [self.names[int(label)][language][0] for label in labels]

    def pairs(self, split: Split) -> Tensor:
        """[Y, S] bool: which objects occur in which style, see `pair_split`; "all" is every pair."""
        kinds = pair_split(len(self.styles), len(self)).to(self.sprites.device)
        return (
            torch.ones_like(kinds, dtype=torch.bool)
            if split == "all"
            else kinds == ("train", "validation", "test").index(split)
        )


def pair_split(styles: int, objects: int) -> Tensor:
    """[Y, S]: 0 = training, 1 = validation, 2 = test. One object in eight is withheld in each style but the first.

    Which ones is fixed, whatever the seed; the first style is what the model that one may start from has seen in full.
    """
    index = torch.arange(objects)
    rows = [torch.zeros_like(index)]
    rows += [torch.where(index % 8 == 3 * y % 8, 1 + index // 8 % 2, 0) for y in range(1, styles)]
    return torch.stack(rows)


@dataclass(frozen=True)
class Recipe:
    """What to compose: whose (object, style) pairs, the shares of removals, twos, far scenes, withheld pairs, drawn
    edges.

    `bare`: the share with no other object, all of them in the first style. `photographs`: the share on photographs and
    on surfaces as they occur in pictures; half of these show no other object, and a quarter are removals. `as_taken`:
    photographs alone, unchanged. `outward`: the share of those on photographs whose hole lies along the canvas's sides,
    most of them with nothing in it (outpainting). `read_nothing`: where nothing of any object is to be seen the style
    is the first one, whatever was drawn in the hole: for who learns to read styles.
    """

    split: Split = "train"
    removals: float = 0.08
    twos: float = 0.05
    far: float = 0.5
    withheld: float = 0.0
    everything: float = 0.02
    drawn: float = 0.4
    bare: float = 0.0
    photographs: float = 0.0
    as_taken: bool = False
    outward: float = 0.0
    read_nothing: bool = False

    @classmethod
    def held_out(cls, split: Split = "test") -> Recipe:
        """Single objects; a quarter of them in a style that training never showed them in."""
        return cls(split, removals=0.0, twos=0.0, withheld=0.25, everything=0.0)


OBJECTS = Recipe("all", removals=0.0, twos=0.0, everything=0.0)  # for judges: every object in every style


def compose(
    sheet: SpriteSheet, count: int, size: int, generator: torch.Generator, recipe: Recipe | None = None
) -> Scenes:
    """Draw `count` scenes of `size` x `size` px. The generator's device is the sheet's."""
    recipe, draw = recipe or Recipe(), Draw(generator)
    bare = (
        draw.uniform(count) < recipe.bare if recipe.bare else torch.zeros(count, dtype=torch.bool, device=draw.device)
    )
    onto = draw.uniform(count) < recipe.photographs if recipe.photographs else torch.zeros_like(bare)
    bare = bare | (onto & (draw.uniform(count) < PHOTOGRAPHS_BARE)) if recipe.photographs else bare
    style, objects, unseen = cast_of(sheet, draw, count, recipe, bare)
    scale = scales(draw, count)
    sprite, look = target_sprite(sheet.sprites[style, objects[:, 0]], scale, draw, recipe)
    box = placements(draw, scale)
    layer = place(sprite, box, size)
    mask = user_masks(draw, layer[:, 3:], box, recipe.everything)
    outward = onto & (draw.uniform(count) < recipe.outward) if recipe.outward else torch.zeros_like(onto)
    emptied = outward & (draw.uniform(count) < 0.7) if recipe.outward else outward
    if recipe.outward:
        strips = edge_masks(draw, count, size)
        mask = torch.where(
            emptied.view(-1, 1, 1, 1), strips, torch.where(outward.view(-1, 1, 1, 1), torch.maximum(mask, strips), mask)
        )
    crop = crop_boxes(mask)
    light, length = lights(draw, count), scale * draw.uniform(count, 1, low=0.1, high=0.24)
    image, others = backgrounds(draw, count, size), torch.zeros_like(mask)
    image[onto] = as_people_bring(sheet.photographs, draw, int(onto.sum()), size, recipe.as_taken)
    for other, where, shown in neighbours(draw, scale, box, crop, size, recipe):
        drawn = place(sheet.sprites[style, objects[:, other]], where, size) * (shown & ~bare).view(-1, 1, 1, 1)
        image, others = paint(image, drawn, light * length), torch.maximum(others, drawn[:, 3:])
    tint = torch.where(onto.view(-1, 1, 1, 1), 1.0, tints(draw, count))
    removals = torch.where(onto, PHOTOGRAPHS_REMOVED, recipe.removals) if recipe.removals else recipe.removals
    removed = (draw.uniform(count) < removals) | emptied
    painted = paint(image, layer, light * length, fade(mask))
    painted = torch.where((mask > 0.5) & ~removed.view(-1, 1, 1, 1), painted, image)
    label = torch.where(removed, len(sheet), objects[:, 0])
    look = torch.where(removed, PLAIN, look)
    binding = bindings(draw, count, recipe) * ~removed
    if recipe.read_nothing:
        style = torch.where(((others * (1 - mask)) > 0.1).float().mean((1, 2, 3)) < 0.0005, 0, style)
    lines = edge_drawing(draw, sprite, box, mask, binding)
    seen = visible(others, mask, crop)
    return Scenes(painted * tint, image * tint, mask, label, style, look, seen, unseen & ~removed, lines, binding)


def as_people_bring(photographs: PhotographSheet | None, draw: Draw, count: int, size: int, as_taken: bool) -> Tensor:
    """Return canvases [B, 3, size, size] in 0..1: crops of photographs, in a quarter surfaces. Raises ValueError
    without photographs.
    """
    if not count:
        return torch.zeros(0, 3, size, size, device=draw.device)
    if photographs is None:
        raise ValueError(
            "a recipe with photographs needs a sheet with photographs, see `SpriteSheet.with_photographs`."
        )
    if as_taken:
        return photographs.crops(draw, count, size, changed=False)[0]
    made = draw.uniform(count, 1, 1, 1) < PHOTOGRAPHS_MADE
    return torch.where(made, surfaces(draw, count, size), photographs.crops(draw, count, size)[0])


def cast_of(
    sheet: SpriteSheet, draw: Draw, count: int, recipe: Recipe, bare: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """-> style [B], objects [B, 1 + OTHERS] all different where the sheet has enough, target first, and `unseen` [B]
    bool.
    """
    common = sheet.pairs("all" if recipe.split == "all" else "train").float()
    style = draw.integers(count, high=len(sheet.styles))
    style = style if bare is None else torch.where(bare, 0, style)
    rare = sheet.pairs(recipe.split).nonzero()
    withheld = draw.uniform(count) < (recipe.withheld if recipe.split in ("validation", "test") and len(rare) else 0.0)
    pick = (
        rare[draw.integers(count, high=max(len(rare), 1))]
        if len(rare)
        else torch.zeros(count, 2, dtype=torch.int64, device=draw.device)
    )
    style = torch.where(withheld, pick[:, 0], style)
    few = int((common > 0).sum(1).min()) < 1 + OTHERS
    objects = torch.multinomial(common[style], 1 + OTHERS, few, generator=draw.generator)
    objects[:, 0] = torch.where(withheld, pick[:, 1], objects[:, 0])
    return style, objects, withheld


def scales(draw: Draw, count: int) -> Tensor:
    """The side [B, 1] of a scene's objects as a share of the canvas: mostly a fifth to a half, now and then 0.12 to
    0.7.
    """
    usual, wide = draw.uniform(count, 1, low=0.2, high=0.42), 0.12 * 5.8 ** draw.uniform(count, 1)
    return torch.where(draw.uniform(count, 1) < 0.15, wide, usual)


def target_sprite(sprite: Tensor, scale: Tensor, draw: Draw, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """-> the sprites [B, 4, s, s], now and then two of them in the place of one, and what a caption may say: `look`
    [B].
    """
    two = (draw.uniform(len(sprite)) < recipe.twos) & (scale[:, 0] > 0.25)
    side = sprite.shape[-1] * 5 // 8
    small, rest = F.interpolate(sprite, (side, side), mode="bilinear", antialias=True), sprite.shape[-1] - side
    back, front = F.pad(small, (0, rest, 0, rest)), F.pad(small, (rest, 0, rest, 0))
    pair = back * (1 - front[:, 3:]) + front
    look = torch.where(scale[:, 0] < 0.19, SMALL, torch.where(scale[:, 0] > 0.44, BIG, PLAIN))
    return torch.where(two.view(-1, 1, 1, 1), pair, sprite), torch.where(two, TWO, look)


def placements(draw: Draw, side: Tensor) -> Tensor:
    """Sides [B, 1] -> [B, 3]: centre x, centre y and side of a box inside the unit square."""
    return torch.cat([side / 2 + draw.uniform(len(side), 2) * (1 - side), side], 1)


def neighbours(
    draw: Draw, scale: Tensor, box: Tensor, crop: CropBox, size: int, recipe: Recipe
) -> list[tuple[int, Tensor, Tensor]]:
    """Up to OTHERS objects of about the scene's scale: (number, box [B, 3], shown [B] bool), apart from each other and
    from the target.

    In far scenes none touches the crop around the mask, in the rest the first one does.
    """
    count, device = len(scale), draw.device
    number = 1 + draw.integers(count, high=OTHERS)
    number = torch.where(draw.uniform(count) < 0.06, 0, number)
    far = draw.uniform(count) < recipe.far
    square = torch.stack([crop.left + crop.side / 2, crop.top + crop.side / 2, crop.side], 1).float() / size  # [B, 3]
    placed, result = [box], []
    for other in range(1, OTHERS + 1):
        side = (scale * draw.uniform(count, 1, low=0.85, high=1.15)).clamp(max=0.6)
        sides = side[:, None].expand(-1, CANDIDATES, -1)
        centres = sides / 2 + draw.uniform(count, CANDIDATES, 2) * (1 - sides)
        boxes = torch.cat([centres, sides], 2)  # [B, CANDIDATES, 3]
        crowded = sum(
            (overlap(boxes, other_box[:, None], 0.85) for other_box in placed),
            torch.zeros(boxes.shape[:2], device=device),
        )
        touching = overlap(boxes, square[:, None], 1.0) > 0
        wanted = torch.where(far[:, None], ~touching, touching) if other == 1 else ~touching | ~far[:, None]
        best = (2.0 * wanted - crowded).argmax(1)
        row = torch.arange(count, device=device)
        shown = (other <= number) & (~far | ~touching[row, best]) & (crowded[row, best] < 0.5)
        result.append((other, boxes[row, best], shown))
        placed.append(
            boxes[row, best] * shown[:, None] + torch.tensor([-9.0, -9.0, 0.1], device=device) * ~shown[:, None]
        )
    return result


def overlap(a: Tensor, b: Tensor, shrink: float) -> Tensor:
    """Shared area of boxes [..., 3] (centre x, y, side; sides times `shrink`), as a share of the smaller one."""
    reach = (a[..., 2:] + b[..., 2:]) * shrink / 2 - (a[..., :2] - b[..., :2]).abs()
    least = torch.minimum(a[..., 2], b[..., 2]) * shrink
    return reach.clamp_min(0).minimum(least[..., None]).prod(-1) / least**2


def visible(others: Tensor, mask: Tensor, crop: CropBox) -> Tensor:
    """NEAR, FAR or UNKNOWN for each scene, from the other objects' alpha [B, 1, H, W] outside the mask."""
    shown = (others * (1 - mask) > 0.1).float()
    within = inside(crop, mask.shape[-1])
    near, anywhere = (shown * within).sum((1, 2, 3)), shown.mean((1, 2, 3))
    clear = near > 0.03 * crop.side.float() ** 2
    return torch.where(clear, NEAR, torch.where((near == 0) & (anywhere > 0.004), FAR, UNKNOWN))


def lights(draw: Draw, count: int) -> Tensor:
    """Directions [B, 2] in which shadows fall: mostly down, from hard left to hard right."""
    sideways = draw.uniform(count, 1, low=-1, high=1)
    return torch.cat([sideways, draw.uniform(count, 1, low=0.3, high=1)], 1)


def tints(draw: Draw, count: int) -> Tensor:
    """Colour of a scene's light [B, 3, 1, 1]: white in half of the scenes."""
    colour = 1 - 0.35 * draw.uniform(count, 3, 1, 1) * (draw.uniform(count, 1, 1, 1) < 0.5)
    return colour / colour.amax(1, keepdim=True)


def place(sprite: Tensor, box: Tensor, size: int) -> Tensor:
    """[B, 4, s, s] and boxes [B, 3] -> layers [B, 4, size, size], empty outside the box."""
    side = box[:, 2]
    theta = sprite.new_zeros(len(box), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / side
    theta[:, :, 2] = -(box[:, :2] * 2 - 1) / side[:, None]
    grid = F.affine_grid(theta, [len(box), 4, size, size], align_corners=False)
    return F.grid_sample(sprite, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def bindings(draw: Draw, count: int, recipe: Recipe) -> Tensor:
    """How exactly the target's edges are drawn [B]: mostly well, 0 where they are not drawn."""
    return (1 - draw.uniform(count) ** 2).clamp_min(0.05) * (draw.uniform(count) < recipe.drawn)


def edge_drawing(draw: Draw, sprite: Tensor, box: Tensor, mask: Tensor, binding: Tensor) -> Tensor:
    """Lines [B, 1, H, W] in 0..1 along the edges of `sprite` in `box`, within the mask; the less `binding`, the
    shakier.

    They are out of place by up to (1 - binding) / 8 of the box's side. Some drawings show the outline alone, some what
    is inside as well; pens differ in width.
    """
    count, size = len(sprite), mask.shape[-1]
    loose = (1 - binding)[:, None]
    place_error = draw.uniform(count, 2, low=-1, high=1) * box[:, 2:] * loose / 8
    size_error = 1 + draw.uniform(count, 1, low=-1, high=1) * loose / 8
    layer = place(sprite, torch.cat([box[:, :2] + place_error, box[:, 2:] * size_error], 1), size)
    inner = draw.uniform(count, 1, 1, 1, low=0.15, high=0.6)
    outline = steps_of(layer[:, 3:]) > 0.3
    within = (steps_of(layer[:, :3]) > inner) & (draw.uniform(count, 1, 1, 1) < 0.7)
    lines = (outline | within).float()
    broad = F.max_pool2d(lines, 3, 1, 1)
    lines = torch.where(draw.uniform(count, 1, 1, 1) < 0.5, lines, broad)
    shake = F.interpolate(
        draw.uniform(count, 2, 9, 9, low=-1, high=1), size=(size, size), mode="bicubic", align_corners=True
    )
    shake = shake * (box[:, 2:] * (0.02 + loose / 16))[:, :, None, None]
    even = F.affine_grid(
        torch.eye(2, 3, device=mask.device).repeat(count, 1, 1), [count, 1, size, size], align_corners=False
    )
    lines = F.grid_sample(
        lines, even + shake.movedim(1, -1), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return lines * (mask > 0.5) * (binding > 0).view(-1, 1, 1, 1)


def steps_of(layer: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 1, H, W]: the largest step to the next pixel, over channels, across or down."""
    across = F.pad((layer[..., 1:] - layer[..., :-1]).abs(), (0, 1))
    down = F.pad((layer[..., 1:, :] - layer[..., :-1, :]).abs(), (0, 0, 0, 1))
    return torch.maximum(across, down).amax(1, keepdim=True)


def fade(mask: Tensor) -> Tensor:
    """[B, 1, H / 4, W / 4]: 0 outside the mask [B, 1, H, W] and at its edge, 1 well inside: a put-back object's shadow
    ends in its hole.
    """
    inner = -F.max_pool2d(-mask, 4)
    for _ in range(2):
        inner = torch.minimum(F.avg_pool2d(inner, 5, 1, 2, count_include_pad=False), inner)
    return inner


def paint(image: Tensor, layer: Tensor, shift: Tensor, where: Tensor | None = None) -> Tensor:
    """Premultiplied `layer` over `image` with a soft shadow `shift` [B, 2] away (canvas = 2), only `where` [B, 1, H/4,
    W/4].
    """
    image = image * shade(layer, shift, where)
    return (image * (1 - layer[:, 3:]) + layer[:, :3]).clamp(0, 1)


def shade(layer: Tensor, shift: Tensor, where: Tensor | None = None) -> Tensor:
    """How much light the shadow of a layer [B, 4, H, W] leaves: [B, 1, H, W] in 0.55..1; the rest as in `paint`."""
    size = layer.shape[-1]
    coarse = F.avg_pool2d(layer[:, 3:], 4)
    for _ in range(2):
        coarse = F.avg_pool2d(coarse, 5, 1, 2)
    theta = torch.eye(2, 3, device=layer.device).repeat(len(layer), 1, 1)
    theta[:, :, 2] = -shift
    grid = F.affine_grid(theta, [len(layer), 1, *coarse.shape[-2:]], align_corners=False)
    shadow = F.grid_sample(coarse, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shadow = F.interpolate(
        shadow if where is None else shadow * where, size=(size, size), mode="bilinear", align_corners=False
    )
    return 1 - 0.45 * shadow
