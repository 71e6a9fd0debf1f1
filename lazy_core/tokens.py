"""Latents <-> tokens, and the subset of tokens that lie in the hole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .geometry import Box


def patchify(latent: Tensor, patch: int) -> Tensor:
    """[B, C, h, w] -> [B, N, C * patch * patch], row by row; h and w are multiples of `patch`."""
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=patch, q=patch)


def unpatchify(tokens: Tensor, patch: int, rows: int, cols: int) -> Tensor:
    """[B, N, C * patch * patch] -> [B, C, rows * patch, cols * patch]; the exact inverse of `patchify`."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=cols, p=patch, q=patch)


def in_patches(latent: Tensor, patch: int) -> Tensor:
    """[B, C, h, w] -> its view [B, C, rows, patch, cols, patch]."""
    return latent.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))


def to_strip(tokens: Tensor, patch: int) -> Tensor:
    """[B, K, C * p * p] -> a latent [B, C, K * p, p] that any image sampler accepts: one token under the other."""
    return rearrange(tokens, "b k (c p q) -> b c (k p) q", p=patch, q=patch)


def from_strip(strip: Tensor, patch: int) -> Tensor:
    """The exact inverse of `to_strip`."""
    return rearrange(strip, "b c (k p) q -> b k (c p q)", p=patch)


@dataclass(frozen=True)
class HoleTokens:
    """Which of N tokens lie in the hole, for a batch whose holes differ in size: a row for each of R sets of tokens.

    `index` [R, K] int64, ascending, padded with 0 up to the largest row K; `valid` [R, K] bool, False on padding.
    `owner` [R] int64 is the image of the batch that a row belongs to; None: row and image are the same, R = B.
    Padding is inert: gathered as zeros, never attended, never scattered.
    """

    index: Tensor
    valid: Tensor
    total: int
    owner: Tensor | None = None

    @classmethod
    def of(cls, mask: Tensor, count: int | None = None) -> HoleTokens:
        """From a bool mask [B, N], True = hole token. With `count`, a K that no hole exceeds, nothing is read from the
        device.
        """
        counts = mask.sum(1)
        largest = count if count is not None else int(counts.max()) if len(counts) else 0
        valid = torch.arange(largest, device=mask.device)[None] < counts[:, None]
        if count is not None:
            return cls((~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :count] * valid, valid, mask.shape[1])
        index = torch.zeros(valid.shape, dtype=torch.int64, device=mask.device)
        index[valid] = mask.nonzero()[:, 1]
        return cls(index, valid, mask.shape[1])

    @property
    def count(self) -> int:
        """K, the largest row of the batch in tokens."""
        return self.index.shape[1]

    @property
    def token_mask(self) -> Tensor | None:
        """The tokens [R, K] bool that attention may see, or None where no hole is padded.

        An image without a hole keeps one: a softmax over nothing would be NaN, and its result is dropped anyway.
        """
        if bool(self.valid.all()):
            return None
        mask = self.valid.clone()
        mask[:, 0] = True
        return mask

    @property
    def owners(self) -> Tensor:
        """The image [R] of the batch that each row belongs to."""
        return self.owner if self.owner is not None else torch.arange(len(self.index), device=self.index.device)

    def gather(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [R, K, D], zeros on padding."""
        tokens = tokens if self.owner is None else tokens[self.owner]
        taken = tokens.gather(1, self.index[..., None].expand(-1, -1, tokens.shape[-1]))
        return taken * self.valid[..., None].to(taken.dtype)

    def cut(self, latent: Tensor, patch: int) -> Tensor:
        """[B, C, h, w] -> [R, K, C * patch * patch]: `gather` of its tokens, without making those that are not in the
        hole.
        """
        cells, image = in_patches(latent, patch), self.owners.to(latent.device)[:, None]
        taken = cells[image, :, self.index // cells.shape[4], :, self.index % cells.shape[4]]  # [R, K, C, patch, patch]
        return taken.flatten(2) * self.valid[..., None].to(taken.dtype)

    def scatter(self, tokens: Tensor, latent: Tensor, patch: int) -> Tensor:
        """[R, K, C * patch * patch] written over [B, C, h, w] at the hole; returns a new tensor, all else
        bit-identical.
        """
        result = latent.clone(memory_format=torch.contiguous_format)
        cells, (row, slot) = in_patches(result, patch), self.valid.nonzero(as_tuple=True)
        index, image = self.index[row, slot], row if self.owner is None else self.owner[row]
        new = tokens[row, slot].to(result).unflatten(1, (-1, patch, patch))
        cells[image, :, index // cells.shape[4], :, index % cells.shape[4]] = new
        return result

    def within(self, cols: int, windows: list[Box], width: int | None = None) -> HoleTokens:
        """The same tokens of a grid of `cols` columns, counted in each row's own of `windows`, all of one size, that
        contain them.

        `width`: columns to count them in instead of the windows' own, for windows that differ in size.
        """
        corner = self.index.new_tensor([[box.top, box.left] for box in windows])
        rows, columns = self.index // cols - corner[:, :1], self.index % cols - corner[:, 1:]
        return HoleTokens((rows * (width or windows[0].width) + columns) * self.valid, self.valid, windows[0].area)

    def cells(self, cols: int, patch: int) -> Tensor:
        """Which latents of a grid of `cols` columns are in these tokens: float [R, 1, h, w]."""
        marks = torch.zeros(len(self.index), self.total, device=self.index.device)
        row, slot = self.valid.nonzero(as_tuple=True)
        marks[row, self.index[row, slot]] = 1
        return marks.view(len(marks), 1, -1, cols).repeat_interleave(patch, 2).repeat_interleave(patch, 3)

    def to(self, device: torch.device | str) -> HoleTokens:
        """Return the same on another device."""
        owner = None if self.owner is None else self.owner.to(device)
        return HoleTokens(self.index.to(device), self.valid.to(device), self.total, owner)
