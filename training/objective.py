"""What a training step minimises, and with what: noise levels, the velocity loss over tokens, the optimizers."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

SIGMA_FLOOR = 0.2  # the velocity loss weights by 1 / sigma^2; below this it would only fit the autoencoder's residue


def velocity_loss(output: Tensor, target: Tensor, sigma: Tensor, valid: Tensor, hole: Tensor | None = None) -> Tensor:
    """Loss of clean tokens [B, K, D] predicted at `sigma` [B], over the `valid` ones [B, K].

    `hole` [B, K] tells the hole's tokens from the rest where all are generated (the baselines). Both then count alike, one
    mean for each: sampling starts from noise everywhere, so the rest must be learned, but being the most and the easiest
    tokens it would drown the hole.
    """
    error = (output.float() - target).square().mean(-1) / sigma.clamp_min(SIGMA_FLOOR).square()[:, None]
    if hole is None:
        return (error * valid).sum() / valid.sum()
    return sum((error * part).sum() / part.sum().clamp_min(1) for part in (valid & hole, valid & ~hole))  # type: ignore[return-value]


def draws_for(hole: int, tokens: int, most: int) -> int:
    """Noise levels per scene: `most` up to holes of a fifth of the canvas, then fewer, so that no step costs much more than others."""
    return max(1, min(most, round(most * tokens / 5 / max(hole, 1))))


def noise_levels(scenes: int, draws: int, generator: torch.Generator) -> Tensor:
    """Logit-normal sigmas [scenes * draws], stratified over a scene's draws (Esser et al. 2024, section 3.1).

    The mean leans to noise (0.6): shapes are decided there, and shapes are what a short training lacks.
    """
    device = generator.device
    quantile = (torch.rand(scenes, draws, generator=generator, device=device) + torch.arange(draws, device=device)) / draws
    return torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)).add(0.6).sigmoid().flatten()


def optimizers(model: nn.Module, kind: str, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (Jordan et al. 2024), AdamW for everything else; `peak` is what the schedule scales."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in trained if kind == "muon" and ".blocks." in name and p.dim() == 2 and "table" not in name]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in trained if id(p) not in chosen]
    result: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]
    if hidden:
        # Three Newton-Schulz steps orthogonalise well enough; five cost a quarter of a CPU's whole step.
        result.append(torch.optim.Muon(hidden, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_steps=3))
    for optimizer in result:
        for group in optimizer.param_groups:
            group["peak"] = lr
    return result
