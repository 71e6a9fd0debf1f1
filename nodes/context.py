from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.cache import ContentCache, content_key
from ..lazy_core.checkpoint import FIRST_STYLES, style_number
from ..lazy_core.context import Context
from ..lazy_core.kv.policy import REUSES
from ..lazy_core.kv.store import KV_DTYPES
from ..lazy_core.masks import FLOOR
from ..lazy_core.pipeline import encode_canvas, encode_context, tokens_read
from . import messages
from .checks import check_choice, check_socket, explains_memory
from .host.identity import identity_of, vae_key, weights_key
from .host.load import load_for_encoding
from .host.memory import free_memory, total_memory, unload_other_models
from .host.model import transformer_of
from .host.vae import canvas_encoder, check_vae
from .images import alpha_of, painted, to_bchw, to_mask
from .memory import forgettable, leaner, part_of_memory
from .schema import Choice, schema
from .stock import edit as stock
from .stock.families import is_stock

ContextType = io.Custom("CONTEXT")
STYLES = ("auto", *FIRST_STYLES)
# The graph's own cache follows ancestry, not content: a repainted mask or --cache-none would encode again.
CACHE: ContentCache[Context] = ContentCache(limit=part_of_memory(512 << 20, total_memory()), free=free_memory)
forgettable(CACHE.clear)


class LazyEncodeContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["inpaint", "mask", "local edit", "paint", "encode for inpainting", "局部重绘", "修补", "局部编辑"],
            node_id="LazyEncodeContext",
            display_name="Encode Context",
            category="lazydiffusion",
            description="Inpainting, first part: reads the canvas and its painted mask once and keeps what the hole needs to know. "
            "Use one CONTEXT for many local edits.",
            inputs=[
                io.Model.Input("model", tooltip="From Load Lazy Model; or Flux, Chroma, Qwen-Image, Z-Image, SD3, PixArt as they are."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="The canvas. Pixels outside the mask come back bit-identical."),
                io.Mask.Input(
                    "mask",
                    tooltip="1 = hole (generate), 0 = keep. Each separate hole is an edit of its own: the prompt is drawn in every one.",
                ),
                Choice(
                    "reuse",
                    options=list(REUSES),
                    default="balanced",
                    optional=True,
                    tooltip="For checkpoints not made for lazy edits: how often steps look at the whole canvas again. exact: always.",
                ),
                Choice(
                    "kv_dtype",
                    options=list(KV_DTYPES),
                    default="model",
                    optional=True,
                    tooltip="For checkpoints not made for lazy edits: how keys and values are kept. fp8: half the memory, less exact.",
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="auto",
                    optional=True,
                    tooltip="The drawing style of what is generated. auto: that of the canvas; 3d where nothing is drawn.",
                ),
            ],
            outputs=[
                ContextType.Output(display_name="CONTEXT", tooltip="For Lazy Decode and Sketch Condition; good for any prompt and seed.")
            ],
        )

    @classmethod
    @explains_memory
    def execute(
        cls, model: Any, vae: Any, image: Tensor, mask: Tensor, reuse: Any = "balanced", kv_dtype: Any = "model", style: str = "auto"
    ) -> io.NodeOutput:
        start = time.perf_counter()
        reuse, kv_dtype, style = reuse or "balanced", kv_dtype or "model", style or "auto"
        check_socket("MODEL", model=model)
        check_socket("VAE", vae=vae)
        check_socket("IMAGE", image=image)
        check_socket("MASK", mask=mask)
        check_choice(REUSES, reuse=reuse)
        check_choice(KV_DTYPES, kv_dtype=kv_dtype)
        check_choice(STYLES, style=style)
        picture = to_bchw(image)
        holes, said = painted(picture, to_mask(mask))
        if is_stock(model):
            make, key = cls.stock(model, vae, picture, holes, reuse)
        else:
            encode, key = cls.lazy(model, vae, picture, holes, style)
            make = partial(leaner, "Encode Context", encode, encode, unload_other_models)
        if not bool((holes > FLOOR).any()):  # nothing to encode: neither a run of the encoder nor worth a place in the cache
            context, ran = make(), False
        else:
            context, ran = CACHE.get_or_make(content_key(picture.movedim(1, -1), holes, key), make)
        context = context.with_(kv_dtype=kv_dtype, alpha=alpha_of(image))
        figures = {
            "encoder_ran": ran,
            "encoder_runs": CACHE.runs,
            "encode_ms": 1000 * (time.perf_counter() - start),
            "hole_tokens": context.hole_tokens,
            "all_tokens": context.hole.total,
            "messages": said if is_stock(model) else [*said, *messages.of_hole(context, transformer_of(model).config.trained_pixels)],
        }
        return io.NodeOutput(context, ui={"lazydiffusion": [figures]})

    @classmethod
    def lazy(cls, model: Any, vae: Any, picture: Tensor, holes: Tensor, style: str) -> tuple[Callable[[], Context], str]:
        """How a model of ours encodes the canvas, and what the result depends on beside it."""
        config = transformer_of(model).config
        check_vae(vae, config.latent_channels, config.latent_scale)
        number = style_number(model.model.lazy_styles, style)

        def make() -> Context:
            transformer, device, dtype = load_for_encoding(model, tokens_read(config, holes, len(picture)))
            to_model = model.model.latent_format.process_in
            return encode_context(transformer, canvas_encoder(vae), picture, holes, identity_of(model), device, to_model, dtype, number)

        return make, f"{weights_key(model, vae)}/{number}"

    @classmethod
    def stock(cls, model: Any, vae: Any, picture: Tensor, holes: Tensor, reuse: Any) -> tuple[Callable[[], Context], str]:
        """The same for a stock model, whose steps read the canvas themselves."""
        latents = stock.latents_of(model, vae)
        fill = stock.wants_fill(model)

        def make() -> Context:
            sizes = latents.scale, latents.patch, latents.channels
            return encode_canvas(canvas_encoder(vae), picture, holes, latents.identity, *sizes, reuse, fill)

        return make, f"{latents.identity}/{vae_key(vae)}/{reuse}/{fill}"
