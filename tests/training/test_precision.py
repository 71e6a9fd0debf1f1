"""bfloat16 and Muon only where the processor multiplies in bfloat16: elsewhere they take a hundred times as long as
float32.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.loop.precision import bfloat16_pays, mixed_precision, optimizer_for

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capability", "dtype", "optimizer"),
    [
        ("AVX512", torch.bfloat16, "muon"),
        ("AVX2", torch.float32, "adamw"),
        ("DEFAULT", torch.float32, "adamw"),
    ],
)
def test_a_cpu_trains_in_what_it_multiplies_in(monkeypatch, capability, dtype, optimizer):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    with mixed_precision(CPU):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == dtype
    with mixed_precision(CPU, wanted=False):
        assert nn.Linear(4, 4)(torch.ones(1, 4)).dtype == torch.float32
    assert optimizer_for(CPU) == optimizer


def test_gpus_always_have_it(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert bfloat16_pays(torch.device("cuda")) and optimizer_for(torch.device("cuda")) == "muon"
