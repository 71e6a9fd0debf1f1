"""Which VAEs compute a hole instead of the whole picture: ours, and, decoding, the host's AutoencoderKL (SD, SDXL, ...) with a record."""

from __future__ import annotations

from functools import partial
from typing import Any

from comfy.ldm.modules.diffusionmodules.model import AttnBlock, Decoder, ResnetBlock, Upsample
from torch import Tensor, nn

from ..lazy_core.geometry import Box
from ..lazy_core.pipeline import DecodeHole
from ..lazy_core.vae.autoencoder_kl.decoder import Records
from ..lazy_core.vae.autoencoder_kl.record import Parts
from ..lazy_core.vae.canvas_cache import Canvases
from ..lazy_core.vae.tiny import TinyVAE
from ..lazy_core.vae.windows import DecodeImage, EncodeImage, decode_windows
from . import host
from .images import encoder
from .memory import forgettable, part_of_memory

KNOWN = (Decoder, ResnetBlock, AttnBlock, Upsample, nn.Conv2d, nn.GroupNorm, nn.SiLU, nn.Dropout, nn.Identity, nn.ModuleList)
RECORDS = Records(limit=part_of_memory(512 << 20, host.total_memory()), free=host.free_memory)
CANVASES = Canvases(limit=part_of_memory(256 << 20, host.total_memory(), 64), free=host.free_memory)
forgettable(RECORDS.cache.clear)
forgettable(CANVASES.cache.clear)


def canvas_encoder(vae: Any) -> EncodeImage:
    """Encodes what changed since the canvases before, where the VAE can: ours."""
    whole = encoder(vae)
    if not isinstance(vae.first_stage_model, TinyVAE):
        return whole
    return partial(CANVASES.encode, host.vae_key(vae), whole)


def hole_decoder(vae: Any, decode: DecodeImage) -> DecodeHole | None:
    """`decode` is the whole picture's; None for a VAE that has to decode in full."""
    if isinstance(vae.first_stage_model, TinyVAE):
        return partial(decode_windows, decode, partial(decoded_part, vae))
    parts = parts_of(getattr(vae.first_stage_model, "decoder", None))
    return parts and partial(RECORDS.decode, host.vae_key(vae), parts, decode)


def decoded_part(vae: Any, latent: Tensor, wanted: Box) -> Tensor:
    """A `lazy_core.vae.windows.DecodePart` with our VAE. A host that ran out of memory decodes in tiles, and everything."""
    pixels = vae.decode(latent, vae_options={"right": wanted}).movedim(-1, 1)
    scale = vae.spacial_compression_decode()
    return pixels if pixels.shape[-2:] == wanted.times(scale).size else wanted.times(scale).cut(pixels)


def parts_of(decoder: Any) -> Parts | None:
    """Of the host's decoder for images; None for any other, and for one that another node has changed (seamless tiling, compiling)."""
    if type(decoder) is not Decoder or not all(as_the_host_made_it(module) for module in decoder.modules()):
        return None

    def every(kind: Any) -> dict[str, Any]:
        return {name: module for name, module in decoder.named_modules() if isinstance(module, kind)}

    return Parts(every(nn.GroupNorm), every(AttnBlock), every(Upsample), decoder.conv_in)


def as_the_host_made_it(module: nn.Module) -> bool:
    changed = (
        {"forward", "_conv_forward"} & module.__dict__.keys()
        or module._compiled_call_impl
        or module._forward_hooks
        or module._forward_pre_hooks
    )
    known = type(module) is nn.Module or isinstance(module, KNOWN)
    return known and not changed and getattr(module, "padding_mode", "zeros") == "zeros"
