"""The small text encoder of the shipped model. Its tokenizer is a `tokenizers` JSON that travels with the weights."""

from __future__ import annotations

import torch.nn as nn
from tokenizers import Tokenizer
from torch import Tensor

from .config import TextConfig
from .layers import Block, Build

PAD, UNKNOWN, START = "[PAD]", "[UNK]", "[START]"


class TextEncoder(nn.Module):
    """Token ids [B, L] -> caption [B, L, T]. Padding is attended like any token: every prompt has the same length per 16 words."""

    def __init__(self, config: TextConfig, build: Build):
        super().__init__()
        self.config = config
        self.token = build.embedding(config.vocabulary, config.width)
        self.position = build.table(config.length, config.width)
        self.blocks = nn.ModuleList(Block(build, config.width, config.heads) for _ in range(config.depth))
        self.norm = build.norm(config.width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token(ids)  # [B, L, T]
        x = x + self.position.to(x)[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def build_tokenizer(words: list[str], length: int) -> Tokenizer:
    """Lower-cased words, Chinese by the character; what is not in `words` becomes one unknown token, never an error."""
    from tokenizers import models, normalizers, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([PAD, UNKNOWN, START, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A", special_tokens=[(START, vocabulary[START])])
    tokenizer.enable_padding(length=length, pad_id=0, pad_token=PAD)
    tokenizer.enable_truncation(length)
    return tokenizer


def words_of(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """All distinct words that `tokenizer` would see in `texts`, sorted: the vocabulary to build from."""
    found = set()
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text)
        found.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    return sorted(found)
