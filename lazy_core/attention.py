"""One attention entry. What runs it is passed in: PyTorch's own here, the host's choice inside ComfyUI."""

from __future__ import annotations

from typing import Protocol

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


class Attention(Protocol):
    """`(q [B, Lq, D], k [B, Lk, D], v [B, Lk, D], heads, keys=None [B, Lk] bool) -> [B, Lq, D]`, softmax scaled by 1/sqrt(D/heads)."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, keys: Tensor | None = None) -> Tensor: ...


def sdpa(q: Tensor, k: Tensor, v: Tensor, heads: int, keys: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention`: flash, memory-efficient or plain, as the device offers."""
    q, k, v = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (q, k, v))
    mask = None if keys is None else keys[:, None, None, :]
    return rearrange(F.scaled_dot_product_attention(q, k, v, attn_mask=mask), "b h l d -> b l (h d)")
