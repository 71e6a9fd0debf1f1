"""Decoder steps as CUDA graphs: a step on few tokens is hundreds of kernels of a few microseconds, which take longer to launch than to run.

Sizes are rounded up (`bucket`), one graph is captured for each, and what is valid in it is data: any hole of about that size replays it,
with as many images and words of text.
One image, with both branches of guidance, is an `Even` step: images of as many tokens each. Holes that differ in size lie one after
the other in a `Row`, and attention is told where each of them ends.
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
from .layers import Keys, TextKV
from .tokens import Packing, Ragged

COUNT = 64  # graphs
WORK = 4096 * 1152**2  # tokens times width squared: longer steps keep the device busy, whoever launches them (pixart-xl, 4096 tokens)
WORK_APART = 4 * WORK  # of holes that differ in size: without a graph, attention takes one image after the other
MASKED = 1024  # tokens of an image from which on a hole that fills its bucket is worth a graph of its own, without a mask
LIMIT = 512 << 20  # bytes of what all of them are given: context, positions, the text's keys and values
WARM_UPS = 2


def bucket(tokens: int) -> int:
    """The size for so many tokens: there are eight for each doubling, at least 16 apart; beyond 128 an eighth is padding at most."""
    grain = max(16, 1 << max((tokens - 1).bit_length() - 4, 0))
    return -(-tokens // grain) * grain


@dataclass(frozen=True)
class Form:
    """What a captured step is good for: `images` images of `words` tokens of text and `size` tokens each, of which some may be padding.

    `longest`: images that differ in size, all together `size` tokens, none of more than `longest`.
    """

    size: int
    images: int
    padded: bool
    longest: int | None
    words: int
    dtype: torch.dtype
    device: torch.device
    sized: bool

    @classmethod
    def of(cls, tokens: Tensor, given: Prepared) -> Form:
        """Reads the device where a batch has padding."""
        lengths = lengths_of(tokens, given)
        even, count = min(lengths) == max(lengths), max(lengths)
        size = bucket(count if even else sum(lengths))
        longest = None if even else min(size, 1 << (count - 1).bit_length())
        words, dtype, sized = given.text[0][0].shape[1], given.context.dtype, isinstance(given.size, Tensor)
        padded = not even or size > count or size < MASKED
        return cls(size, len(lengths), padded, longest, words, dtype, tokens.device, sized)


def lengths_of(tokens: Tensor, given: Prepared) -> tuple[int, ...]:
    """Valid tokens of each image of [B, K, C p p]."""
    packing = packing_of(given)
    return (tokens.shape[1],) * len(tokens) if packing is None else packing.lengths


def packing_of(given: Prepared) -> Packing | None:
    """None where no image has padding."""
    return Packing.of(given.keys) if isinstance(given.keys, Tensor) else given.keys if isinstance(given.keys, Packing) else None


class Text:
    """Where captured steps read the text's keys and values: all that carry as many images of as many words share it.

    One image more than there are: the padding of a `Row` is a sequence, too, and attends to something.
    """

    def __init__(self, form: Form, given: Prepared):
        shape = (form.images + 1, *given.text[0][0].shape[1:])
        self.all: tuple[TextKV, ...] = tuple((k.new_zeros(shape), v.new_zeros(shape)) for k, v in given.text)
        self.own: tuple[TextKV, ...] = tuple((k[:-1], v[:-1]) for k, v in self.all)
        self.loaded: Callable[[], Prepared | None] = lambda: None

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for pair in self.all for x in pair)

    def load(self, given: Prepared) -> None:
        if self.loaded() is not given:
            torch._foreach_copy_([x for pair in self.own for x in pair], [x for pair in given.text for x in pair])
            self.loaded = weakref.ref(given)


class Inputs:
    """A step's inputs at fixed places in memory: `load` fills in what an edit's steps share, `enter` a step's own; `run` is the step."""

    def __init__(self, decoder: LazyDecoder, form: Form, given: Prepared, text: Text, channels: int):
        zeros, rows = given.context.new_zeros, 1 if form.longest is not None else form.images
        self.decoder, self.form, self.text = decoder, form, text
        self.tokens, self.timestep = zeros(rows, form.size, channels), torch.zeros(1, device=form.device)
        context, places = (zeros(rows, form.size, x.shape[-1]) for x in (given.context, given.places))
        size = torch.zeros_like(given.size) if isinstance(given.size, Tensor) else 0.0
        self.given = Prepared(context, places, self.pairs(), size, self.keys())
        self.loaded: Callable[[], Prepared | None] = lambda: None

    def pairs(self) -> tuple[TextKV, ...]:
        raise NotImplementedError

    def keys(self) -> Keys:
        raise NotImplementedError

    def holds(self, given: Prepared) -> bool:
        return self.loaded() is given and self.text.loaded() is given

    def load(self, tokens: Tensor, given: Prepared) -> None:
        """Everything of an edit that no step changes."""
        self.place(tokens, given)
        if isinstance(self.given.size, Tensor) and isinstance(given.size, Tensor):
            self.given.size.copy_(given.size)
        self.text.load(given)
        self.loaded = weakref.ref(given)

    def place(self, tokens: Tensor, given: Prepared) -> None:
        """Context and positions, and which of them are valid."""
        raise NotImplementedError

    def enter(self, tokens: Tensor, timestep: Tensor) -> None:
        """A step's tokens [B, K, C p p] and timestep [B], which all images share."""
        raise NotImplementedError

    def run(self) -> Tensor:
        return self.decoder.run_blocks(self.tokens, self.timestep, self.given)

    def leave(self, output: Tensor, tokens: Tensor) -> Tensor:
        """A step's result as a new [B, K, C p p], the shape of `tokens`; zeros on padding."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return self.tokens.nbytes + self.given.context.nbytes + self.given.places.nbytes


class Even(Inputs):
    """Images of as many tokens each, [B, T, ...]: any attention will do."""

    def pairs(self) -> tuple[TextKV, ...]:
        return self.text.own

    def keys(self) -> Keys:
        return self.tokens.new_zeros(self.tokens.shape[:2], dtype=torch.bool) if self.form.padded else None

    def place(self, tokens: Tensor, given: Prepared) -> None:
        count = tokens.shape[1]
        self.given.context[:, :count], self.given.places[:, :count] = given.context, given.places
        self.tokens[:, count:], self.given.context[:, count:] = 0, 0  # a mask does not stop NaN that an earlier edit left
        if isinstance(self.given.keys, Tensor):
            self.given.keys[:, :count], self.given.keys[:, count:] = True, False

    def enter(self, tokens: Tensor, timestep: Tensor) -> None:
        self.tokens[:, : tokens.shape[1]] = tokens
        self.timestep.copy_(timestep[:1])

    def leave(self, output: Tensor, tokens: Tensor) -> Tensor:
        return output[:, : tokens.shape[1]].clone()


class Row(Inputs):
    """Images of different size, one after the other, [1, T, ...]; what is left of the row is a sequence of its own."""

    def pairs(self) -> tuple[TextKV, ...]:
        return self.text.all

    def keys(self) -> Keys:
        starts, words = (torch.arange(self.form.images + 2, dtype=torch.int32, device=self.form.device) * n for n in (0, self.form.words))
        assert self.form.longest is not None
        return Ragged(starts, words, max(self.form.longest, self.form.size // 8, 16), self.form.words)

    def place(self, tokens: Tensor, given: Prepared) -> None:
        packing = packing_of(given)
        assert packing is not None and isinstance(self.given.keys, Ragged)
        self.packing, self.count = packing, sum(packing.lengths)
        for room, values in ((self.given.context, given.context), (self.given.places, given.places)):
            room[:, : self.count] = values if packing is given.keys else packing.pack(values)
        ends = [0, *accumulate(packing.lengths), self.form.size]
        self.given.keys.starts.copy_(torch.tensor(ends, dtype=torch.int32))

    def enter(self, tokens: Tensor, timestep: Tensor) -> None:
        self.tokens[:, : self.count] = self.packing.pack(tokens)
        self.timestep.copy_(timestep[:1])

    def leave(self, output: Tensor, tokens: Tensor) -> Tensor:
        return self.packing.unpack(output[:, : self.count], tokens)


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
