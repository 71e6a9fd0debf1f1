"""What a training step is given: scenes, captions, and noise of several levels."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from lazy_core.config import Prediction
from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.tokens import HoleTokens

from .pool import Encoded


@dataclass(frozen=True)
class Examples:
    """A process's part of a step: B scenes, their captions, and `draws` noise levels for each.

    `text` are ids [B, L], or embeddings [B, L, T] with `words` [B, L] bool where they are no padding; `sigma` [B
    draws]; `noise` [B draws, K, C p p] on the tokens that are generated: those `kept`, of which `keys` [B, K] bool are
    no padding (None: all).
    """

    scenes: Encoded
    text: Tensor
    words: Tensor | None
    sigma: Tensor
    noise: Tensor
    kept: HoleTokens
    keys: Tensor | None
    draws: int

    def to(self, device: torch.device) -> Examples:
        moved = {
            f.name: v.to(device) for f in fields(self) if isinstance(v := getattr(self, f.name), (Tensor, HoleTokens))
        }
        scenes = {f.name: v.to(device) for f in fields(self.scenes) if (v := getattr(self.scenes, f.name)) is not None}
        return replace(self, scenes=Encoded(**scenes), **moved)

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name: what a captured step is given."""
        parts = {"": self, "scenes.": self.scenes, "kept.": self.kept}
        found = {f"{part}{f.name}": getattr(value, f.name) for part, value in parts.items() for f in fields(value)}  # type: ignore[arg-type]
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def draws_for(hole: int, tokens: int, most: int) -> int:
    """Noise levels per scene: `most` up to holes of a fifth of the canvas, then fewer, so that no step costs much more
    than others.
    """
    return max(1, min(most, round(most * tokens / 5 / max(hole, 1))))


def noise_levels(scenes: int, draws: int, generator: torch.Generator, prediction: Prediction = "flow_x0") -> Tensor:
    """Return sigmas [scenes * draws], stratified over a scene's draws, as `Parametrisation.training_sigma` spreads
    them.
    """
    device = generator.device
    quantile = (
        torch.rand(scenes, draws, generator=generator, device=device) + torch.arange(draws, device=device)
    ) / draws
    return parametrisation(prediction).training_sigma(quantile).flatten()


def noise_for(hole: Tensor, draws: int, width: int, generators: list[torch.Generator]) -> Tensor:
    """Standard normal noise [B draws, K, width] on the tokens of each hole [B, N], from each sample's own generator; 0
    on padding.
    """
    counts = hole.sum(1).tolist()
    noise = torch.zeros(len(counts) * draws, int(max(counts)), width)
    for i, (count, generator) in enumerate(zip(counts, generators, strict=True)):
        noise[i * draws : (i + 1) * draws, :count] = torch.randn(draws, count, width, generator=generator)
    return noise
