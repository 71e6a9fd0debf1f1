from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.cache import ContentCache, content_key
from ..lazy_core.context import Context
from ..lazy_core.masks import threshold
from ..lazy_core.pipeline import encode_context
from . import host
from .images import encoder, to_bchw, to_mask

ContextType = io.Custom("CONTEXT")
# The graph's own cache follows ancestry, not content: a repainted mask or --cache-none would encode again.
CACHE: ContentCache[Context] = ContentCache(limit=512 << 20, free=host.free_memory)


class LazyEncodeContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazyEncodeContext",
            display_name="Encode Context",
            category="lazydiffusion",
            description="Reads the canvas and its mask once and keeps what the hole needs to know. Use one CONTEXT for many edits.",
            inputs=[
                io.Model.Input("model", tooltip="From Load Lazy Model."),
                io.Vae.Input("vae", tooltip="From Load Lazy Model."),
                io.Image.Input("image", tooltip="The canvas. Pixels outside the mask come back bit-identical."),
                io.Mask.Input("mask", tooltip="1 = hole (generate), 0 = keep. Several separate holes are fine."),
            ],
            outputs=[
                ContextType.Output(display_name="CONTEXT", tooltip="For Lazy Decode and Sketch Condition; good for any prompt and seed.")
            ],
        )

    @classmethod
    def execute(cls, model: Any, vae: Any, image: Tensor, mask: Tensor) -> io.NodeOutput:
        start = time.perf_counter()
        config = host.transformer_of(model).config
        host.check_vae(vae, config.latent_channels, config.latent_scale)
        picture, holes = to_bchw(image), to_mask(mask)

        def make() -> Context:
            tokens = len(picture) * picture.shape[-1] * picture.shape[-2] // (config.latent_scale * config.patch_size) ** 2
            transformer, device = host.load_for_encoding(model, tokens)
            to_model = model.model.latent_format.process_in
            return encode_context(transformer, encoder(vae), picture, holes, host.identity_of(model), device, to_model)

        if not bool(threshold(holes).any()):  # nothing to encode: neither a run of the encoder nor worth a place in the cache
            context, ran = make(), False
        else:
            context, ran = CACHE.get_or_make(content_key(picture, holes, host.weights_key(model, vae)), make)
        figures = {
            "encoder_ran": ran,
            "encoder_runs": CACHE.runs,
            "encode_ms": 1000 * (time.perf_counter() - start),
            "hole_tokens": context.hole.count,
            "all_tokens": context.hole.total,
        }
        return io.NodeOutput(context, ui={"lazydiffusion": [figures]})
