"""One attention entry. What runs it is passed in: PyTorch's own here, the host's choice inside ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Attention(Protocol):
    """`(q [B, Lq, D], k [B, Lk, D], v [B, Lk, D], heads, key_mask=None [B, Lk] bool) -> [B, Lq, D]`, softmax scaled by
    1/sqrt(D/heads).
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, key_mask: Tensor | None = None) -> Tensor: ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, key_mask: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`: flash, memory-efficient or plain, as the device offers."""
    q, k, v = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)
    )  # [B, H, L, d]; views, as every step does this
    mask = None if key_mask is None else key_mask[:, None, None, :]
    attend = plain if q.requires_grad and q.device.type == "cpu" else F.scaled_dot_product_attention
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Two products and a softmax, [B, H, L, d].

    For training on a CPU: forward and backward take a quarter of the time of PyTorch 2.11's flash kernel at holes of 40
    tokens.
    """
    scores = q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.float().softmax(-1).to(v.dtype) @ v


def sequence_by_sequence(
    attention: Attention, q: Tensor, lengths: Sequence[int], k: Sequence[Tensor], v: Sequence[Tensor], heads: int
) -> Tensor:
    """Attention inside each of several sequences that lie one after the other in q [1, T, D]; k and v [1, L, D] are
    given apart.

    One call each, so that any attention will do and none sees a mask or padding.
    """
    parts = zip(q.split(list(lengths), 1), k, v, strict=True)
    return torch.cat([attention(*each, heads) if each[0].shape[1] else each[0] for each in parts], 1)


@lru_cache(maxsize=16)
def ragged_runs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `ragged` runs there: PyTorch's own kernel for sequences of different length (from 2.10 on; Ampere or
    newer, 16 bits).
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16) or torch.version.hip:
        return False
    return varlen() is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def varlen() -> Callable[..., Any] | None:
    """Return PyTorch's kernel for sequences of different length, or None where this PyTorch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


def ragged(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, most_q: int, most_k: int, heads: int
) -> Tensor:
    """Attention inside each of several sequences: q [1, T, D] begin at `starts_q` [S + 1], k and v [1, U, D] at
    `starts_k`; -> [1, T, D].

    Lengths are data on the device; no mask, no padding between them. On a CPU (tests alone) one sequence after the
    other.
    """
    if q.device.type == "cpu":
        lengths, theirs = (starts.diff().tolist() for starts in (starts_q, starts_k))
        return sequence_by_sequence(sdpa, q, lengths, k.split(theirs, 1), v.split(theirs, 1), heads)
    attend = varlen()
    assert attend is not None
    q, k, v = (x[0].unflatten(-1, (heads, -1)) for x in (q, k, v))
    return attend(q, k, v, starts_q, starts_k, most_q, most_k).flatten(1)[None]
