from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.cache import ContentCache, content_key
from ..lazy_core.checkpoint import FIRST_STYLES
from ..lazy_core.context import Context
from ..lazy_core.kv.policy import REUSES
from ..lazy_core.kv.store import KV_DTYPES
from ..lazy_core.masks import FLOOR
from .checks import check_choice, check_socket, explains_memory
from .engines import engine_of
from .host.memory import free_memory, total_memory
from .images import alpha_of, painted, to_bchw, to_mask
from .memory import forgettable, part_of_memory
from .schema import Choice, schema

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
            description=(
                "Inpainting, first part: reads the canvas and its painted mask once and keeps what the hole needs to"
                " know. Use one CONTEXT for many local edits."
            ),
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="From Load Lazy Model; or Flux, Chroma, Qwen-Image, Z-Image, SD3, PixArt as they are.",
                ),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Image.Input("image", tooltip="The canvas. Pixels outside the mask come back bit-identical."),
                io.Mask.Input(
                    "mask",
                    tooltip=(
                        "1 = hole (generate), 0 = keep. Each separate hole is an edit of its own: the prompt is drawn"
                        " in every one."
                    ),
                ),
                Choice(
                    "reuse",
                    options=list(REUSES),
                    default="balanced",
                    optional=True,
                    tooltip=(
                        "For checkpoints not made for lazy edits: how often steps look at the whole canvas again."
                        " exact: always."
                    ),
                ),
                Choice(
                    "kv_dtype",
                    options=list(KV_DTYPES),
                    default="model",
                    optional=True,
                    tooltip=(
                        "For checkpoints not made for lazy edits: how keys and values are kept. fp8: half the memory,"
                        " less exact."
                    ),
                ),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default="auto",
                    optional=True,
                    tooltip=(
                        "The drawing style of what is generated. auto: that of the canvas; 3d where nothing is drawn."
                    ),
                ),
            ],
            outputs=[
                ContextType.Output(
                    display_name="CONTEXT",
                    tooltip="For Lazy Decode and Sketch Condition; good for any prompt and seed.",
                )
            ],
        )

    @classmethod
    @explains_memory
    def execute(
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        mask: Tensor,
        reuse: Any = "balanced",
        kv_dtype: Any = "model",
        style: str = "auto",
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
        mask, said = painted(picture, to_mask(mask))
        engine = engine_of(model)
        encoding = engine.encoding(vae, picture, mask, style)
        # Nothing to encode: neither a run of the encoder nor worth a place in the cache
        if not bool((mask > FLOOR).any()):
            context, ran = encoding.make(), False
        else:
            context, ran = CACHE.get_or_make(content_key(picture.movedim(1, -1), mask, encoding.key), encoding.make)
        terms = context.stock and replace(context.stock, reuse=reuse, kv_dtype=kv_dtype)
        context = context.with_(stock=terms, alpha=alpha_of(image), origin=encoding.origin)
        figures = {
            "encoder_ran": ran,
            "encoder_runs": CACHE.runs,
            "encode_ms": 1000 * (time.perf_counter() - start),
            "hole_tokens": context.hole_tokens,
            "all_tokens": context.hole.total,
            "messages": [*said, *engine.messages(context)],
        }
        return io.NodeOutput(context, ui={"lazydiffusion": [figures]})
