"""bfloat16 where the processor multiplies in it, float32 elsewhere.

PyTorch 2.11 emulates bfloat16 on CPUs without AVX-512: a matrix product of a training's size then takes over a hundred
times as long as in float32 (1 against 134 GFLOP/s on two cores of an AMD EPYC with AVX2), and Muon, which
orthogonalises in bfloat16, 30 seconds a step.
"""

from __future__ import annotations

import torch

from lazy_core.vae.tiny import TinyVAE


def bfloat16_pays(device: torch.device) -> bool:
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def mixed_precision(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Networks in bfloat16 where that pays and is `wanted`; otherwise nothing changes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and bfloat16_pays(device))


def optimizer_for(device: torch.device) -> str:
    """Muon, or AdamW where Muon's bfloat16 would take most of a training's time; both take the same rates
    (`objective.optimizers`).
    """
    return "muon" if bfloat16_pays(device) else "adamw"


def channels_last(vae: TinyVAE) -> TinyVAE:
    """Convolutions on a CPU and on tensor cores want this layout."""
    for parameter in vae.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return vae
