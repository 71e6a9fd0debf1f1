"""Encoder and decoder as one module."""

from __future__ import annotations

import torch
import torch.nn as nn

from ..config import LazyConfig
from .context_encoder import ContextEncoder
from .decoder import LazyDecoder
from .layers import Build
from .matte import ObjectMatte


class LazyTransformer(nn.Module):
    """The paper's two halves: `context_encoder` once per edit, `decoder` once per step.

    `matte`, where a checkpoint has it, tells a hole's object from its background.
    """

    matte: ObjectMatte | None

    def __init__(self, config: LazyConfig, build: Build | None = None):
        super().__init__()
        build = build or Build()
        self.config = config
        self.context_encoder = ContextEncoder(config, build)
        self.decoder = LazyDecoder(config, build)
        self.matte = ObjectMatte(config.matte, build) if config.matte else None


@torch.no_grad()
def store_for_few_rows(model: nn.Module) -> None:
    """Keep the weights of linear layers column by column in memory: on a CPU a product with few tokens is then up to a
    fifth faster.

    Values, shapes and whatever reads them stay as they are; products with many tokens take the same time.
    """
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear) and weight is not None and weight.device.type == "cpu":
            weight.data = weight.data.t().contiguous().t()
