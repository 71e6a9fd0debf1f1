"""How the tokens of several images lie in a batch, and with it which of them attend to which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from ..attention import Attention, ragged, sequence_by_sequence


class TokenLayout(ABC):
    """How holes of different size are one batch x: padded [B, K, D], packed [1, T, D], or the same with lengths on the
    device.

    Layers that work token by token need not know; both attentions are the layout's.
    """

    @abstractmethod
    def self_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Attend inside each image: q, k and v as x lies -> the same shape."""

    @abstractmethod
    def cross_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Attend from each image's tokens q, as x lies, to its own text's k and v [B, L, D] -> the shape of q."""

    def pack(self, tokens: Tensor) -> Tensor:
        """[B, K, D] -> x."""
        return tokens

    def unpack(self, x: Tensor, like: Tensor) -> Tensor:
        """x -> [B, K, D], the shape of `like`; zeros, or anything, on padding."""
        return x


@dataclass(frozen=True)
class Padded(TokenLayout):
    """An image in each row, x [B, K, D].

    `token_mask` [B, K] and `caption_mask` [B, L], both bool, mark the tokens that are no padding; None: all of them.
    """

    token_mask: Tensor | None = None
    caption_mask: Tensor | None = None

    def self_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attention(q, k, v, heads, self.token_mask)

    def cross_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return attention(q, k, v, heads, self.caption_mask)


@dataclass(frozen=True)
class Packed(TokenLayout):
    """All valid tokens of a padded batch [B, K, D] in one row, x [1, T, D]: layers then compute no padding.

    `lengths` are the valid tokens of each image, `index` [T] int64 where they lie in the flattened batch.
    """

    lengths: tuple[int, ...]
    index: Tensor

    @classmethod
    def of(cls, valid: Tensor) -> Packed:
        """Pack what is True in `valid` [B, K] bool. Waits for the device."""
        return cls(tuple(valid.sum(1).tolist()), valid.flatten().nonzero()[:, 0])

    def pack(self, tokens: Tensor) -> Tensor:
        """[B, K, D] -> [1, T, D]."""
        return tokens.flatten(0, 1)[self.index][None]

    def unpack(self, x: Tensor, like: Tensor) -> Tensor:
        """[1, T, D] -> [B, K, D], the shape of `like`; zeros on padding."""
        result = x.new_zeros(like.shape[0] * like.shape[1], x.shape[-1])
        result[self.index] = x[0]
        return result.unflatten(0, like.shape[:2])

    def self_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return sequence_by_sequence(
            attention, q, self.lengths, k.split(self.lengths, 1), v.split(self.lengths, 1), heads
        )

    def cross_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return sequence_by_sequence(attention, q, self.lengths, k.split(1), v.split(1), heads)


@dataclass(frozen=True)
class Ragged(TokenLayout):
    """Sequences one after the other, x [1, T, D], whose lengths lie on the device, so that a captured step takes any.

    `cu_seqlens` [S + 1] int32: where each begins, and the last one's end; `cu_seqlens_text` [S + 1] the same of their
    texts. `max_seqlen` and `max_seqlen_text`: the longest that may come. PyTorch's kernel for it runs, whatever
    attention is given.
    """

    cu_seqlens: Tensor
    cu_seqlens_text: Tensor
    max_seqlen: int
    max_seqlen_text: int

    def self_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        return ragged(q, k, v, self.cu_seqlens, self.cu_seqlens, self.max_seqlen, self.max_seqlen, heads)

    def cross_attention(self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        k, v = (part.flatten(0, 1)[None] for part in (k, v))
        return ragged(q, k, v, self.cu_seqlens, self.cu_seqlens_text, self.max_seqlen, self.max_seqlen_text, heads)
