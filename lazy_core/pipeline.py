"""The two calls that everything else serves: `encode_context` once, `lazy_decode` as often as you like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .composite import Blend, composite
from .context import Context
from .geometry import Grid
from .lazy_vae import DecodeImage, decode_windows
from .masks import latent_mask, prefill, threshold, token_mask
from .model import LazyTransformer
from .positions import grid_coordinates
from .tokens import HoleTokens, patchify, unpatchify

EncodeImage = Callable[[Tensor], Tensor]
"""VAE encoder: [B, 3, H', W'] in 0..1, whole tokens -> latent [B, C, h, w]."""
Sample = Callable[[Tensor, Tensor, float], Tensor]
"""Sampler over the hole: (noise [B, K, C p p], start [B, K, C p p], denoise 0..1) -> clean tokens [B, K, C p p]."""


def check_inputs(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Image [B, 3, H, W] and mask [M, H, W] brought to one batch size. Raises ValueError that says what to change."""
    if not torch.isfinite(image).all():
        raise ValueError("the image holds NaN or infinite pixels. Check the node that made it; a half-precision VAE is the usual cause.")
    if not torch.isfinite(mask).all():
        raise ValueError("the mask holds NaN or infinite values. Check the node that made it.")
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"mask is {mask.shape[-1]} x {mask.shape[-2]} px, expected the image's {image.shape[-1]} x {image.shape[-2]}. "
            "Resize the mask, or draw it on this image."
        )
    if len(image) == len(mask):
        return image, mask
    if len(mask) == 1:
        return image, mask.expand(len(image), -1, -1)
    if len(image) == 1:
        return image.expand(len(mask), -1, -1, -1), mask
    raise ValueError(f"{len(mask)} masks came with {len(image)} images, expected one mask, one image, or as many of one as of the other.")


@torch.inference_mode()
def encode_context(
    transformer: LazyTransformer,
    encode_image: EncodeImage,
    image: Tensor,
    mask: Tensor,
    model: str,
    device: torch.device | str = "cpu",
    to_model: Callable[[Tensor], Tensor] = lambda latent: latent,
) -> Context:
    """Image [B, 3, H, W] in 0..1 and mask [M, H, W] (1 = hole, 0 = keep) -> Context, on the CPU.

    Runs the VAE encoder and the context encoder once; neither where no mask has a hole. `model` names the checkpoint,
    `to_model` scales the VAE's latents to what the model was trained on; everything in a Context is in the VAE's units.
    Raises ValueError for sizes that do not match, NaN, or an image smaller than a token.
    """
    config = transformer.config
    image, mask = check_inputs(image, mask)
    grid = Grid(image.shape[-2], image.shape[-1], config.latent_scale, config.patch_size)
    hole_pixels = threshold(mask)
    hole = HoleTokens.of(token_mask(hole_pixels, grid))
    if hole.count == 0:
        latent = image.new_zeros(len(image), config.latent_channels, *grid.latent_size)
        return Context(model, grid, image, hole_pixels, latent, hole, image.new_zeros(len(image), 0, config.encoder_width))
    padded = grid.pad(image)
    # Padding repeats the edge, so it repeats the hole's content wherever the hole touches the edge: it is hole there, too.
    latent = encode_image(prefill(padded, grid.pad(hole_pixels[:, None].float())[:, 0] > 0))
    coordinates = grid_coordinates(grid, config, device)
    tokens = transformer.context_encoder(
        to_model(latent).to(device), latent_mask(hole_pixels, grid).to(device), hole.to(device), coordinates
    )
    return Context(model, grid, image, hole_pixels, latent.cpu(), hole, tokens.float().cpu())


@torch.inference_mode()
def lazy_decode(
    context: Context,
    sample: Sample,
    encode_image: EncodeImage,
    decode_image: DecodeImage,
    seed: int,
    denoise: float = 1.0,
    blend: Blend = "feather",
    local: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fill the hole: -> (image [B, 3, H, W] in 0..1, latent [B, C, h, w] of the edited canvas).

    Denoising starts from noise, from the sketch, or, for `denoise` < 1, from what the hole showed before. With an
    empty mask the image comes back as it is. `local` says that `decode_image` is of convolutions only: it then decodes
    the neighbourhood of the hole, and nothing else.
    """
    if context.hole.count == 0:
        return context.image, encode_image(context.grid.pad(context.image))
    if context.sketch is not None:
        start, denoise = context.sketch.tokens, denoise * (1 - context.sketch.strength)
    elif denoise < 1:
        start = context.hole.gather(patchify(encode_image(context.grid.pad(context.image)), context.grid.patch))
    else:
        start = context.hole.gather(patchify(torch.zeros_like(context.latent), context.grid.patch))
    tokens = sample(hole_noise(context, seed), start, denoise) if denoise > 0 else start
    latent = fill_hole(context, tokens)
    grid = context.grid
    if local:
        touched = latent_mask(context.mask, grid)[:, 0] > 0
        decoded = decode_windows(decode_image, latent, grid.pad(context.image), touched)
    else:
        decoded = decode_image(latent)
    return composite(context.image, grid.crop(decoded).to(context.image), context.mask, blend), latent


def fill_hole(context: Context, tokens: Tensor) -> Tensor:
    """Hole tokens [B, K, C p p] scattered into the canvas's latent [B, C, h, w]."""
    grid = context.grid
    everything = context.hole.scatter(tokens.to(context.latent), patchify(context.latent, grid.patch))
    return unpatchify(everything, grid.patch, grid.rows, grid.cols)


def hole_noise(context: Context, seed: int) -> Tensor:
    """Standard normal noise [B, K, C p p], drawn for the whole grid and then gathered: a grown mask leaves old tokens' noise as it was."""
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(context.latent.shape, generator=generator)
    return context.hole.gather(patchify(noise, context.grid.patch))


def hole_coordinates(context: Context, transformer: LazyTransformer) -> Tensor:
    """Coordinates [B, K, 2] of the hole's tokens in the full grid."""
    everything = grid_coordinates(context.grid, transformer.config, context.hole.index.device)
    return context.hole.gather(everything.expand(len(context.hole.index), -1, -1))
