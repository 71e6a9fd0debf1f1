"""What the families of stock transformers differ in, one row each. A new family is a row here, and hooks of its own
where it needs them.

Read in ComfyUI 0.3.75 and 0.33: `comfy/ldm/flux` (LongCat's class, too), `chroma`, `qwen_image`, `mage_flow`, `krea2`,
`lumina`, `hunyuan_video`, `hidream`, `ernie`, `omnigen`, `anima` with `cosmos/predict2.py`, `pixart`, and `mmdit.py`
for SD3. In later files than those: `qwen_image21`.
"""

from __future__ import annotations

import inspect
from typing import Any

from ...lazy_core.kv.policy import EARLY
from .family import Family
from .roles import (
    MoreText,
    causal_roles,
    causal_sizes,
    crossed_roles,
    hunyuan_roles,
    hunyuan_sizes,
    krea2_roles,
    llama_tokens,
    lumina_prefix,
    lumina_roles,
    omnigen_roles,
    sd3_roles,
    sd3_sizes,
)


def text_first(transformer: Any) -> bool:
    """Whether this host's `HunyuanVideo` puts text before the image: up to 0.3.75 it came after, and nothing but the
    code tells.
    """
    return "torch.cat((txt_ids, img_ids)" in inspect.getsource(type(transformer).forward_orig)


def omnigen_width(transformer: Any) -> int:
    """Of keys: newer hosts leave it to attention that several heads share them, others repeat them."""
    attention = transformer.context_refiner[0].attn
    shared = "enable_gqa" in inspect.getsource(type(attention).forward)
    return attention.dim_head * (attention.kv_heads if shared else attention.heads)


FAMILIES: tuple[Family, ...] = (
    Family("Flux.1", ("Flux",), "pe_embedder", "hidden_size", ("double_blocks", "single_blocks")),
    Family("Flux.2", ("Flux2",), "pe_embedder", "hidden_size", ("double_blocks", "single_blocks"), least_text=512),
    Family("Chroma", ("Chroma",), "pe_embedder", "hidden_size", ("double_blocks", "single_blocks")),
    Family("Qwen-Image", ("QwenImage",), "pe_embedder", "inner_dim", ("transformer_blocks",)),
    Family(
        "Qwen-Image 2.1",
        ("QwenImage21",),
        "pe_embedder",
        "inner_dim",
        (),
        causal_roles,
        replaceable=causal_sizes,
        references="before",
        patch=None,
        # Its own cache of text and references spans a run's steps; ours has them, and a sparse step's text is no text.
        options={"qwen_image21_cache": {"device": "off"}},
    ),
    Family("LongCat", ("LongCatImage",), "pe_embedder", "hidden_size", ("double_blocks", "single_blocks")),
    Family("Mage-Flow", ("MageFlow",), "pe_embedder", "inner_dim", ("transformer_blocks",)),
    Family(
        "Krea 2",
        ("Krea2",),
        "pe_embedder",
        "first.out_features",
        ("blocks",),
        krea2_roles,
        patch="patch",
        replaceable=None,
    ),
    Family(
        "HunyuanImage 2.1",
        ("HunyuanImage21",),
        "pe_embedder",
        "hidden_size",
        ("double_blocks", "single_blocks"),
        hunyuan_roles,
        more_text=(MoreText("conditioning_byt5small", "txt_byt5", lambda glyphs: glyphs.shape[1]),),
        host_fits=text_first,
        replaceable=hunyuan_sizes,
    ),
    Family(
        "HiDream-I1",
        ("HiDream",),
        "pe_embedder",
        "inner_dim",
        ("double_stream_blocks", "single_stream_blocks"),
        text_last=True,
        more_text=(
            MoreText(
                "conditioning_llama3", "encoder_hidden_states_llama3", llama_tokens, lambda layers: layers[:, :, :1]
            ),
        ),
        replaceable=None,
        references="refused",
        widened_by="concat_latent_image",
        position_axis=1,
    ),
    Family(
        "Ernie-Image",
        ("ErnieImage",),
        "pos_embed",
        "hidden_size",
        ("layers",),
        text_last=True,
        replaceable=None,
        references="refused",
        position_axis=1,
        hidden_attention="layers.0.self_attention",
    ),
    Family(
        "Anima",
        ("Anima",),
        "pos_embedder",
        "model_channels",
        (),
        crossed_roles,
        text_in_sequence=False,
        policies=EARLY,
        replaceable=None,
        patch="patch_spatial",
    ),
    Family(
        "Lumina2 and Z-Image",
        ("Lumina2",),
        "rope_embedder",
        "dim",
        ("layers",),
        lumina_roles,
        multiple="pad_tokens_multiple",
        replaceable=None,
        references="before",
        prefix=lumina_prefix,
        more_text=(
            MoreText(
                "reference_latents_text_embeds", "ref_contexts", lambda texts: sum(text.shape[1] for text in texts)
            ),
        ),
    ),
    Family(
        "OmniGen2",
        ("Omnigen2",),
        "rope_embedder.rope_embedder",
        omnigen_width,
        ("layers",),
        omnigen_roles,
        counts_text=True,
        replaceable=None,
        references="before",
    ),
    Family(
        "SD3 and SD3.5",
        ("SD3",),
        "cropped_pos_embed",
        "hidden_size",
        (),
        sd3_roles,
        registers="register_length",
        replaceable=sd3_sizes,
    ),
    Family(
        "PixArt",
        ("PixArt",),
        "pixart",
        "hidden_size",
        (),
        crossed_roles,
        text_in_sequence=False,
        policies=EARLY,
        replaceable=None,
        hidden_attention="blocks.0.attn",
    ),
)


def family_of(model: Any) -> Family | None:
    """The family of a MODEL, or None. Exact classes: a subclass may compute something else."""
    base: Any = getattr(model, "model", None)
    found = (
        family for family in FAMILIES if type(base).__name__ in family.models and family.host_fits(base.diffusion_model)
    )
    return next(found, None)


def is_stock(model: Any) -> bool:
    """Whether a MODEL is of a family that `nodes.stock` makes lazy."""
    return family_of(model) is not None


def supported() -> str:
    return ", ".join(family.name for family in FAMILIES)
