"""The parts of the host's AutoencoderKL decoder (SD, SDXL, ...) that a decode with a record replaces."""

from __future__ import annotations

from typing import Any

from comfy.ldm.modules.diffusionmodules.model import AttnBlock, Decoder, ResnetBlock, Upsample
from torch import nn

from ...lazy_core.vae.autoencoder_kl.record import Parts

KNOWN = (
    Decoder,
    ResnetBlock,
    AttnBlock,
    Upsample,
    nn.Conv2d,
    nn.GroupNorm,
    nn.SiLU,
    nn.Dropout,
    nn.Identity,
    nn.ModuleList,
)


def parts_of(decoder: Any) -> Parts | None:
    """Of the host's decoder for images; None for any other, and for one that another node has changed (seamless tiling,
    compiling).
    """
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
