from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.cache import ContentCache, content_key
from ..lazy_core.context import Context
from ..lazy_core.kept import KV_DTYPES
from ..lazy_core.masks import FLOOR
from ..lazy_core.pipeline import encode_canvas, encode_context
from ..lazy_core.reuse import REUSES
from . import host
from .images import alpha_of, not_offered, painted, to_bchw, to_mask
from .stock import edit as stock
from .vae import canvas_encoder

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
                io.Model.Input("model", tooltip="From Load Lazy Model; or Flux, Chroma, Qwen-Image, Z-Image, SD3, PixArt as they are."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="The canvas. Pixels outside the mask come back bit-identical."),
                io.Mask.Input("mask", tooltip="1 = hole (generate), 0 = keep. Several separate holes are fine."),
                io.Combo.Input(
                    "reuse",
                    options=list(REUSES),
                    default="balanced",
                    optional=True,
                    tooltip="For checkpoints not made for lazy edits: how often steps look at the whole canvas again. exact: always.",
                ),
                io.Combo.Input(
                    "kv_dtype",
                    options=list(KV_DTYPES),
                    default="model",
                    optional=True,
                    tooltip="For checkpoints not made for lazy edits: how keys and values are kept. fp8: half the memory, less exact.",
                ),
            ],
            outputs=[
                ContextType.Output(display_name="CONTEXT", tooltip="For Lazy Decode and Sketch Condition; good for any prompt and seed.")
            ],
        )

    @classmethod
    def validate_inputs(cls, reuse: str | None = None, kv_dtype: str | None = None) -> bool | str:
        return not_offered(reuse=(reuse, REUSES), kv_dtype=(kv_dtype, KV_DTYPES))

    @classmethod
    def execute(cls, model: Any, vae: Any, image: Tensor, mask: Tensor, reuse: Any = "balanced", kv_dtype: Any = "model") -> io.NodeOutput:
        start = time.perf_counter()
        picture = to_bchw(image)
        holes, messages = painted(picture, to_mask(mask))
        if host.is_stock(model):
            make, key = cls.stock(model, vae, picture, holes, reuse)
        else:
            make, key = cls.lazy(model, vae, picture, holes)
        if not bool((holes > FLOOR).any()):  # nothing to encode: neither a run of the encoder nor worth a place in the cache
            context, ran = make(), False
        else:
            context, ran = CACHE.get_or_make(content_key(picture.movedim(1, -1), holes, key), make)
        context = context.with_(kv_dtype=kv_dtype, alpha=alpha_of(image))
        figures = {
            "encoder_ran": ran,
            "encoder_runs": CACHE.runs,
            "encode_ms": 1000 * (time.perf_counter() - start),
            "hole_tokens": context.hole.count,
            "all_tokens": context.hole.total,
            "messages": messages,
        }
        return io.NodeOutput(context, ui={"lazydiffusion": [figures]})

    @classmethod
    def lazy(cls, model: Any, vae: Any, picture: Tensor, holes: Tensor) -> tuple[Callable[[], Context], str]:
        """How a model of ours encodes the canvas, and what the result depends on beside it."""
        config = host.transformer_of(model).config
        host.check_vae(vae, config.latent_channels, config.latent_scale)

        def make() -> Context:
            tokens = len(picture) * picture.shape[-1] * picture.shape[-2] // (config.latent_scale * config.patch_size) ** 2
            transformer, device, dtype = host.load_for_encoding(model, tokens)
            to_model = model.model.latent_format.process_in
            return encode_context(transformer, canvas_encoder(vae), picture, holes, host.identity_of(model), device, to_model, dtype)

        return make, host.weights_key(model, vae)

    @classmethod
    def stock(cls, model: Any, vae: Any, picture: Tensor, holes: Tensor, reuse: Any) -> tuple[Callable[[], Context], str]:
        """The same for a stock model, whose steps read the canvas themselves."""
        latents = stock.latents_of(model, vae)
        fill = stock.wants_fill(model)

        def make() -> Context:
            sizes = latents.scale, latents.patch, latents.channels
            return encode_canvas(canvas_encoder(vae), picture, holes, latents.identity, *sizes, reuse, fill)

        return make, f"{latents.identity}/{host.vae_key(vae)}/{reuse}/{fill}"
