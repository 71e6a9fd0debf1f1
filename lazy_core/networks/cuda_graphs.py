"""Decoder steps as CUDA graphs: a step on few tokens is hundreds of kernels of a few microseconds, which take longer to
launch than to run.

One graph is captured for each size of inputs (`static_inputs`), and what is valid in it is data: any hole of about that
size replays it, with as many images and words of text.
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
from .decoder import LazyDecoder, PreparedInputs
from .layout import Packed, Padded
from .static_inputs import GraphKey, PaddedInputs, RaggedInputs, StaticInputs, TextBuffers

COUNT = 64  # graphs
WORK = (
    4096 * 1152**2
)  # tokens times width squared: longer steps keep the device busy, whoever launches them (pixart-xl, 4096 tokens)
WORK_APART = 4 * WORK  # of holes that differ in size: without a graph, attention takes one image after the other
LIMIT = 512 << 20  # bytes of what all of them read: context, positions, the text's keys and values
WARM_UPS = 2


@dataclass
class CapturedStep:
    """A decoder step as a CUDA graph: its inputs at fixed places, and where its output will be."""

    inputs: StaticInputs
    graph: torch.cuda.CUDAGraph
    output: Tensor

    @classmethod
    def of(cls, inputs: StaticInputs, pool: Any) -> CapturedStep:
        """Runs the step a few times, then captures it. Raises whatever the step raises, RuntimeError for what no graph
        can hold.
        """
        here, aside = torch.cuda.current_stream(inputs.key.device), torch.cuda.Stream(inputs.key.device)
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
        """`decoder.step` for tokens [B, K, C p p] at a timestep [B], by replaying the graph."""
        self.inputs.set_step(tokens, timestep)
        self.graph.replay()
        return self.inputs.read_output(self.output, tokens)


@dataclass
class StepGraphs:
    """Captured steps of one decoder, those used last; without CUDA, or where capturing fails, steps run as they always
    did.

    A graph reads the weights where they lay when it was captured: an edit that finds them elsewhere drops all graphs.
    Calls may not overlap. `enabled` is asked at every step. After the first step that cannot be captured nothing is
    captured any more.
    """

    enabled: Callable[[], bool] = lambda: True
    captured: OrderedDict[GraphKey, CapturedStep] = field(default_factory=OrderedDict)
    texts: dict[tuple, TextBuffers] = field(default_factory=dict)
    failed: bool = False
    out_of_memory: Callable[[], PreparedInputs | None] = lambda: None  # the edit whose capture ran out of memory
    weights: tuple[int, ...] = ()
    pool: Any = None
    captures: int = 0

    def step(self, decoder: LazyDecoder, tokens: Tensor, timestep: Tensor, prepared: PreparedInputs) -> Tensor:
        """`decoder.step` for tokens [B, K, C p p] at a timestep [B] that all images share."""
        if not self.can_capture(tokens, prepared):
            return decoder.step(tokens, timestep, prepared)
        held = (each for each in self.captured.values() if each.inputs.holds(prepared))
        captured_step = next(held, None) or self.graph_for(decoder, tokens, prepared)
        return (
            decoder.step(tokens, timestep, prepared) if captured_step is None else captured_step.step(tokens, timestep)
        )

    def can_capture(self, tokens: Tensor, prepared: PreparedInputs) -> bool:
        """Tell whether a graph may run the step: asked at every step, so nothing is read from the device."""
        layout = prepared.layout
        if not tokens.is_cuda or torch.is_grad_enabled() or tokens.shape[1] == 0:
            return False
        if self.failed or self.out_of_memory() is prepared or not self.enabled():
            return False
        if isinstance(layout, Padded) and layout.caption_mask is not None:
            return False
        work = prepared.pos_embed.shape[-1] ** 2
        if isinstance(layout, Padded) and layout.token_mask is None:
            return len(tokens) * tokens.shape[1] * work <= WORK
        count = sum(layout.lengths) if isinstance(layout, Packed) else len(tokens) * tokens.shape[1]
        return count * work <= WORK_APART and ragged_runs(tokens.device, prepared.context.dtype)

    def graph_for(self, decoder: LazyDecoder, tokens: Tensor, prepared: PreparedInputs) -> CapturedStep | None:
        """The graph for an edit, holding what its steps share; None where there can be none."""
        weights = list(decoder.parameters())
        # Memory is short: nothing may be kept beside the model
        if any(weight.device != tokens.device for weight in weights):
            return self.clear()
        if (addresses := tuple(weight.data_ptr() for weight in weights)) != self.weights:
            self.clear()
            self.weights = addresses
        key = GraphKey.of(tokens, prepared)
        try:
            captured_step = self.captured.get(key) or self.capture(decoder, key, tokens, prepared)
        except torch.cuda.OutOfMemoryError:
            self.out_of_memory = weakref.ref(prepared)
            return self.clear()
        except RuntimeError as problem:
            self.failed = True
            logging.warning(
                f"LazyDiffusion: a step could not be captured as a CUDA graph; steps run without from now on: {problem}"
            )
            return self.clear()
        if captured_step is None:
            return None
        self.captured.move_to_end(key)
        captured_step.inputs.set_edit(tokens, prepared)
        return captured_step

    def capture(
        self, decoder: LazyDecoder, key: GraphKey, tokens: Tensor, prepared: PreparedInputs
    ) -> CapturedStep | None:
        """None for what would take all the room that graphs may have."""
        shape = (key.images, key.caption_length, key.dtype)
        with torch.inference_mode(False):  # what lives longer than a call must be writable outside of it, too
            text = self.texts.get(shape) or self.texts.setdefault(shape, TextBuffers(key, prepared))
            inputs = (PaddedInputs if key.longest is None else RaggedInputs)(
                decoder, key, prepared, text, tokens.shape[-1]
            )
        if text.nbytes + inputs.nbytes > LIMIT:
            self.prune()
            return None
        self.make_room(inputs)
        inputs.set_edit(tokens, prepared)
        self.pool = self.pool if len(self.captured) else torch.cuda.graph_pool_handle()
        captured_step = self.captured[key] = CapturedStep.of(inputs, self.pool)
        self.captures += 1
        return captured_step

    def make_room(self, coming: StaticInputs) -> None:
        """Drops what was used least recently."""
        while self.captured and (len(self.captured) >= COUNT or self.nbytes + coming.nbytes > LIMIT):
            self.captured.popitem(last=False)
            self.prune(coming.text)

    def prune(self, *coming: TextBuffers) -> None:
        """Drops texts that no graph reads any more."""
        used = [*coming, *(each.inputs.text for each in self.captured.values())]
        self.texts = {shape: text for shape, text in self.texts.items() if any(text is each for each in used)}

    def clear(self) -> None:
        """Drop all graphs and what they hold."""
        self.captured.clear()
        self.texts.clear()
        self.weights, self.pool = (), None

    @property
    def nbytes(self) -> int:
        """Of what all graphs read; their activations, which they share, are not counted."""
        return sum(text.nbytes for text in self.texts.values()) + sum(
            each.inputs.nbytes for each in self.captured.values()
        )
