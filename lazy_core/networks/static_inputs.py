"""The inputs of a captured step at fixed places in memory.

Sizes are rounded up (`bucket`), and what is valid in them is data.
One image, with both branches of guidance, is an `Even` step: images of as many tokens each. Holes that differ in size lie one after
the other in a `Row`, and attention is told where each of them ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..tokens import Packing, Ragged
from .decoder import LazyDecoder, Prepared
from .layers import Keys, TextKV

MASKED = 1024  # tokens of an image from which on a hole that fills its bucket is worth a graph of its own, without a mask


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
