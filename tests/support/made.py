"""Weights, edits and training scenes made of random numbers, for tests of steps on a CPU and on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lazy_core.context import Context
from lazy_core.editor import LazyEditor
from lazy_core.model import initialise
from lazy_core.networks.decoder import Conditioning, LazyDecoder, PreparedInputs
from lazy_core.pipeline import lazy_decode
from lazy_core.tokens import HoleTokens
from training.loop.examples import Examples, noise_levels
from training.loop.pool import Encoded

Edit = tuple[Tensor, Tensor, PreparedInputs]
"""Tokens, timestep and what is prepared: what a step takes."""


@torch.no_grad()
def weights_for(model: nn.Module, apart: float = 0.05) -> None:
    """Fresh weights that left the zero start, or nothing would depend on anything."""
    initialise(model, torch.Generator().manual_seed(0))
    for index, parameter in enumerate(model.parameters()):
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * apart)


def edit_of(decoder: LazyDecoder, lengths: list[int], seed: int = 0, packed: bool = False, words: int = 5) -> Edit:
    """An edit of holes of so many tokens, on the decoder's device, in its dtype."""
    config, draw, like = decoder.config, torch.Generator().manual_seed(seed), next(decoder.parameters())
    count, most = len(lengths), max(lengths)
    valid = (torch.arange(most)[None] < torch.tensor(lengths)[:, None]).to(like.device)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(like)

    context, coordinates = (
        random(count, most, config.encoder_width),
        torch.randn(count, most, 2, generator=draw).to(like.device),
    )
    caption, token_mask = random(count, words, config.caption_width), None if bool(valid.all()) else valid
    prepared = decoder.prepare(
        Conditioning(context, coordinates, caption, token_mask, (256, 256)), shared_timestep=packed
    )
    tokens = random(count, most, config.latent_channels * config.patch_size**2)
    return tokens, torch.full((count,), 700.0 - seed, device=like.device), prepared


def examples(count: int | None, seed: int = 0) -> Examples:
    """Four scenes of 8 x 8 tokens, two noise levels each; `count` pads the holes. Noise of a token is the same whatever
    the padding.
    """
    draw = torch.Generator().manual_seed(seed)
    hole = torch.rand(4, 64, generator=draw) < torch.tensor([0.05, 0.1, 0.2, 0.3])[:, None]
    hole[:, 0] = True
    latents = torch.randn(2, 4, 4, 16, 16, generator=draw)
    mask = hole.view(4, 1, 8, 8).float().repeat_interleave(2, 2).repeat_interleave(2, 3)
    label = torch.randint(3, (4,), generator=draw)
    lines = torch.zeros(4, 1, 128, 128, dtype=torch.uint8)
    scenes = Encoded(latents[0], latents[1], mask, hole, label, label, label, lines)
    kept = HoleTokens.of(hole, count)
    noise = torch.randn(8, 64, 16, generator=draw)[:, : kept.count]
    text = torch.randint(3, 20, (4, 16), generator=draw)
    return Examples(
        scenes, text, None, noise_levels(4, 2, draw), noise, kept, kept.token_mask if count is None else kept.valid, 2
    )


def decode_with(editor: LazyEditor, context: Context, denoise: float) -> tuple[list, Tensor]:
    """What the sampler was asked for (start, denoise), and the result when it hands back its start."""
    asked = []

    def sample(noise: Tensor, start: Tensor, share: float) -> Tensor:
        asked.append((start, share))
        return start

    image, _ = lazy_decode(context, sample, editor.to_latent, editor.to_image, 0, denoise, "none")
    return asked, image
