"""Which holes have a prompt for no object: through stock nodes, for each hole and each image of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy

SIDE = 512


@pytest.fixture(scope="module")
def context(lazy: Lazy) -> Any:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 40:100, 40:100] = mask[:, 400:460, 400:460] = 1
    return lazy.encode(torch.full((1, SIDE, SIDE, 3), 0.5), mask)[0]


def emptied(lazy: Lazy, context: Any, conditioning: list) -> list[bool]:
    return lazy.node_module("host.conditioning").holes_without_object(conditioning, context).tolist()


def corner() -> Tensor:
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 300:, 300:] = 1
    return mask


def test_whole_prompts_alone_ask_for_nothing(lazy: Lazy, context: Any):
    for prompt in ("empty background", "Remove it.", "空白背景"):
        assert emptied(lazy, context, lazy.text(prompt)) == [True, True]
    for prompt in ("a panda", "panda on an empty background", ""):
        assert emptied(lazy, context, lazy.text(prompt)) == [False, False]


def test_a_prompt_that_a_node_mixed_with_another_asks_for_something(lazy: Lazy, context: Any):
    nothing, panda = lazy.text("background"), lazy.text("a panda")
    stock = lazy.stock
    assert emptied(lazy, context, stock.ConditioningConcat().concat(nothing, panda)[0]) == [False, False]
    assert emptied(lazy, context, stock.ConditioningAverage().addWeighted(nothing, panda, 0.3)[0]) == [False, False]
    assert emptied(lazy, context, stock.ConditioningCombine().combine(nothing, panda)[0]) == [False, False]
    assert emptied(lazy, context, stock.ConditioningZeroOut().zero_out(nothing)[0]) == [False, False]


def test_each_hole_has_its_own(lazy: Lazy, context: Any):
    masked = lazy.stock.ConditioningSetMask().append(lazy.text("remove it"), corner(), "default", 1.0)[0]
    both = lazy.stock.ConditioningCombine().combine(masked, lazy.text("a panda"))[0]
    assert emptied(lazy, context, both) == [False, True]
    masked = lazy.stock.ConditioningSetMask().append(lazy.text("a panda"), corner(), "default", 1.0)[0]
    both = lazy.stock.ConditioningCombine().combine(masked, lazy.text("remove it"))[0]
    assert emptied(lazy, context, both) == [True, False]


def test_each_edit_of_a_batch_has_its_own(lazy: Lazy):
    mask = torch.zeros(2, 128, 128)
    mask[:, 40:80, 40:80] = 1
    context = lazy.encode(torch.full((2, 128, 128, 3), 0.5), mask)[0]
    prompts = [
        lazy.text("remove it"),
        lazy.text("a panda that is far away in a very deep dark forest of pine trees at night"),
    ]
    together = lazy.node_module("host.conditioning").prompts_of_images(prompts)
    assert emptied(lazy, context, together) == [True, False]
