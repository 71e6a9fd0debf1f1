"""Decoder steps as CUDA graphs: a step on few tokens is hundreds of kernels of a few microseconds, which take longer to launch than to run.

One graph is captured for each size of inputs (`static_inputs`), and what is valid in it is data: any hole of about that size replays it,
with as many images and words of text.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..attention import ragged_runs
from ..tokens import Packing
from .decoder import LazyDecoder, Prepared
from .static_inputs import Even, Form, Inputs, Row, Text

COUNT = 64  # graphs
WORK = 4096 * 1152**2  # tokens times width squared: longer steps keep the device busy, whoever launches them (pixart-xl, 4096 tokens)
WORK_APART = 4 * WORK  # of holes that differ in size: without a graph, attention takes one image after the other
LIMIT = 512 << 20  # bytes of what all of them are given: context, positions, the text's keys and values
WARM_UPS = 2


@dataclass
class Captured:
    inputs: Inputs
    graph: torch.cuda.CUDAGraph
    output: Tensor

    @classmethod
    def of(cls, inputs: Inputs, pool: Any) -> Captured:
        """Runs the step a few times, then captures it. Raises whatever the step raises, RuntimeError for what no graph can hold."""
        here, aside = torch.cuda.current_stream(inputs.form.device), torch.cuda.Stream(inputs.form.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                inputs.run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=aside):
            output = inputs.run()
        return cls(inputs, graph, output)

    def step(self, tokens: Tensor, timestep: Tensor) -> Tensor:
        self.inputs.enter(tokens, timestep)
        self.graph.replay()
        return self.inputs.leave(self.output, tokens)


@dataclass
class StepGraphs:
    """Captured steps of one decoder, those used last; without CUDA, or where capturing fails, steps run as they always did.

    A graph reads the weights where they lay when it was captured: an edit that finds them elsewhere drops all graphs. Calls may not
    overlap. `wanted` is asked at every step. After the first step that cannot be captured nothing is captured any more.
    """

    wanted: Callable[[], bool] = lambda: True
    captured: OrderedDict[Form, Captured] = field(default_factory=OrderedDict)
    texts: dict[tuple, Text] = field(default_factory=dict)
    failed: bool = False
    short: Callable[[], Prepared | None] = lambda: None  # the edit whose capture ran out of memory
    weights: tuple[int, ...] = ()
    pool: Any = None
    made: int = 0

    def step(self, decoder: LazyDecoder, tokens: Tensor, timestep: Tensor, given: Prepared) -> Tensor:
        """`decoder.step` for tokens [B, K, C p p] at a timestep [B] that all images share."""
        if not self.possible(tokens, given):
            return decoder.step(tokens, timestep, given)
        known = next((each for each in self.captured.values() if each.inputs.holds(given)), None) or self.ready(decoder, tokens, given)
        return decoder.step(tokens, timestep, given) if known is None else known.step(tokens, timestep)

    def possible(self, tokens: Tensor, given: Prepared) -> bool:
        """Whether a graph may run the step: asked at every step, so nothing is read from the device."""
        if not tokens.is_cuda or torch.is_grad_enabled() or tokens.shape[1] == 0 or given.words is not None:
            return False
        if self.failed or self.short() is given or not self.wanted():
            return False
        work = given.places.shape[-1] ** 2
        if given.keys is None:
            return len(tokens) * tokens.shape[1] * work <= WORK
        count = sum(given.keys.lengths) if isinstance(given.keys, Packing) else len(tokens) * tokens.shape[1]
        return count * work <= WORK_APART and ragged_runs(tokens.device, given.context.dtype)

    def ready(self, decoder: LazyDecoder, tokens: Tensor, given: Prepared) -> Captured | None:
        """The graph for an edit, holding what its steps share; None where there can be none."""
        weights = list(decoder.parameters())
        if any(weight.device != tokens.device for weight in weights):  # memory is short: nothing may be kept beside the model
            return self.forget()
        if (places := tuple(weight.data_ptr() for weight in weights)) != self.weights:
            self.forget()
            self.weights = places
        form = Form.of(tokens, given)
        try:
            known = self.captured.get(form) or self.capture(decoder, form, tokens, given)
        except torch.cuda.OutOfMemoryError:
            self.short = weakref.ref(given)
            return self.forget()
        except RuntimeError as problem:
            self.failed = True
            logging.warning(f"LazyDiffusion: a step could not be captured as a CUDA graph; steps run without from now on: {problem}")
            return self.forget()
        if known is None:
            return None
        self.captured.move_to_end(form)
        known.inputs.load(tokens, given)
        return known

    def capture(self, decoder: LazyDecoder, form: Form, tokens: Tensor, given: Prepared) -> Captured | None:
        """None for what would take all the room that graphs may have."""
        kind = (form.images, form.words, form.dtype)
        with torch.inference_mode(False):  # what lives longer than a call must be writable outside of it, too
            text = self.texts.get(kind) or self.texts.setdefault(kind, Text(form, given))
            inputs = (Even if form.longest is None else Row)(decoder, form, given, text, tokens.shape[-1])
        if text.nbytes + inputs.nbytes > LIMIT:
            self.prune()
            return None
        self.make_room(inputs)
        inputs.load(tokens, given)
        self.pool = self.pool if len(self.captured) else torch.cuda.graph_pool_handle()
        known = self.captured[form] = Captured.of(inputs, self.pool)
        self.made += 1
        return known

    def make_room(self, coming: Inputs) -> None:
        """Drops what was used least recently."""
        while self.captured and (len(self.captured) >= COUNT or self.nbytes + coming.nbytes > LIMIT):
            self.captured.popitem(last=False)
            self.prune(coming.text)

    def prune(self, *coming: Text) -> None:
        """Drops texts that no graph reads any more."""
        used = [*coming, *(each.inputs.text for each in self.captured.values())]
        self.texts = {kind: text for kind, text in self.texts.items() if any(text is each for each in used)}

    def forget(self) -> None:
        """Drop all graphs and what they hold."""
        self.captured.clear()
        self.texts.clear()
        self.weights, self.pool = (), None

    @property
    def nbytes(self) -> int:
        """Of what all graphs are given; their activations, which they share, are not counted."""
        return sum(text.nbytes for text in self.texts.values()) + sum(each.inputs.nbytes for each in self.captured.values())
