"""Prompts for an object's names, what can be seen of it, and removals; and the tokenizer that reads them. Style is
never named.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn as nn

from lazy_core.model import LazyDiffusion
from lazy_core.text.removal import NOTHING
from lazy_core.text.tokenizer import SPECIAL, Tokenizer, build_tokenizer, words_of

from .scenes import BIG, PLAIN, SMALL, TWO

ENGLISH = ("{}", "a {}", "the {}", "one {}", "a cute {}", "a picture of a {}", "draw a {}", "add a {} here")
CHINESE = ("{}", "一个{}", "一只{}", "一颗{}", "这个{}", "画一个{}", "一个可爱的{}", "加一个{}")
LOOKS: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    SMALL: (("a small {}", "a tiny {}", "small {}"), ("小{}", "一个小{}", "小小的{}")),
    BIG: (("a big {}", "a large {}", "big {}"), ("大{}", "一个大{}", "很大的{}")),
    TWO: (("two {s}", "2 {s}", "a pair of {s}", "two {s} here"), ("两个{}", "两只{}", "2个{}", "一对{}")),
}
IRREGULAR = {
    "leaf": "leaves",
    "cactus": "cacti",
    "fish": "fish",
    "octopus": "octopuses",
    "bus": "buses",
    "broccoli": "broccoli",
}
IRREGULAR |= {
    "snowman": "snowmen",
    "snowman without snow": "snowmen without snow",
    "ear of corn": "ears of corn",
    "soccer": "soccer balls",
}


def captions_of(names: dict, look: int = PLAIN) -> list[str]:
    """All prompts of one object, English and Chinese. A size may be said where it can be seen; two are always called
    two.
    """
    english, chinese = LOOKS.get(look, ((), ()))
    if look != TWO:
        english, chinese = ENGLISH + english, CHINESE + chinese
    texts = [t.format(n, s=plural(n)) for n in names["en"] for t in english]
    return texts + [t.format(n) for n in names["zh"] for t in chinese]


def plural(name: str) -> str:
    if name in IRREGULAR:
        return IRREGULAR[name]
    head, _, last = name.rpartition(" ")
    if last in IRREGULAR or (last.endswith("s") and not last.endswith("ss")):
        last = IRREGULAR.get(last, last)
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "es" if last.endswith(("sh", "ch", "x", "s")) else "s"
    return f"{head} {last}".strip()


def all_captions(names: list[dict]) -> list[str]:
    """Every caption that training may draw."""
    return [c for entry in names for look in (PLAIN, *LOOKS) for c in captions_of(entry, look)] + [
        *NOTHING["en"],
        *NOTHING["zh"],
    ]


def tokenizer_of(captions: list[str], length: int, known: Tokenizer | None = None) -> Tokenizer:
    """Every word of the captions. `known` keeps its words and their ids; new ones follow, so its embedding's rows stay
    valid.
    """
    words = words_of(captions)
    if known is None:
        return build_tokenizer(words, length)
    old = list(known.words[len(SPECIAL) :])
    return build_tokenizer(old + [word for word in words if word not in known.vocabulary], length)


@torch.no_grad()
def grow_embedding(model: LazyDiffusion, words: int) -> LazyDiffusion:
    """The model with room for `words` tokens: known rows are copied, new ones drawn as `initialise` does. In place."""
    assert model.text is not None and model.config.text is not None
    table = cast(nn.Embedding, model.text.token)
    if table.num_embeddings >= words:
        return model
    larger = nn.Embedding(words, table.embedding_dim, dtype=table.weight.dtype, device=table.weight.device)
    larger.weight.normal_(0, 0.5, generator=torch.Generator(table.weight.device).manual_seed(words))
    larger.weight[: table.num_embeddings] = table.weight
    model.text.token = larger
    model.text.config = replace(model.text.config, vocabulary=words)
    model.config = replace(model.config, text=model.text.config)
    return model


class CaptionTable:
    """Tokenised prompts, so that drawing a batch of captions is two lookups on the training device."""

    def __init__(self, names: list[dict], tokenizer: Tokenizer | None, device: torch.device):
        if tokenizer is None:
            raise ValueError("the checkpoint has no words, expected one whose own text encoder reads captions.")
        texts = [captions_of(entry, look) for entry in names for look in range(4)] + [
            [*NOTHING["en"], *NOTHING["zh"]]
        ] * 4
        lists = [[tokenizer.ids(caption) for caption in captions] for captions in texts]
        self.counts = torch.tensor([len(entry) for entry in lists], device=device)
        most = int(self.counts.max())
        self.ids = torch.tensor([entry + [entry[0]] * (most - len(entry)) for entry in lists], device=device)
        self.empty = torch.tensor(tokenizer.ids(""), device=device)

    def draw(
        self, labels: torch.Tensor, generator: torch.Generator, drop: float = 0.1, look: torch.Tensor | int = PLAIN
    ) -> torch.Tensor:
        """Labels and looks [B] -> token ids [B, L]; a share `drop` becomes the empty prompt (classifier-free
        guidance).
        """
        row = labels * 4 + look
        pick = (torch.rand(len(labels), generator=generator, device=labels.device) * self.counts[row]).long()
        dropped = torch.rand(len(labels), generator=generator, device=labels.device) < drop
        return torch.where(dropped[:, None], self.empty, self.ids[row, pick])
