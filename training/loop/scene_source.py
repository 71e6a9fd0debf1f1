"""An endless source of examples: a pool of encoded scenes, used several times with fresh noise; a few are replaced all
the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from lazy_core.model import LazyDiffusion
from lazy_core.tokens import HoleTokens

from ..scenery.captions import CaptionTable
from ..scenery.rows import cat
from ..scenery.scenes import Recipe, SpriteSheet
from .examples import Examples, draws_for, noise_levels
from .method import Method, everything
from .pool import Encoded, bucketed, encode_scenes


@dataclass(frozen=True)
class PoolSettings:
    """Canvas in px, scenes a step, noise levels for each, scenes held in memory, and how many of them a step replaces.

    `few_shapes`: holes are padded to one of a few sizes, so that steps can be captured. `recipe`: what is composed,
    None as ever.
    """

    size: int
    method: Method
    batch: int
    draws: int
    pool: int
    fresh: int
    few_shapes: bool = False
    recipe: Recipe | None = None


def padded(count: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is no less."""
    power = max(16, 1 << (count - 1).bit_length())
    return power * 3 // 4 if 16 < power and count <= power * 3 // 4 else power


class ScenePool:
    """An endless source of `Examples`, made on the training device as they are needed."""

    def __init__(
        self,
        sheet: SpriteSheet,
        model: LazyDiffusion,
        captions: CaptionTable,
        settings: PoolSettings,
        generator: torch.Generator,
    ):
        self.sheet, self.model, self.captions, self.settings, self.generator = (
            sheet,
            model,
            captions,
            settings,
            generator,
        )

    def encode(self, count: int) -> Encoded:
        model, settings = self.model, self.settings
        return encode_scenes(
            self.sheet, model.vae, model.config, count, settings.size, self.generator, settings.method, settings.recipe
        )

    def batches(self) -> Iterator[tuple[Encoded, int]]:
        """Scenes, and the tokens of the largest hole among them."""
        settings = self.settings
        chunk = min(settings.pool, 64 if self.generator.device.type == "cpu" else 256)
        fill = tqdm(range(settings.pool // chunk), desc="encoding scenes")
        pool = cat([self.encode(chunk) for _ in fill])
        sizes = pool.hole.sum(1)
        while True:
            for index, largest in bucketed(sizes, settings.batch, 16, self.generator):
                yield pool.take(index), largest
            if settings.fresh:
                for _ in range(max(16 * settings.fresh // chunk, 1)):
                    slots = torch.randint(
                        len(sizes),
                        (min(chunk, 16 * settings.fresh),),
                        generator=self.generator,
                        device=self.generator.device,
                    )
                    pool.put(slots, self.encode(len(slots)))
                sizes = pool.hole.sum(1)

    def examples(self) -> Iterator[Examples]:
        """Batches with captions, noise levels and noise of the tokens that the method generates."""
        settings, config = self.settings, self.model.config
        width = config.latent_channels * config.patch_size**2
        for batch, largest in self.batches():
            text, total = self.captions.draw(batch.label, self.generator, look=batch.look), batch.hole.shape[1]
            largest = min(padded(largest), total) if settings.few_shapes else largest
            draws = draws_for(largest, (settings.size // config.token_pixels) ** 2, settings.draws)
            sigma = noise_levels(len(text), draws, self.generator, config.prediction)
            lazy = settings.method == "lazy"
            kept = HoleTokens.of(batch.hole, largest) if lazy else everything(batch.hole)
            keys = None if not lazy else kept.valid if settings.few_shapes else kept.token_mask
            noise = torch.randn(
                len(text) * draws, kept.count, width, generator=self.generator, device=self.generator.device
            )
            yield Examples(batch, text, None, sigma, noise, kept, keys, draws)
