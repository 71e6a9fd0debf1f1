"""CLIP: a checkpoint's tokenizer and text encoder behind the calls that the host makes."""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import torch
from torch import Tensor

from ...lazy_core.checkpoint import Checkpoint
from ...lazy_core.checks.keys import check_keys
from ...lazy_core.networks.layers import Build
from ...lazy_core.networks.text_encoder import TextEncoder
from ...lazy_core.text.removal import asks_for_nothing
from ...lazy_core.text.tokenizer import SPECIAL, Tokenizer
from ..memory import retry_when_out_of_memory
from .conditioning import marks_of
from .memory import give_memory_back


class Rows(list):
    """The chunks of a prompt as the host has them, and what is to be known of it: what was `cut`, which words are
    `unknown`, whether it asks for `nothing`.

    A list like any other for nodes that look into tokens; those that make a new one of it lose no more than these.
    """

    cut: str = ""
    unknown: tuple[str, ...] = ()
    nothing: bool = False


class HostTokenizer:
    """Made anew for each checkpoint by `make_clip`, which gives it the file's words."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[tuple]]]:
        """`(word:1.2)` weights as everywhere in the host; long prompts in chunks, as for CLIP
        (`lazy_core.text.tokenizer.CHUNKS`).
        """
        parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        prompt = self.tokenizer.prompt((comfy.sd1_clip.unescape_important(part), weight) for part, weight in parts)
        rows = Rows([(i, w, 0) for i, w in chunk] if return_word_ids else chunk for chunk in prompt.chunks)
        rows.cut, rows.unknown, rows.nothing = prompt.cut, prompt.unknown, asks_for_nothing(text)
        return {"lazy": rows}

    def untokenize(self, tokens: list[tuple]) -> list[tuple]:
        return [(token, self.tokenizer.words[token[0]]) for token in tokens]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(self.tokenizer.words[i] for i in ids if not skip_special_tokens or i >= len(SPECIAL))

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class HostText(torch.nn.Module):
    """The text encoder behind the calls that `comfy.sd.CLIP` makes."""

    disable_offload = True  # newer hosts: a plain model patcher

    def __init__(self, config: Any, empty: list[int], dtype: torch.dtype, device: Any):
        super().__init__()
        self.text = TextEncoder(config, Build(comfy.ops.manual_cast, dtype, device))
        self.dtypes, self.empty, self.options = {dtype}, empty, {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        if options.get("layer") is not None:
            raise ValueError(
                "the CLIP of a LazyDiffusion model has one layer to read, the last. Remove CLIP Set Last Layer."
            )
        self.options.update(options)

    def reset_clip_options(self) -> None:
        self.options.clear()

    def encode_token_weights(self, tokens: dict[str, list[list[tuple]]]) -> tuple[Tensor, None, dict[str, Any]]:
        """-> caption [1, L, T], all chunks in one row, and what the host puts into the conditioning: what was cut,
        which words are unknown.

        A weight moves a token's embedding away from that of the empty prompt, as the host does for CLIP.
        """
        rows = tokens["lazy"]
        device = self.options.get("execution_device") or mm.text_encoder_device()
        ids = torch.tensor([[pair[0] for pair in row] for row in rows], device=device)
        weights = torch.tensor([[float(pair[1]) for pair in row] for row in rows], device=device)[..., None]

        def one_by_one() -> Tensor:
            return torch.cat([self.text(row[None]) for row in ids])

        caption = retry_when_out_of_memory(
            "CLIP Text Encode", lambda: self.text(ids), one_by_one, give_memory_back
        ).float()
        if bool((weights != 1).any()):
            empty = self.text(torch.tensor([self.empty], device=device)).float()
            caption = empty + (caption - empty) * weights
        told = {"lazy_cut": getattr(rows, "cut", ""), "lazy_unknown": list(getattr(rows, "unknown", ()))}
        caption = caption.flatten(0, 1)[None].to(mm.intermediate_device())
        if getattr(rows, "nothing", False):
            told["lazy_nothing"] = marks_of(caption)
        return caption, None, told

    def load_sd(self, weights: dict[str, Tensor]) -> Any:
        return self.text.load_state_dict(weights, strict=False)


def make_clip(checkpoint: Checkpoint) -> comfy.sd.CLIP | None:
    """CLIP for the stock CLIPTextEncode, or None for a checkpoint without a text encoder."""
    config = checkpoint.config.text
    if config is None or checkpoint.tokenizer is None:
        return None
    tokenizer = HostTokenizer(checkpoint.tokenizer)
    empty = checkpoint.tokenizer.ids("")
    weights = checkpoint.part("text.")
    target = comfy.supported_models_base.ClipTarget(
        lambda embedding_directory=None, tokenizer_data=None: tokenizer,
        lambda dtype=None, device="cpu", model_options=None: HostText(config, empty, dtype or torch.float32, device),
    )
    size = sum(value.numel() for value in weights.values())
    clip = comfy.sd.CLIP(target, parameters=size, model_options={"dtype": torch.float32})
    check_keys(
        {key: tuple(v.shape) for key, v in clip.cond_stage_model.text.state_dict().items()},
        weights,
        "the checkpoint's text encoder",
    )
    clip.load_sd(weights)
    return clip
