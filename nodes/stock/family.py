"""What a family of stock transformers is described by: where its tokens are, what its attention calls see, and what it
keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Literal

from ...lazy_core.kv.policy import POLICIES, Policies
from .roles import MoreText, Prefix, Role, Sizes, all_joint, double_and_single, tokens_of

References = Literal["after", "before", "refused"]
"""Where the tokens of reference pictures are in a sequence, seen from the picture's own."""


def always(transformer: Any) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """`models`: class names in `comfy.model_base`. `positions`: where the transformer makes its positional embeddings.

    `roles` lists what the attention calls of one forward see, in order; calls beyond the list are joint.
    `text_in_sequence`: text is part of the sequence, so that its keys and values can be kept, too; `text_last`: it
    comes after the image there. `multiple`: attribute that holds what text and image are each padded to a multiple of.
    `registers`: attribute that counts tokens put before the text. `least_text`: a shorter prompt is filled up to so
    many tokens. `width`: of keys and of values, or the attribute (with dots) that holds it. `blocks`: lists whose
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
    positions: Literal[
        "pe_embedder",
        "rope_embedder",
        "rope_embedder.rope_embedder",
        "cropped_pos_embed",
        "pos_embedder",
        "pos_embed",
        "pixart",
    ]
    width: str | Callable[[Any], int]
    blocks: tuple[str, ...] = ()
    roles: Callable[[Any, Prefix], list[Role]] = all_joint
    text_in_sequence: bool = True
    text_last: bool = False
    multiple: str | None = None
    registers: str | None = None
    least_text: int = 0
    counts_text: bool = False
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
        patch = self.patch_of(transformer)
        references = (tokens_of(latent, patch) for latent in conds.get("ref_latents") or ())
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
        image, references = self.padded(transformer, image), sum(prefix.references)
        tokens = joint * (self.text_tokens(transformer, prefix) + references + image)
        tokens += roles.count("pictures") * (references + image) + roles.count("image") * image
        width = self.width(transformer) if callable(self.width) else attrgetter(self.width)(transformer)
        return 2 * tokens * width
