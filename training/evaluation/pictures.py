"""Pictures of an evaluation, uncurated: the first edits, whatever they look like."""

from __future__ import annotations

from PIL import Image, ImageDraw
from torch import Tensor

from ..scenery.scenes import Scenes

SIDE, TEXT = 144, 14


def grid_picture(
    scenes: Scenes, results: dict[str, Tensor], prompts: list[str], count: int = 24, columns: int = 3
) -> Image.Image:
    """For each edit its canvas (hole grey) and every method's result, named above, the prompt below."""
    count, wide = min(count, len(prompts)), (1 + len(results)) * SIDE + 8
    picture = Image.new("RGB", (columns * wide, TEXT + 2 + -(-count // columns) * (SIDE + TEXT + 4)), "white")
    draw = ImageDraw.Draw(picture)
    for column in range(columns):
        for j, name in enumerate(("canvas", *results)):
            draw.text((column * wide + j * SIDE + 4, 1), name, fill="black")
    for i in range(count):
        x, y = i % columns * wide, TEXT + 2 + i // columns * (SIDE + TEXT + 4)
        canvas = scenes.empty[i] * (1 - scenes.mask[i]) + 0.5 * scenes.mask[i]
        for j, image in enumerate((canvas, *(result[i] for result in results.values()))):
            picture.paste(to_picture(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x + j * SIDE, y))
        draw.text(
            (x + 4, y + SIDE + 1),
            f"{prompts[i]}  ({('style unknown', 'near', 'far')[int(scenes.seen[i])]})",
            fill="black",
        )
    return picture


def to_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.movedim(0, -1) * 255).round().byte().numpy())
