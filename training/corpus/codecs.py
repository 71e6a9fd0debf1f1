"""Images to latents and captions to embeddings before a training at scale: by a checkpoint's own parts, or by public
ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from lazy_core.checkpoint import load_model
from lazy_core.config import PRESETS
from lazy_core.vae.tiny import TinyVAE


class ImageCodec(Protocol):
    @property
    def channels(self) -> int: ...

    @property
    def scale(self) -> int: ...

    def encode(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 -> latent [B, C, h, w], scaled as the transformer wants it."""
        ...


@dataclass(frozen=True)
class OwnVAE:
    """The tiny VAE: from a checkpoint of ours, or from what `training.autoencoder` wrote."""

    vae: TinyVAE
    channels: int
    scale: int = 8

    @classmethod
    def load(cls, path: Path, device: torch.device) -> OwnVAE:
        weights = load_file(path)
        if "mean" in weights:  # the autoencoder's file holds nothing else
            config = next(
                p.vae for p in PRESETS.values() if p.vae and p.vae.latent_channels == len(weights["mean"].flatten())
            )
            vae = TinyVAE(config)
            vae.load_state_dict(weights)
        else:
            vae = load_model(path)[0].vae
        if vae is None:
            raise ValueError(f"{path} has no VAE of its own. Give the VAE's folder (diffusers' layout) instead.")
        return cls(vae.to(device).eval(), len(vae.mean.flatten()))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image * 2 - 1).float()


@dataclass(frozen=True)
class KLVAE:
    """A diffusers AutoencoderKL (PixArt-alpha's is stabilityai/sd-vae-ft-ema): the mean of its posterior times its
    scaling factor.
    """

    vae: Any
    channels: int
    scale: int

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> KLVAE:
        from diffusers import AutoencoderKL

        vae: Any = AutoencoderKL.from_pretrained(str(folder))
        vae, config = vae.to(device).eval(), vae.config
        return cls(vae, config.latent_channels, 2 ** (len(config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        return self.vae.encode(image * 2 - 1).latent_dist.mean.float() * self.vae.config.scaling_factor


def image_codec(path: Path, device: torch.device) -> ImageCodec:
    return KLVAE.load(path, device) if path.is_dir() else OwnVAE.load(path, device)


@dataclass(frozen=True)
class T5:
    """A T5 encoder from a folder in transformers' layout (PixArt-alpha's is T5-XXL 1.1, 120 tokens)."""

    tokenizer: Any
    encoder: Any
    length: int

    @classmethod
    def load(cls, folder: Path, length: int, device: torch.device) -> T5:
        from transformers import AutoTokenizer, T5EncoderModel

        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        encoder = T5EncoderModel.from_pretrained(str(folder), torch_dtype=dtype).eval()
        return cls(AutoTokenizer.from_pretrained(str(folder)), encoder.to(device), length)  # type: ignore[arg-type]

    @torch.no_grad()
    def encode(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """-> embeddings [B, L, T] in half precision, zero past a caption's end, and the captions' lengths [B] in
        tokens.
        """
        given = self.tokenizer(
            captions, max_length=self.length, padding="max_length", truncation=True, return_tensors="pt"
        )
        given = given.to(self.encoder.device)
        states = self.encoder(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state
        return (states * given.attention_mask[..., None]).half().cpu(), given.attention_mask.sum(1).cpu()
