"""Decoder steps as CUDA graphs: a step on few tokens is hundreds of kernels of a few microseconds, which take longer to launch than to run.

The hole's tokens of all images, and of both branches of guidance, lie in one row whose length is rounded up (`bucket`). One graph is
captured for each length; where an image's tokens end is data, so any hole, and any batch of holes, that fits the row replays it.
"""

from __future__ import annotations

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .attention import ragged_runs
from .decoder import LazyDecoder, Prepared
from .layers import TextKV
from .tokens import Packing, Ragged

COUNT = 48  # graphs
MOST = 8192  # tokens in a row: longer steps take their time on the device, whoever launches them
LIMIT = 512 << 20  # bytes of what all of them are given: context, positions, the text's keys and values
WARM_UPS = 2


def grain(tokens: int) -> int:
    """What a row of so many tokens is rounded up to a multiple of: there are eight lengths for each doubling, at least 32 apart."""
    return max(32, 1 << max((tokens - 1).bit_length() - 4, 0))


def bucket(tokens: int) -> int:
    """The length of a row for so many tokens; beyond 256 an eighth of it is padding at most."""
    return -(-tokens // grain(tokens)) * grain(tokens)


@dataclass(frozen=True)
class Form:
    """What a captured step is good for: `row` tokens of `images` images, none of more than `longest`, each with `words` tokens of text."""

    row: int
    images: int
    longest: int
    words: int
    dtype: torch.dtype
    device: torch.device
    sized: bool

    @classmethod
    def of(cls, tokens: Tensor, given: Prepared) -> Form:
        """Reads the device where a batch has padding."""
        lengths, text = lengths_of(tokens, given), given.text[0][0]
        row = bucket(sum(lengths))
        longest = max(min(row, 1 << (max(lengths) - 1).bit_length()), grain(row))
        return cls(row, len(lengths), longest, text.shape[1], given.context.dtype, tokens.device, isinstance(given.size, Tensor))


def lengths_of(tokens: Tensor, given: Prepared) -> tuple[int, ...]:
    """Valid tokens of each image of [B, K, C p p]."""
    packing = packing_of(given)
    return (tokens.shape[1],) * len(tokens) if packing is None else packing.lengths


def packing_of(given: Prepared) -> Packing | None:
    """None where no image has padding."""
    return Packing.of(given.keys) if isinstance(given.keys, Tensor) else given.keys if isinstance(given.keys, Packing) else None


class Text:
    """Where captured steps read the text's keys and values: all that carry as many images of as many words share it.

    One image more than there are: the row's padding is a sequence, too, and attends to something.
    """

    def __init__(self, form: Form, given: Prepared):
        shape = (form.images + 1, *given.text[0][0].shape[1:])
        self.pairs: tuple[TextKV, ...] = tuple((k.new_zeros(shape), v.new_zeros(shape)) for k, v in given.text)
        self.loaded: Callable[[], Prepared | None] = lambda: None

    def load(self, given: Prepared) -> None:
        if self.loaded() is not given:
            torch._foreach_copy_([x[:-1] for pair in self.pairs for x in pair], [x for pair in given.text for x in pair])
            self.loaded = weakref.ref(given)


class Row:
    """A step's inputs at fixed places in memory: `load` fills in what an edit's steps share, `enter` a step's own; `run` is the step."""

    def __init__(self, decoder: LazyDecoder, form: Form, given: Prepared, text: Text, channels: int):
        zeros = given.context.new_zeros
        self.decoder, self.form, self.text = decoder, form, text
        self.tokens, self.timestep = zeros(1, form.row, channels), torch.zeros(1, device=form.device)
        starts, words = (torch.arange(form.images + 2, dtype=torch.int32, device=form.device) * n for n in (0, form.words))
        self.keys = Ragged(starts, words, form.longest, form.words)
        size = torch.zeros_like(given.size) if isinstance(given.size, Tensor) else 0.0
        context, places = (zeros(1, form.row, x.shape[-1]) for x in (given.context, given.places))
        self.given = Prepared(context, places, text.pairs, size, self.keys)
        self.index: Tensor | None = None
        self.loaded: Callable[[], Prepared | None] = lambda: None

    def holds(self, given: Prepared) -> bool:
        return self.loaded() is given and self.text.loaded() is given

    def load(self, tokens: Tensor, given: Prepared) -> None:
        """Everything of an edit that no step changes."""
        packing, lengths = packing_of(given), lengths_of(tokens, given)
        self.index = None if packing is None else packing.index
        for room, values in ((self.given.context, given.context), (self.given.places, given.places)):
            values = values.flatten(0, 1)
            room[0, : sum(lengths)] = values if self.index is None or isinstance(given.keys, Packing) else values[self.index]
        if isinstance(self.given.size, Tensor) and isinstance(given.size, Tensor):
            self.given.size.copy_(given.size)
        self.keys.starts.copy_(torch.tensor([0, *accumulate(lengths), self.form.row], dtype=torch.int32))
        self.text.load(given)
        self.loaded = weakref.ref(given)

    def enter(self, tokens: Tensor, timestep: Tensor) -> None:
        """A step's tokens [B, K, C p p] and timestep [B], which all images share."""
        flat = tokens.flatten(0, 1)
        flat = flat if self.index is None else flat[self.index]
        self.tokens[0, : len(flat)] = flat
        self.timestep.copy_(timestep[:1])

    def run(self) -> Tensor:
        return self.decoder.run_blocks(self.tokens, self.timestep, self.given)

    def leave(self, output: Tensor, tokens: Tensor) -> Tensor:
        """A step's result [1, T, C p p] as a new [B, K, C p p], the shape of `tokens`; zeros on padding."""
        count = len(tokens) * tokens.shape[1]
        if self.index is None:
            return output[0, :count].clone().unflatten(0, tokens.shape[:2])
        result = output.new_zeros(count, output.shape[-1])
        result[self.index] = output[0, : len(self.index)]
        return result.unflatten(0, tokens.shape[:2])

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.given.context.nbytes + self.given.places.nbytes


@dataclass
class Captured:
    row: Row
    graph: torch.cuda.CUDAGraph
    output: Tensor

    @classmethod
    def of(cls, row: Row, pool: Any) -> Captured:
        """Runs the step a few times, then captures it. Raises whatever the step raises, RuntimeError for what no graph can hold."""
        here, aside = torch.cuda.current_stream(row.form.device), torch.cuda.Stream(row.form.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                row.run()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = row.run()
        return cls(row, graph, output)

    def step(self, tokens: Tensor, timestep: Tensor) -> Tensor:
        self.row.enter(tokens, timestep)
        self.graph.replay()
        return self.row.leave(self.output, tokens)


@dataclass
class StepGraphs:
    """Captured steps of one decoder, those used last; without CUDA, or where capturing fails, steps run as they always did.

    A graph reads the weights where they lay when it was captured: an edit that finds them elsewhere drops all graphs. Calls may not
    overlap. `wanted` is asked at every step.
    """

    wanted: Callable[[], bool] = lambda: True
    captured: OrderedDict[Form, Captured] = field(default_factory=OrderedDict)
    texts: dict[tuple, Text] = field(default_factory=dict)
    refused: set[Form] = field(default_factory=set)
    weights: tuple[int, ...] = ()
    pool: Any = None
    made: int = 0

    def step(self, decoder: LazyDecoder, tokens: Tensor, timestep: Tensor, given: Prepared) -> Tensor:
        """`decoder.step` for tokens [B, K, C p p] at a timestep [B] that all images share."""
        if not self.possible(tokens, given):
            return decoder.step(tokens, timestep, given)
        known = next((each for each in self.captured.values() if each.row.holds(given)), None) or self.ready(decoder, tokens, given)
        return decoder.step(tokens, timestep, given) if known is None else known.step(tokens, timestep)

    def possible(self, tokens: Tensor, given: Prepared) -> bool:
        if not tokens.is_cuda or torch.is_grad_enabled() or tokens.shape[1] == 0 or given.words is not None:
            return False
        return self.wanted() and ragged_runs(tokens.device, given.context.dtype)

    def ready(self, decoder: LazyDecoder, tokens: Tensor, given: Prepared) -> Captured | None:
        """The graph for an edit, holding what its steps share; None where there can be none."""
        weights = list(decoder.parameters())
        if any(weight.device != tokens.device for weight in weights):
            return None
        if (places := tuple(weight.data_ptr() for weight in weights)) != self.weights:
            self.forget()
            self.weights = places
        form = Form.of(tokens, given)
        if form in self.refused or form.row > MOST:
            return None
        try:
            known = self.captured.get(form) or self.capture(decoder, form, tokens, given)
        except torch.cuda.OutOfMemoryError:
            return self.forget()
        except RuntimeError as problem:
            self.refused.add(form)
            logging.warning(f"LazyDiffusion: a step could not be captured as a CUDA graph and runs without one: {problem}")
            return None
        self.captured.move_to_end(form)
        known.row.load(tokens, given)
        return known

    def capture(self, decoder: LazyDecoder, form: Form, tokens: Tensor, given: Prepared) -> Captured:
        kind = (form.images, form.words, form.dtype)
        text = self.texts.get(kind) or self.texts.setdefault(kind, Text(form, given))
        row = Row(decoder, form, given, text, tokens.shape[-1])
        self.make_room(row)
        row.load(tokens, given)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        known = self.captured[form] = Captured.of(row, self.pool)
        self.made += 1
        return known

    def make_room(self, coming: Row) -> None:
        """Drops what was used least recently."""
        while self.captured and (len(self.captured) >= COUNT or self.nbytes + coming.nbytes > LIMIT):
            self.captured.popitem(last=False)
            used = [coming.text, *(each.row.text for each in self.captured.values())]
            self.texts = {kind: text for kind, text in self.texts.items() if any(text is each for each in used)}

    def forget(self) -> None:
        """Drop all graphs and what they hold."""
        self.captured.clear()
        self.texts.clear()
        self.weights, self.pool = (), None

    @property
    def nbytes(self) -> int:
        """Of what all graphs are given."""
        texts = sum(x.nbytes for text in self.texts.values() for pair in text.pairs for x in pair)
        return texts + sum(each.row.nbytes for each in self.captured.values())
