"""Prompts for an object's names, and the tokenizer that reads them."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from lazy_core.text import build_tokenizer, words_of

ENGLISH = (
    "{}",
    "a {}",
    "the {}",
    "one {}",
    "a cute {}",
    "a photo of a {}",
    "a 3d {}",
    "a small {}",
    "a big {}",
    "draw a {}",
    "add a {} here",
)
CHINESE = ("{}", "一个{}", "一只{}", "一颗{}", "这个{}", "画一个{}", "一个可爱的{}", "加一个{}", "大{}", "小{}")


def captions_of(names: dict) -> list[str]:
    """All prompts of one object, English and Chinese."""
    return [t.format(n) for n in names["en"] for t in ENGLISH] + [t.format(n) for n in names["zh"] for t in CHINESE]


def tokenizer_for(names: list[dict], length: int) -> Tokenizer:
    texts = [caption for entry in names for caption in captions_of(entry)]
    return build_tokenizer(words_of(build_tokenizer([], length), texts), length)


class CaptionTable:
    """Tokenised prompts, so that drawing a batch of captions is two lookups on the training device."""

    def __init__(self, names: list[dict], tokenizer: Tokenizer, device: torch.device):
        lists = [[tokenizer.encode(c).ids for c in captions_of(entry)] for entry in names]
        self.counts = torch.tensor([len(entry) for entry in lists], device=device)
        most = int(self.counts.max())
        self.ids = torch.tensor([entry + [entry[0]] * (most - len(entry)) for entry in lists], device=device)
        self.empty = torch.tensor(tokenizer.encode("").ids, device=device)

    def draw(self, labels: torch.Tensor, generator: torch.Generator, drop: float = 0.1) -> torch.Tensor:
        """Labels [B] -> token ids [B, L]; a share `drop` becomes the empty prompt (classifier-free guidance)."""
        pick = (torch.rand(len(labels), generator=generator, device=labels.device) * self.counts[labels]).long()
        ids = self.ids[labels, pick]
        dropped = torch.rand(len(labels), generator=generator, device=labels.device) < drop
        return torch.where(dropped[:, None], self.empty, ids)
