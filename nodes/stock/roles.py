"""What the attention calls of a stock transformer's forward see, in order, and which of them belong to a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor

Role = Literal["joint", "pictures", "image", "text"]
"""What an attention call sees: text and image tokens in one sequence, reference pictures and the image, image tokens
alone, or something else.
"""


@dataclass(frozen=True)
class Prefix:
    """What a model call has beside the picture: `text` tokens, and how many tokens each of its `references`.

    `slots`: before which text token each reference stands, for models that put them into their text. `late`: how many
    pieces of the text have their positions made after the picture's.
    """

    text: int
    references: tuple[int, ...] = ()
    slots: tuple[int, ...] = ()
    late: int = 0

    @property
    def spans(self) -> int:
        """Spans of text and references, as they alternate."""
        slots = [*self.slots, *[self.text] * len(self.references)][: len(self.references)]
        return len(self.references) + sum(end > start for start, end in pairwise([0, *slots, self.text]))


@dataclass(frozen=True)
class MoreText:
    """A condition beside the prompt whose tokens are text, too: `given` is its name in a prompt, `told` the one that
    the transformer gets it by.

    `tokens`: how many it makes of a tensor; `least`: what a step on the hole is given in its place, None for nothing.
    """

    given: str
    told: str
    tokens: Callable[[Any], int]
    least: Callable[[Tensor], Tensor] | None = None


def tokens_of(latent: Tensor, patch: int) -> int:
    """How many tokens of `patch` latents a side a picture [..., h, w] is, padded to whole ones."""
    return -(-latent.shape[-2] // patch) * -(-latent.shape[-1] // patch)


def llama_tokens(layers: Tensor) -> int:
    """HiDream's blocks see their own layer [B, layers, T, D] of Llama's answer, and its last layer with it."""
    return 2 * layers.shape[2]


Sizes = list[tuple[str, list[int]]]
"""Blocks that patches may replace (`patches_replace["dit"]`), kind by kind: the kind's name there, and each block's
attention calls.
"""


def double_and_single(transformer: Any, blocks: Sequence[str], prefix: Prefix) -> Sizes:
    """Flux, Chroma: double blocks, then single ones. Qwen-Image: double blocks alone."""
    names = ("double_block", "single_block")
    return [(name, [1] * len(getattr(transformer, each))) for name, each in zip(names, blocks, strict=False)]


def hunyuan_sizes(transformer: Any, blocks: Sequence[str], prefix: Prefix) -> Sizes:
    """As Flux, after the text's refiner, which nothing replaces."""
    refiner = [1] * len(hunyuan_roles(transformer, prefix))
    return [("txt_in", refiner), *double_and_single(transformer, blocks, prefix)]


def causal_sizes(transformer: Any, blocks: Sequence[str], prefix: Prefix) -> Sizes:
    return [("single_block", [prefix.spans + 1] * len(transformer.transformer_blocks))]


def sd3_sizes(transformer: Any, blocks: Sequence[str], prefix: Prefix) -> Sizes:
    return [("double_block", [2 if block.x_block.x_block_self_attn else 1 for block in transformer.joint_blocks])]


def all_joint(transformer: Any, prefix: Prefix) -> list[Role]:
    """Every block's only attention is over text and image (Flux, Chroma, Qwen-Image)."""
    return []


def lumina_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """`NextDiT` refines caption, what a vision encoder saw of references, and pictures apart, before its joint
    layers.
    """
    seen = getattr(transformer, "siglip_refiner", None) if prefix.references else None
    text: list[Role] = ["text"] * (len(transformer.context_refiner) + len(seen or ()))
    pictures: list[Role] = ["pictures"] * len(transformer.noise_refiner)
    return text + pictures


def omnigen_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """As `NextDiT`, but for references, which are refined after the image and by themselves."""
    text: list[Role] = ["text"] * len(transformer.context_refiner)
    image: list[Role] = ["image"] * len(transformer.noise_refiner)
    references: list[Role] = ["text"] * (len(transformer.ref_image_refiner) if prefix.references else 0)
    return text + image + references


def lumina_prefix(transformer: Any, text: int, conds: Mapping[str, Any]) -> Prefix:
    """Texts of references, the prompt, further texts, what a vision encoder saw of references, references (Z-Image):
    each is filled up to a multiple by itself.
    """
    references = conds.get("ref_latents") or ()
    if not references or not hasattr(transformer, "siglip_embedder"):  # 0.3.75 reads no references
        return Prefix(text)
    multiple = transformer.pad_tokens_multiple or 1

    def padded(tokens: int) -> int:
        return -(-tokens // multiple) * multiple

    # What a reference lacks is padding alone, of one multiple; the picture itself has nothing seen of it.
    own = [each.shape[1] for each in conds.get("ref_contexts") or ()]
    texts = [text, *own, *[multiple] * (len(references) - len(own))]
    if transformer.siglip_embedder is not None:
        seen = [each.shape[1] * each.shape[2] for each in conds.get("siglip_feats") or ()][: len(references)]
        texts += [*seen, *[multiple] * (len(references) + 1 - len(seen))]
    sizes = tuple(padded(tokens_of(each, transformer.patch_size)) for each in references)
    return Prefix(sum(map(padded, texts)), sizes, late=max(len(own) - len(references), 0))


def sd3_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """SD3.5-medium's first blocks attend a second time, over the image alone."""
    roles: list[Role] = []
    for block in transformer.joint_blocks:
        roles.append("joint")
        if block.x_block.x_block_self_attn:
            roles.append("image")
    return roles


def krea2_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """The text's layers and tokens are fused apart, before the joint blocks."""
    fusion = transformer.txtfusion
    roles: list[Role] = ["text"]
    return roles * (len(fusion.layerwise_blocks) + len(fusion.refiner_blocks))


def causal_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """Spans of text and references attend to what comes before them, one call each; then the picture to everything
    (Qwen-Image 2.1).
    """
    before: list[Role] = ["text"] * prefix.spans
    return [*before, "joint"] * len(transformer.transformer_blocks)


def hunyuan_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """`TokenRefiner` attends to the text alone, before the joint blocks."""
    roles: list[Role] = ["text"]
    return roles * len(transformer.txt_in.individual_token_refiner.blocks)


def crossed_roles(transformer: Any, prefix: Prefix) -> list[Role]:
    """Self-attention over the image, then cross-attention to the text, block by block (PixArt, Anima)."""
    roles: list[Role] = ["image", "text"]
    return roles * len(transformer.blocks)
