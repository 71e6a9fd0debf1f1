"""The inputs of a captured step at fixed places in memory.

Sizes are rounded up (`bucket`), and what is valid in them is data. One image, with both branches of guidance, is a
`PaddedInputs` step: images of as many tokens each. Holes that differ in size lie one after the other in `RaggedInputs`,
and attention is told where each of them ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .decoder import LazyDecoder, PreparedInputs
from .layers import TextKV
from .layout import Packed, Padded, Ragged, TokenLayout

MASKED = (
    1024  # tokens of an image from which on a hole that fills its bucket is worth a graph of its own, without a mask
)


def bucket(tokens: int) -> int:
    """The size for so many tokens: there are eight for each doubling, at least 16 apart; beyond 128 an eighth is
    padding at most.
    """
    grain = max(16, 1 << max((tokens - 1).bit_length() - 4, 0))
    return -(-tokens // grain) * grain


@dataclass(frozen=True)
class GraphKey:
    """What a captured step is good for: `images` images of `size` tokens each, of which some may be padding, and of
    `caption_length` tokens of text.

    `longest`: images that differ in size, all together `size` tokens, none of more than `longest`.
    """

    size: int
    images: int
    padded: bool
    longest: int | None
    caption_length: int
    dtype: torch.dtype
    device: torch.device
    sized: bool

    @classmethod
    def of(cls, tokens: Tensor, prepared: PreparedInputs) -> GraphKey:
        """Reads the device where a batch has padding."""
        lengths = lengths_of(tokens, prepared)
        even, count = min(lengths) == max(lengths), max(lengths)
        size = bucket(count if even else sum(lengths))
        longest = None if even else min(size, 1 << (count - 1).bit_length())
        caption_length, dtype, sized = (
            prepared.text_kv[0][0].shape[1],
            prepared.context.dtype,
            isinstance(prepared.micro_cond, Tensor),
        )
        padded = not even or size > count or size < MASKED
        return cls(size, len(lengths), padded, longest, caption_length, dtype, tokens.device, sized)


def lengths_of(tokens: Tensor, prepared: PreparedInputs) -> tuple[int, ...]:
    """Valid tokens of each image of [B, K, C p p]. Reads the device where the batch has padding."""
    packed = packed_layout(prepared)
    return (tokens.shape[1],) * len(tokens) if packed is None else packed.lengths


def packed_layout(prepared: PreparedInputs) -> Packed | None:
    """How the batch lies without its padding; None where it has none."""
    layout = prepared.layout
    if isinstance(layout, Packed):
        return layout
    return Packed.of(layout.token_mask) if isinstance(layout, Padded) and layout.token_mask is not None else None


class TextBuffers:
    """Where captured steps read the text's keys and values: all that carry as many images of as many words share it.

    One image more than there are: the padding of `RaggedInputs` is a sequence, too, and attends to something.
    """

    def __init__(self, key: GraphKey, prepared: PreparedInputs):
        shape = (key.images + 1, *prepared.text_kv[0][0].shape[1:])
        self.all: tuple[TextKV, ...] = tuple((k.new_zeros(shape), v.new_zeros(shape)) for k, v in prepared.text_kv)
        self.own: tuple[TextKV, ...] = tuple((k[:-1], v[:-1]) for k, v in self.all)
        self.loaded: Callable[[], PreparedInputs | None] = lambda: None

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(x.nbytes for pair in self.all for x in pair)

    def load(self, prepared: PreparedInputs) -> None:
        """Copy an edit's keys and values in, unless they are there."""
        if self.loaded() is not prepared:
            torch._foreach_copy_([x for pair in self.own for x in pair], [x for pair in prepared.text_kv for x in pair])
            self.loaded = weakref.ref(prepared)


