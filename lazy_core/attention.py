"""One attention entry. What runs it is passed in: PyTorch's own here, the host's choice inside ComfyUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attention(Protocol):
    """`(q [B, Lq, D], k [B, Lk, D], v [B, Lk, D], heads, keys=None [B, Lk] bool) -> [B, Lq, D]`, softmax scaled by 1/sqrt(D/heads)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, keys: Tensor | None = None) -> Tensor: ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, keys: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`: flash, memory-efficient or plain, as the device offers."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, L, d]; views, as every step does this
    mask = None if keys is None else keys[:, None, None, :]
    attend = plain if q.requires_grad and q.device.type == "cpu" else F.scaled_dot_product_attention
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Two products and a softmax, [B, H, L, d].

    For training on a CPU: forward and backward take a quarter of the time of PyTorch 2.11's flash kernel at holes of 40 tokens.
    """
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).to(v.dtype) @ v


def sequence_by_sequence(
    attention: Attention, q: Tensor, lengths: Sequence[int], k: Sequence[Tensor], v: Sequence[Tensor], heads: int
) -> Tensor:
    """Attention inside each of several sequences that lie one after the other in q [1, T, D]; k and v [1, L, D] are given apart.

    One call each, so that any attention will do and none sees a mask or padding.
    """
    parts = zip(q.split(list(lengths), 1), k, v, strict=True)
    return torch.cat([attention(*each, heads) if each[0].shape[1] else each[0] for each in parts], 1)
