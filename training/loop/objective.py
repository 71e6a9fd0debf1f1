"""What a training step minimises, and with what: the loss over tokens, the optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.geometry import Grid
from lazy_core.model import LazyDiffusion
from lazy_core.networks.decoder import Conditioning
from lazy_core.tokens import patchify

from .examples import Examples
from .method import Method


class Objective(nn.Module):
    """Model and losses as one module, so that one forward pass is what processes share."""

    def __init__(self, model: LazyDiffusion, method: Method, grid: Grid):
        super().__init__()
        self.model, self.method, self.size = model, method, (grid.height, grid.width)
        self.mean_count: Callable[[Tensor], Tensor] = lambda count: count

    def forward(self, examples: Examples, coordinates: Tensor) -> dict[str, Tensor]:
        """`loss` over the tokens that the method generates (`token_loss`), and `naming`: cross-entropy of the scene's
        style.

        The diffusion loss alone teaches the encoder to look for far objects' style very late.
        """
        config, scenes = self.model.config, examples.scenes
        repeat = lambda x: x.repeat_interleave(examples.draws, 0)  # noqa: E731
        kept = examples.kept
        transformer = self.model.transformer
        encoded = transformer.context_encoder(scenes.canvas.float(), scenes.mask.float(), kept, coordinates)
        naming = examples.sigma.new_zeros(())
        if encoded.style_logits is not None:
            naming = F.cross_entropy(encoded.style_logits.float(), scenes.style)
        hole_coordinates = kept.gather(coordinates.expand(len(scenes.hole), -1, -1))
        target = repeat(kept.gather(patchify(scenes.target.float(), config.patch_size)))
        model = parametrisation(config.prediction)
        level = examples.sigma.view(-1, 1, 1)
        x = model.scale_input(model.add_noise(target, examples.noise, level), level)
        caption = self.model.text(examples.text) if self.model.text is not None else examples.text
        lines = None if scenes.lines is None else kept.gather(patchify(scenes.lines.float() / 255, config.token_pixels))
        conditioning = Conditioning(
            repeat(encoded.tokens),
            repeat(hole_coordinates),
            repeat(caption),
            None if examples.keys is None else repeat(examples.keys),
            self.size,
            None if lines is None else repeat(lines),
            None if examples.words is None else repeat(examples.words),
        )
        output = transformer.decoder(x, model.timestep(examples.sigma), conditioning)
        hole = None if self.method == "lazy" else repeat(scenes.hole)
        wanted, weight = model.target(target, examples.noise), model.loss_weight(examples.sigma)
        loss = token_loss(output, wanted, weight, repeat(kept.valid), hole, self.mean_count)
        return {"loss": loss, "naming": naming}


def token_loss(
    output: Tensor,
    target: Tensor,
    weight: Tensor,
    valid: Tensor,
    hole: Tensor | None = None,
    mean_count: Callable[[Tensor], Tensor] = lambda count: count,
) -> Tensor:
    """Squared error of tokens [B, K, D], times `weight` [B], averaged over the `valid` ones [B, K].

    `hole` [B, K] tells the hole's tokens from the rest where all are generated (the baselines). Both then count alike,
    one mean for each: sampling starts from noise everywhere, so the rest must be learned, but being the most and the
    easiest tokens it would drown the hole. `mean_count` turns this process's number of tokens into the mean over all
    processes: the mean of their losses is then the whole batch's.
    """
    error = (output[..., : target.shape[-1]].float() - target).square().mean(-1) * weight[:, None]
    parts = (valid,) if hole is None else (valid & hole, valid & ~hole)
    return torch.stack([(error * part).sum() / mean_count(part.sum().float()).clamp_min(1) for part in parts]).sum()


class BatchedMuon(torch.optim.Muon):
    """Muon without weight decay that orthogonalises all matrices of a shape at once, at a rate that lies on the device:
    steps can be captured in a CUDA graph.

    PyTorch's own takes one matrix after the other, some twenty kernels each, and reads the rate as a number.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

        for group in self.param_groups:
            assert group["weight_decay"] == 0, "BatchedMuon has no weight decay"
            parameters, gradients, momenta = [], [], []
            self._init_group(group, parameters, gradients, momenta)
            shapes: dict[torch.Size, list[int]] = {}
            for index, parameter in enumerate(parameters):
                shapes.setdefault(parameter.shape, []).append(index)
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, momenta, group["momentum"]) if group["nesterov"] else momenta
            settings = group["ns_coefficients"], group["ns_steps"], group["eps"]
            for shape, chosen in shapes.items():
                stack = torch.stack([updates[index] for index in chosen])
                moves = torch.vmap(lambda x: _zeropower_via_newtonschulz(x, *settings))(stack)  # noqa: B023
                moves = moves.float() * (-group["lr"] * _adjust_lr(1.0, group["adjust_lr_fn"], shape))
                torch._foreach_add_([parameters[index] for index in chosen], list(moves))


def optimizers(
    model: nn.Module,
    kind: str,
    lr: float,
    shard: bool = False,
    block: str = ".blocks.",
    apart: str = "table",
    captured: bool = False,
) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices (Jordan et al. 2024), AdamW for everything else; `peak` is what the schedule
    scales.

    `block` is in the names of the blocks' parameters, `apart` in those of their matrices that are AdamW's all the same.
    `shard`: each process keeps the state of its share of the parameters only (ZeRO stage 1, Rajbhandari et al. 2020).
    `captured`: their steps are for a CUDA graph, and their rates are tensors.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [
        p for name, p in trained if kind == "muon" and block in name and p.dim() == 2 and apart not in name.lower()
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for _, p in trained if id(p) not in chosen]

    def made(kind: Any, parameters: list[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(parameters, kind, **settings) if shard else kind(parameters, **settings)

    rate = torch.full((), lr, device=trained[0][1].device) if captured else lr
    extra = {"capturable": True, "fused": True} if captured else {}
    result = [made(torch.optim.AdamW, rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, **extra)]
    if hidden:
        # Three Newton-Schulz steps orthogonalise well enough; five cost a quarter of a CPU's whole step.
        muon, rate = (BatchedMuon, rate.clone()) if isinstance(rate, Tensor) else (torch.optim.Muon, rate)
        result.append(made(muon, hidden, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", ns_steps=3))
    for optimizer in result:
        for group in optimizer.param_groups:
            group["peak"] = lr
    return result