class StaticInputs:
    """A step's inputs at fixed places in memory.

    `set_edit` fills in what an edit's steps share, `set_step` a step's own; `run` is the step.
    """

    def __init__(self, decoder: LazyDecoder, key: GraphKey, prepared: PreparedInputs, text: TextBuffers, channels: int):
        zeros, rows = prepared.context.new_zeros, 1 if key.longest is not None else key.images
        self.decoder, self.key, self.text = decoder, key, text
        self.tokens, self.timestep = zeros(rows, key.size, channels), torch.zeros(1, device=key.device)
        context, pos_embed = (zeros(rows, key.size, x.shape[-1]) for x in (prepared.context, prepared.pos_embed))
        size = torch.zeros_like(prepared.micro_cond) if isinstance(prepared.micro_cond, Tensor) else 0.0
        self.prepared = PreparedInputs(context, pos_embed, self.text_kv(), size, self.layout())
        self.loaded: Callable[[], PreparedInputs | None] = lambda: None

    def text_kv(self) -> tuple[TextKV, ...]:
        """The text's keys and values of each block, as this layout reads them."""
        raise NotImplementedError

    def layout(self) -> TokenLayout:
        """A layout whose tensors `place` fills."""
        raise NotImplementedError

    def holds(self, prepared: PreparedInputs) -> bool:
        """Tell whether the inputs are this edit's already."""
        return self.loaded() is prepared and self.text.loaded() is prepared

    def set_edit(self, tokens: Tensor, prepared: PreparedInputs) -> None:
        """Everything of an edit that no step changes."""
        self.place(tokens, prepared)
        if isinstance(self.prepared.micro_cond, Tensor) and isinstance(prepared.micro_cond, Tensor):
            self.prepared.micro_cond.copy_(prepared.micro_cond)
        self.text.load(prepared)
        self.loaded = weakref.ref(prepared)

    def place(self, tokens: Tensor, prepared: PreparedInputs) -> None:
        """Context and positions, and which of them are valid."""
        raise NotImplementedError

    def set_step(self, tokens: Tensor, timestep: Tensor) -> None:
        """A step's tokens [B, K, C p p] and timestep [B], which all images share."""
        raise NotImplementedError

    def run(self) -> Tensor:
        """Run the step on what lies in the inputs, padding and all."""
        return self.decoder.run_blocks(self.tokens, self.timestep, self.prepared)

    def read_output(self, output: Tensor, tokens: Tensor) -> Tensor:
        """A step's result as a new [B, K, C p p], the shape of `tokens`; zeros on padding."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of tokens, context and positions."""
        return self.tokens.nbytes + self.prepared.context.nbytes + self.prepared.pos_embed.nbytes


class PaddedInputs(StaticInputs):
    """Images of as many tokens each, [B, T, ...]: any attention will do."""

    def text_kv(self) -> tuple[TextKV, ...]:
        return self.text.own

    def layout(self) -> TokenLayout:
        return Padded(self.tokens.new_zeros(self.tokens.shape[:2], dtype=torch.bool) if self.key.padded else None)

    def place(self, tokens: Tensor, prepared: PreparedInputs) -> None:
        count = tokens.shape[1]
        self.prepared.context[:, :count], self.prepared.pos_embed[:, :count] = prepared.context, prepared.pos_embed
        self.tokens[:, count:], self.prepared.context[:, count:] = (
            0,
            0,
        )  # a mask does not stop NaN that an earlier edit left
        layout = self.prepared.layout
        if isinstance(layout, Padded) and layout.token_mask is not None:
            layout.token_mask[:, :count], layout.token_mask[:, count:] = True, False

    def set_step(self, tokens: Tensor, timestep: Tensor) -> None:
        self.tokens[:, : tokens.shape[1]] = tokens
        self.timestep.copy_(timestep[:1])

    def read_output(self, output: Tensor, tokens: Tensor) -> Tensor:
        return output[:, : tokens.shape[1]].clone()


class RaggedInputs(StaticInputs):
    """Images of different size, one after the other, [1, T, ...]; what is left of the row is a sequence of its own."""

    def text_kv(self) -> tuple[TextKV, ...]:
        return self.text.all

    def layout(self) -> TokenLayout:
        starts, text_starts = (
            torch.arange(self.key.images + 2, dtype=torch.int32, device=self.key.device) * n
            for n in (0, self.key.caption_length)
        )
        assert self.key.longest is not None
        return Ragged(starts, text_starts, max(self.key.longest, self.key.size // 8, 16), self.key.caption_length)

    def place(self, tokens: Tensor, prepared: PreparedInputs) -> None:
        packed, layout = packed_layout(prepared), self.prepared.layout
        assert packed is not None and isinstance(layout, Ragged)
        self.packed, self.count = packed, sum(packed.lengths)
        for room, values in ((self.prepared.context, prepared.context), (self.prepared.pos_embed, prepared.pos_embed)):
            room[:, : self.count] = values if packed is prepared.layout else packed.pack(values)
        ends = [0, *accumulate(packed.lengths), self.key.size]
        layout.cu_seqlens.copy_(torch.tensor(ends, dtype=torch.int32))

    def set_step(self, tokens: Tensor, timestep: Tensor) -> None:
        self.tokens[:, : self.count] = self.packed.pack(tokens)
        self.timestep.copy_(timestep[:1])

    def read_output(self, output: Tensor, tokens: Tensor) -> Tensor:
        return self.packed.unpack(output[:, : self.count], tokens)
