"""All that a checkpoint holds as one module, and the one place that initialises weights."""

from __future__ import annotations

import torch
import torch.nn as nn

from .config import LazyConfig
from .networks.decoder import LazyDecoder
from .networks.layers import Build
from .networks.text_encoder import TextEncoder
from .networks.transformer import LazyTransformer
from .vae.tiny import TinyVAE


class LazyDiffusion(nn.Module):
    """All that a checkpoint holds: `transformer`, and the text encoder and VAE where the config names them."""

    text: TextEncoder | None
    vae: TinyVAE | None

    def __init__(self, config: LazyConfig, build: Build | None = None):
        super().__init__()
        build = build or Build()
        self.config = config
        self.transformer = LazyTransformer(config, build)
        self.text = TextEncoder(config.text, build) if config.text else None
        self.vae = TinyVAE(config.vae, build.ops, build.dtype, build.device) if config.vae else None


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """Fresh weights for training from scratch.

    Xavier for matrices as in DiT; the modulation, cross-attention's and the last layer's output start at zero, so that
    every decoder block begins near the identity and the first loss is that of predicting the mean (PixArt-alpha, DiT
    section 3.2).
    """
    for name, parameter in model.named_parameters():
        if name.startswith("vae."):
            continue
        if parameter.dim() == 1 or name.endswith(ZERO_AT_START):
            parameter.zero_()
        elif name.endswith("scale_shift_table"):
            parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
        elif "text.token" in name or "text.position" in name:
            parameter.normal_(0, 0.5 if "token" in name else 0.1, generator=generator)
        else:
            nn.init.xavier_uniform_(parameter, generator=generator)
    for module in model.modules():
        if isinstance(module, LazyDecoder):
            # [I | V]: noise tokens pass as they are, the context is added through a small V that starts to learn at
            # once.
            module.context_embedder.get_parameter("weight")[:, : module.config.width] = torch.eye(module.config.width)


ZERO_AT_START = (
    "naming.table",
    "edge_embedder.weight",
    "fill_embedder.weight",
    "t_block.1.weight",
    "cross_attn.proj.weight",
    "final_layer.linear.weight",
)
