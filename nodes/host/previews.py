"""Progress, and the hole's current guess in the canvas."""

from __future__ import annotations

from typing import Any

import comfy.utils
import latent_preview
from torch import Tensor

from ...lazy_core.context import Context
from ...lazy_core.geometry import Grid
from ...lazy_core.pipeline import fill_hole
from ...lazy_core.tokens import from_strip
from .timing import Timing


def progress(
    model: Any, context: Context, patch: int, timing: Timing, wanted: bool = False, strips: Any = lambda latent: latent
) -> Any:
    """Progress bar and, where previews are on or `wanted`, the hole's current guess in the canvas. Cancel is raised by
    the bar.

    `strips`: from what the sampler sees to strips of the hole's tokens.
    """
    bar = comfy.utils.ProgressBar(1)
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    if previewer is None and wanted:
        previewer = rgb_previewer(model.model.latent_format)
    timed = model.model.latent_format.latent_dimensions == 3
    known = context.latent.unsqueeze(2) if timed else context.latent
    canvas = context.with_(latent=model.model.latent_format.process_in(known).flatten(1, -3)) if previewer else context

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        timing.mark(x0.device)
        preview = None
        if previewer is not None:
            strip = strips(x0.detach().float().cpu())
            latent = fill_hole(canvas, from_strip(strip.flatten(1, -3), patch))
            kind, picture, limit = previewer.decode_latent_to_preview_image(
                "JPEG", latent.unsqueeze(2) if timed else latent
            )
            preview = kind, cropped(picture, context.grid), limit
        bar.update_absolute(step + 1, total, preview)

    return callback


def rgb_previewer(latent_format: Any) -> Any:
    """The host's linear preview of latents, which needs no model; None where the format has no factors for it."""
    if latent_format.latent_rgb_factors is None:
        return None
    more = (getattr(latent_format, f"latent_rgb_factors_{name}", None) for name in ("bias", "reshape"))
    return latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, *more)


def cropped(picture: Any, grid: Grid) -> Any:
    """The preview of a padded canvas without its padding."""
    rows, cols = grid.latent_size
    width, height = (
        picture.width * grid.width / (cols * grid.latent_pixels),
        picture.height * grid.height / (rows * grid.latent_pixels),
    )
    return picture.crop((0, 0, max(round(width), 1), max(round(height), 1)))
