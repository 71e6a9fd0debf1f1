"""VAE: a checkpoint's own, and which VAEs compute a hole instead of the whole picture: ours, and, decoding, the host's
AutoencoderKL.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ...lazy_core.checkpoint import Checkpoint
from ...lazy_core.checks.keys import check_keys
from ...lazy_core.geometry import Box
from ...lazy_core.pipeline import DecodeHole
from ...lazy_core.vae.autoencoder_kl.decoder import Records
from ...lazy_core.vae.canvas_cache import CanvasCache
from ...lazy_core.vae.tiny import TinyVAE
from ...lazy_core.vae.windows import DecodeImage, EncodeImage, decode_windows
from ..images import encoder
from ..memory import forgettable, part_of_memory
from .identity import vae_key
from .kl_decoder import parts_of
from .memory import free_memory, total_memory

RECORDS = Records(limit=part_of_memory(512 << 20, total_memory()), free=free_memory)
CANVASES = CanvasCache(limit=part_of_memory(256 << 20, total_memory(), 64), free=free_memory)
forgettable(RECORDS.cache.clear)
forgettable(CANVASES.cache.clear)


def make_vae(checkpoint: Checkpoint) -> comfy.sd.VAE | None:
    """VAE for the stock VAEEncode and VAEDecode, or None for a checkpoint without one (use the VAE its latents belong
    to).
    """
    config = checkpoint.config.vae
    if config is None:
        return None
    weights = checkpoint.part("vae.")
    module = TinyVAE(config, comfy.ops.manual_cast)
    check_keys({key: tuple(v.shape) for key, v in module.state_dict().items()}, weights, "the checkpoint's VAE")
    module.load_state_dict(weights)
    # The host chooses a VAE class by keys it knows; start from its simplest and put ours in.
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    vae.downscale_ratio = vae.upscale_ratio = checkpoint.config.latent_scale
    vae.latent_channels, vae.output_channels = config.latent_channels, 3
    bytes_per_pixel = config.channels * 4  # the widest layer: `channels` at half the resolution, a few of them alive
    vae.memory_used_encode = lambda shape, dtype: shape[2] * shape[3] * bytes_per_pixel * mm.dtype_size(dtype)
    vae.memory_used_decode = lambda shape, dtype: (
        shape[2] * shape[3] * vae.upscale_ratio**2 * bytes_per_pixel * mm.dtype_size(dtype)
    )
    vae.first_stage_model = module.eval().to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=mm.vae_offload_device()
    )
    vae.size = comfy.model_management.module_size(vae.first_stage_model)
    vae.lazy_identity = checkpoint.identity
    return vae


def check_vae(vae: Any, channels: int, scale: int) -> None:
    """Raises ValueError for a VAE whose latents the model, or the CONTEXT, does not know."""
    if vae is None:
        raise ValueError(
            f"no VAE came, expected one that makes {channels} channels at 1/{scale}. Connect the VAE that the model was"
            " trained with."
        )
    got = getattr(vae, "latent_channels", None), vae.spacial_compression_encode()
    if got != (channels, scale):
        raise ValueError(
            f"the VAE makes {got[0]} channels at 1/{got[1]} size, expected {channels} at 1/{scale}. "
            "Connect the VAE of the same Load Lazy Model node."
        )


def canvas_encoder(vae: Any) -> EncodeImage:
    """Encodes what changed since the canvases before, where the VAE can: ours."""
    whole = encoder(vae)
    if not isinstance(vae.first_stage_model, TinyVAE):
        return whole
    return partial(CANVASES.encode, vae_key(vae), whole)


def hole_decoder(vae: Any, decode: DecodeImage) -> DecodeHole | None:
    """`decode` is the whole picture's; None for a VAE that has to decode in full."""
    if isinstance(vae.first_stage_model, TinyVAE):
        return partial(decode_windows, decode, partial(decoded_part, vae))
    parts = parts_of(getattr(vae.first_stage_model, "decoder", None))
    return parts and partial(RECORDS.decode, vae_key(vae), parts, decode)


def decoded_part(vae: Any, latent: Tensor, wanted: Box) -> Tensor:
    """A `lazy_core.vae.windows.DecodePart` with our VAE. A host that ran out of memory decodes in tiles, and
    everything.
    """
    pixels = vae.decode(latent, vae_options={"wanted": wanted}).movedim(-1, 1)
    scale = vae.spacial_compression_decode()
    return pixels if pixels.shape[-2:] == wanted.times(scale).size else wanted.times(scale).cut(pixels)
