"""Reading what `training.precompute` wrote: any step's part of the batch, for any number of processes.

Which samples a step takes, and their noise, follow from the seed, the step and the sample alone. One process or eight,
started once or resumed: the numbers are the same.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from lazy_core.config import LazyConfig
from lazy_core.text.tokenizer import Tokenizer
from lazy_core.tokens import HoleTokens

from ..corpus.manifest import captions_in, read_manifest
from .examples import Examples, draws_for, noise_for, noise_levels
from .pool import Encoded

FORMAT = 1  # of what `training.precompute` writes
WINDOW = 16  # batches that are sorted by the size of their holes together


@dataclass(frozen=True)
class Shards:
    """All samples of a folder: for sample i its file and row, and its hole's size in tokens [n]."""

    folder: Path
    latent: dict[str, int]
    text: str
    files: list[str]
    file: Tensor
    row: Tensor
    holes: Tensor

    @classmethod
    def load(cls, folder: Path) -> Shards:
        """Raises ValueError for an empty folder, a damaged manifest, or parts that do not belong together."""
        manifests = [read_manifest(path) for path in sorted(folder.glob("manifest-*.json"))]
        if not manifests:
            raise ValueError(f"{folder} has no manifest-*.json: make one with `python -m training.precompute`.")
        kinds = {json.dumps([m["format"], m["latent"], m["text"], m["vae"], m["parts"]]) for m in manifests}
        if len(kinds) > 1 or manifests[0]["format"] != FORMAT:
            raise ValueError(
                f"{folder} holds parts of different kinds ({', '.join(sorted(kinds))}), expected one of format"
                f" {FORMAT}."
            )
        if len(manifests) != manifests[0]["parts"]:
            raise ValueError(
                f"{folder} holds {len(manifests)} of {manifests[0]['parts']} parts. Run training.precompute for the"
                " others."
            )
        if not any(m["shards"] for m in manifests):
            raise ValueError(f"{folder} holds no sample: all were skipped. Its manifest says why.")
        shards = [shard for m in manifests for shard in m["shards"]]
        counts = [shard["samples"] for shard in shards]
        holes = torch.tensor([hole for m in manifests for hole in m["holes"]])
        file = torch.repeat_interleave(torch.arange(len(shards)), torch.tensor(counts))
        row = torch.cat([torch.arange(count) for count in counts])
        return cls(
            folder, manifests[0]["latent"], manifests[0]["text"], [shard["file"] for shard in shards], file, row, holes
        )

    def __len__(self) -> int:
        return len(self.holes)

    def captions(self) -> list[str]:
        return [caption for name in self.files for caption in captions_in(self.folder / name)]

    def check(self, config: LazyConfig) -> None:
        """Raises ValueError for latents or captions that the model does not take."""
        expected = {"channels": config.latent_channels, "scale": config.latent_scale, "patch": config.patch_size}
        got = {key: self.latent[key] for key in expected}
        if got != expected:
            raise ValueError(
                f"{self.folder} holds latents of {got}, expected {expected}. Precompute them with the model's own VAE."
            )
        if (self.text == "t5") != (config.text is None):
            wanted = (
                "T5 embeddings (precompute with --t5)" if config.text is None else "words (precompute without --t5)"
            )
            raise ValueError(
                f"{self.folder} holds captions as {self.text}, expected {wanted} for preset {config.preset}."
            )
        if self.text == "t5" and (width := load_empty(self.folder)[0].shape[-1]) != config.caption_width:
            raise ValueError(
                f"{self.folder} holds captions {width} wide, expected {config.caption_width}. Precompute with the"
                " model's T5."
            )

    def steps_per_epoch(self, batch: int) -> int:
        if len(self) < batch:
            raise ValueError(
                f"{self.folder} holds {len(self)} samples, expected at least a batch of {batch}. Make --batch smaller."
            )
        return len(self) // batch

    def plan(self, epoch: int, batch: int, seed: int) -> Tensor:
        """Samples [steps, batch] of an epoch: all in random order, those of similar holes together, what is left over
        waits.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        steps = self.steps_per_epoch(batch)
        order = torch.randperm(len(self), generator=generator)[: steps * batch]
        rows = []
        for window in order.split(WINDOW * batch):
            rows.append(window[self.holes[window].argsort(stable=True)].view(-1, batch))
        plan = torch.cat(rows)
        return plan[torch.randperm(steps, generator=generator)]


@dataclass(frozen=True)
class Share:
    """A batch of all processes together, `draws` noise levels a sample, the run's seed, and which of how many processes
    this is.
    """

    batch: int
    draws: int
    seed: int = 0
    rank: int = 0
    size: int = 1


class Steps(Dataset):
    """Item s: step s's `Examples` for one process, with noise on the hole's tokens or on `everything`. Works in
    DataLoader's workers.
    """

    def __init__(
        self, shards: Shards, config: LazyConfig, tokenizer: Tokenizer | None, share: Share, everything: bool = False
    ):
        if share.batch % share.size:
            raise ValueError(f"--batch is {share.batch}, expected a multiple of the {share.size} processes.")
        self.shards, self.config, self.tokenizer, self.share, self.everything = (
            shards,
            config,
            tokenizer,
            share,
            everything,
        )
        self.per_epoch = shards.steps_per_epoch(share.batch)
        self.known: tuple[int, Tensor] | None = None
        self.empty = load_empty(shards.folder) if shards.text == "t5" else None
        self.open: dict[int, Any] = {}

    def indices(self, step: int) -> Tensor:
        """Samples [batch] of all processes together."""
        epoch = step // self.per_epoch
        if self.known is None or self.known[0] != epoch:
            self.known = (epoch, self.shards.plan(epoch, self.share.batch, self.share.seed))
        return self.known[1][step % self.per_epoch]

    def __getitem__(self, step: int) -> Examples:
        share, together = self.share, self.indices(step)
        own = together[share.rank :: share.size]  # sorted by hole: every process gets holes of all the batch's sizes
        encoded, rows = self.read(own)
        draws = draws_for(int(self.shards.holes[together].max()), encoded.hole.shape[1], share.draws)
        generators = [torch.Generator().manual_seed(hash((share.seed, step, int(i))) % (1 << 63)) for i in own]
        dropped = torch.tensor(
            [float(torch.rand((), generator=g)) < 0.1 for g in generators]
        )  # for classifier-free guidance
        sigma = torch.cat([noise_levels(1, draws, g, self.config.prediction) for g in generators])
        generated = torch.ones_like(encoded.hole) if self.everything else encoded.hole
        noise = noise_for(generated, draws, encoded.target.shape[1] * self.config.patch_size**2, generators)
        text, words = self.captions(rows, dropped)
        kept = HoleTokens.of(generated)
        return Examples(encoded, text, words, sigma, noise, kept, kept.token_mask, draws)

    def read(self, samples: Tensor) -> tuple[Encoded, list[dict[str, Any]]]:
        rows = [self.row(int(self.shards.file[i]), int(self.shards.row[i])) for i in samples]
        target, canvas, mask = (torch.stack([row[name] for row in rows]) for name in ("target", "canvas", "mask"))
        mask, patch = mask.half(), self.config.patch_size
        hole = F.max_pool2d(mask.float(), patch).flatten(1) > 0
        zeros = torch.zeros(len(rows), dtype=torch.int64)
        return Encoded(target, canvas, mask, hole, zeros, zeros, zeros), rows

    def row(self, file: int, row: int) -> dict[str, Any]:
        if file not in self.open:
            if len(self.open) > 64:  # open files, not data: rows are read through a memory map
                self.open.clear()
            path = self.shards.folder / self.shards.files[file]
            samples = int((self.shards.file == file).sum())
            self.open[file] = (safe_open(str(path), "pt"), captions_in(path, samples))
        opened, captions = self.open[file]
        return {name: opened.get_slice(name)[row] for name in opened.keys()} | {"caption": captions[row]}  # noqa: SIM118

    def captions(self, rows: list[dict[str, Any]], dropped: Tensor) -> tuple[Tensor, Tensor | None]:
        """-> ids [B, L] and None, or embeddings [B, L, T] and which of their tokens are no padding [B, L]."""
        if self.tokenizer is not None:
            texts = ["" if drop else row["caption"] for row, drop in zip(rows, dropped.tolist(), strict=True)]
            return torch.tensor([self.tokenizer.ids(text) for text in texts]), None
        assert self.empty is not None
        text = torch.stack(
            [self.empty[0] if drop else row["text"] for row, drop in zip(rows, dropped.tolist(), strict=True)]
        )
        lengths = torch.stack(
            [self.empty[1] if drop else row["words"] for row, drop in zip(rows, dropped.tolist(), strict=True)]
        )
        words = torch.arange(text.shape[1])[None] < lengths[:, None]
        most = int(lengths.max())
        return text[:, :most].float(), words[:, :most]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "open": {}}  # opened files do not travel to workers


def load_empty(folder: Path) -> tuple[Tensor, Tensor]:
    with safe_open(str(folder / "empty.safetensors"), "pt") as file:
        return file.get_tensor("text")[0], file.get_tensor("words")[0]
