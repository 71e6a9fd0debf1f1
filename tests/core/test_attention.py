"""Every attention that may run a step agrees with a float64 reference, on holes from one token to all of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lazy_core.attention import Attention, sdpa

HEADS, WIDTH, TOKENS = 5, 320, 256
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
HOLES = [1, 2, 25, 97, TOKENS]
HOSTS = ("attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch")


def reference(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
    q, k, v = (x.double().unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if keys is not None:
        scores = scores.masked_fill(~keys[:, None, None], -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def worst(attention: Attention, hole: int, dtype: torch.dtype, padded: bool, grad: bool = False) -> float:
    """Relative error of self-attention over a hole, and of its cross-attention to 16 text tokens.

    A batch of two; `padded` means that the second hole is half as large.
    """
    draw = torch.Generator().manual_seed(hole)
    keys = torch.ones(2, hole, dtype=torch.bool)
    keys[1, (hole + 1) // 2 :] = False
    errors = []
    for length, mask in ((hole, keys if padded else None), (16, None)):
        q, k, v = (
            torch.randn(2, count, WIDTH, generator=draw).to(dtype).requires_grad_(grad)
            for count in (hole, length, length)
        )
        got, expected = attention(q, k, v, HEADS, mask).double(), reference(q, k, v, mask)
        errors.append(float(((got - expected).norm() / expected.norm()).detach()))
    return max(errors)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_pytorchs(dtype: torch.dtype, grad: bool):
    for hole in HOLES:
        for padded in (False, True):
            assert worst(sdpa, hole, dtype, padded, grad) < TOLERANCE[dtype], (hole, padded)


@pytest.fixture
def with_host(pack: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Attention]:
    """`with_host("attention_split")` -> our attention with this choice of the host's, as its command line flag makes
    it.
    """

    def choose(name: str) -> Attention:
        host = importlib.import_module(f"{pack.__name__}.nodes.host.attention")
        monkeypatch.setattr(
            host, "optimized_attention", getattr(importlib.import_module("comfy.ldm.modules.attention"), name)
        )
        monkeypatch.setattr(host, "chosen_attention", lambda: True)
        return host.host_attention

    return choose


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", HOSTS)
def test_the_hosts(with_host: Callable[[str], Attention], name: str, dtype: torch.dtype):
    attention = with_host(name)
    for hole in HOLES:
        for padded in (False, True):
            assert worst(attention, hole, dtype, padded) < TOLERANCE[dtype], (hole, padded)


def test_training_and_inference_take_different_ways():
    """Or the test above compared one of them with itself."""
    q, k, v = (torch.randn(1, 40, WIDTH, requires_grad=True) for _ in range(3))
    assert "Softmax" in names_of(sdpa(q, k, v, HEADS))
    assert "Attention" not in names_of(sdpa(q, k, v, HEADS))


def names_of(result: Tensor) -> str:
    """Names of the operations that made a tensor, the last eight or so."""
    names, front = [], [result.grad_fn]
    while front:
        node = front.pop()
        if node is not None and len(names) < 40:
            names.append(node.name())
            front += [parent for parent, _ in node.next_functions]
    return " ".join(names)
