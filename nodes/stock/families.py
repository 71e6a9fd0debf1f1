"""What the families of stock transformers differ in, one row each. A new family is a row here, and hooks of its own
where it needs them.

Read in ComfyUI 0.3.75 and 0.33: `comfy/ldm/flux` (LongCat's class, too), `chroma`, `qwen_image`, `mage_flow`, `krea2`,
`lumina`, `hunyuan_video`, `hidream`, `ernie`, `anima` with `cosmos/predict2.py`, `pixart`, and `mmdit.py` for SD3. In
later files than those: `qwen_image21`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal

from ...lazy_core.kv.policy import EARLY, POLICIES, Policies
from .roles import (
    MoreText,
    Prefix,
    Role,
    Sizes,
    all_joint,
    causal_roles,
    causal_sizes,
    crossed_roles,
    double_and_single,
    hunyuan_roles,
    hunyuan_sizes,
    krea2_roles,
    llama_tokens,
    lumina_prefix,
    lumina_roles,
    sd3_roles,
    sd3_sizes,
)

References = Literal["after", "before", "refused"]
"""Where the tokens of reference pictures are in a sequence, seen from the picture's own."""


def always(transformer: Any) -> bool:
    return True


def text_first(transformer: Any) -> bool:
    """Whether this host's `HunyuanVideo` puts text before the image: up to 0.3.75 it came after, and nothing but the
    code tells.
    """
    return "torch.cat((txt_ids, img_ids)" in inspect.getsource(type(transformer).forward_orig)


@dataclass(frozen=True)
class Family:
    """`models`: class names in `comfy.model_base`. `positions`: where the transformer makes its positional embeddings.

    `roles` lists what the attention calls of one forward see, in order; calls beyond the list are joint.
    `text_in_sequence`: text is part of the sequence, so that its keys and values can be kept, too; `text_last`: it
    comes after the image there. `multiple`: attribute that holds what text and image are each padded to a multiple of.
    `registers`: attribute that counts tokens put before the text. `least_text`: a shorter prompt is filled up to so
    many tokens. `width`: attribute (with dots) that holds the width of keys and of values. `blocks`: lists whose
    members make one joint call each, beyond those in `roles`. `policies`: when all tokens are computed, by preset.
    `patch`: attribute that holds a token's side in latents, a number or a tuple that ends with it; None: a latent is a
    token. `more_text`: conditions whose tokens follow the prompt's in the sequence. `host_fits`: whether the host's own
    code is of the kind that the rest of the row describes. `replaceable`: the blocks in whose place the host lets
    patches run; None where it lets none. `references`: where reference pictures come, or that they are not supported;
    `widened_by`: a condition whose picture the host puts beside the canvas, into one wider picture. `options`: what a
    lazy run tells the transformer (`transformer_options`). `prefix`: what a call has beside the picture, by prompt and
    conditions, where it is not just the prompt, `more_text` and references. `position_axis`: along which its positional
    embeddings have tokens. `hidden_attention`: a layer of attention (with dots) whose code gives the host's attention
    no options, and so none of ours.
    """

    name: str
    models: tuple[str, ...]
    positions: Literal["pe_embedder", "rope_embedder", "cropped_pos_embed", "pos_embedder", "pos_embed", "pixart"]
    width: str
    blocks: tuple[str, ...] = ()
    roles: Callable[[Any, Prefix], list[Role]] = all_joint
    text_in_sequence: bool = True
    text_last: bool = False
    multiple: str | None = None
    registers: str | None = None
    least_text: int = 0
    policies: Policies = field(default_factory=POLICIES.copy)
    replaceable: Callable[[Any, Sequence[str], Prefix], Sizes] | None = double_and_single
    references: References = "after"
    widened_by: str | None = None
    patch: str | None = "patch_size"
    more_text: tuple[MoreText, ...] = ()
    host_fits: Callable[[Any], bool] = always
    options: Mapping[str, Any] = field(default_factory=dict)
    prefix: Callable[[Any, int, Mapping[str, Any]], Prefix] | None = None
    position_axis: int = 2
    hidden_attention: str | None = None

    def patch_of(self, transformer: Any) -> int:
        """The side in latents of the squares that are tokens."""
        if self.patch is None:
            return 1
        value = getattr(transformer, self.patch)
        return int(value[-1] if isinstance(value, (list, tuple)) else value)

    def padded(self, transformer: Any, count: int) -> int:
        multiple = getattr(transformer, self.multiple) if self.multiple else None
        return -(-count // multiple) * multiple if multiple else count

    def prefix_of(self, transformer: Any, text: int, conds: Mapping[str, Any]) -> Prefix:
        """What a model call of `text` tokens has beside the picture, by its conditions."""
        if self.prefix is not None:
            return self.prefix(transformer, text, conds)
        more = sum(each.tokens(conds[each.told]) for each in self.more_text if each.told in conds)
        area = self.patch_of(transformer) ** 2
        references = (latent.shape[-2] * latent.shape[-1] // area for latent in conds.get("ref_latents") or ())
        return Prefix(text + more, tuple(references), tuple(conds.get("image_slots") or ()))

    def tokens_before(self, transformer: Any, prefix: Prefix) -> int:
        """Tokens before the image's in a joint sequence."""
        text = 0 if self.text_last else self.text_tokens(transformer, prefix)
        return text + self.references_before(prefix)

    def references_before(self, prefix: Prefix) -> int:
        """Tokens of reference pictures before the image's."""
        return sum(prefix.references) if self.references == "before" else 0

    def text_tokens(self, transformer: Any, prefix: Prefix) -> int:
        """Tokens of text in a joint sequence, with those that it is filled up with and those that stand before it."""
        registers = getattr(transformer, self.registers) if self.registers else 0
        return self.padded(transformer, prefix.text) + registers

    def calls(self, transformer: Any, prefix: Prefix) -> int:
        """Attention calls of one forward."""
        return len(self.roles(transformer, prefix)) + sum(len(getattr(transformer, name)) for name in self.blocks)

    def first_calls(self, transformer: Any, prefix: Prefix) -> dict[tuple[str, int], tuple[int, int]]:
        """By the name that patches use for a block: the number of its first attention call, and of the first one after
        it.
        """
        if self.replaceable is None:
            return {}
        found: dict[tuple[str, int], tuple[int, int]] = {}
        call = 0
        for name, sizes in self.replaceable(transformer, self.blocks, prefix):
            for index, size in enumerate(sizes):
                found[name, index] = (call, call + size)
                call += size
        return found

    def kept_numbers(self, transformer: Any, image: int, prefix: Prefix) -> int:
        """How many numbers the keys and values of one forward are: `image` tokens of picture and what is beside it."""
        prefix = replace(prefix, text=max(prefix.text, self.least_text))
        roles = self.roles(transformer, prefix)
        joint = roles.count("joint") + sum(len(getattr(transformer, name)) for name in self.blocks)
        image = self.padded(transformer, image) + sum(prefix.references)
        tokens = joint * (self.text_tokens(transformer, prefix) + image) + roles.count("image") * image
        return 2 * tokens * attrgetter(self.width)(transformer)


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
