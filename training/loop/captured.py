"""Training steps as CUDA graphs: a small model's step is thousands of short kernels, and launching them takes longer
than running them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import torch
from torch import Tensor

from .examples import Examples

EAGER = 2  # steps of each shape that run as they are: they compile, choose kernels and make the optimizers' states

Losses = dict[str, Tensor]
Form = tuple[tuple[str, torch.Size], ...]


class CapturedSteps:
    """`step` (forward, backward, optimizers) for examples of few shapes: from its third time on, each shape replays a
    graph.

    `step` may read nothing from the device and must leave no gradients behind. Losses are overwritten by the next call.
    """

    def __init__(self, step: Callable[[Examples], Losses], device: torch.device):
        self.step, self.stream = step, torch.cuda.Stream(device)
        self.seen: dict[Form, int] = {}
        self.graphs: dict[Form, tuple[torch.cuda.CUDAGraph, Examples, Losses]] = {}
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, examples: Examples) -> Losses:
        given = examples.tensors()
        form = tuple((name, value.shape) for name, value in given.items())
        here = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(here)
        # Gradients are accumulated on the stream that first saw them: it has to be one
        with torch.cuda.stream(self.stream):
            if form not in self.graphs and self.seen.get(form, 0) < EAGER:
                self.seen[form] = self.seen.get(form, 0) + 1
                losses = self.step(examples)
            else:
                losses = self.replay(form, examples, given)
        here.wait_stream(self.stream)
        return losses

    def replay(self, form: Form, examples: Examples, given: dict[str, Tensor]) -> Losses:
        if form not in self.graphs:
            room = copied(examples)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                losses = self.step(room)
            self.graphs[form] = (graph, room, losses)
        graph, room, losses = self.graphs[form]
        mine = room.tensors()
        for name, value in given.items():
            mine[name].copy_(value)
        graph.replay()
        return losses


def copied(examples: Examples) -> Examples:
    """The same in memory of its own."""

    def copy(value: object) -> object:
        if isinstance(value, Tensor):
            return value.clone()
        if not hasattr(value, "__dataclass_fields__"):
            return value
        copies = {f.name: copy(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]
        return replace(value, **copies)  # type: ignore[type-var]

    return copy(examples)  # type: ignore[return-value]
