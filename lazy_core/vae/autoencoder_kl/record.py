"""What a full decode leaves behind, so that later ones of nearly the same latent compute their holes alone
(`hole_pass`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...geometry import Box
from ..windows import DecodeImage
from .atlas import UnexpectedShapeError
from .moments import block_moments, group_means
from .probes import BLOCK


@dataclass(frozen=True)
class Parts:
    """The layers of a decoder that a part of the canvas cannot run by itself: GroupNorms, attentions, upsampling;
    `first` runs first.

    An attention has a `norm`, projections `k` and `v`, and `optimized_attention(q, k, v)` on maps [B, C, h, w].
    """

    norms: dict[str, nn.GroupNorm]
    attentions: dict[str, Any]
    upsamples: dict[str, nn.Module]
    first: nn.Module


@dataclass(frozen=True)
class Record:
    """What a full pass left behind: `moments` of each norm's input in blocks [2, G, h / 2, w / 2], each attention's
    input [1, C, h, w].

    Of probes that were decoded by themselves with the whole picture's statistics the moments [2, G, probes] and inputs
    [C, probes, px]: empty until a later pass asks, NaN where a hole has been since. All is as it was in the full pass:
    what later holes left is brought back to its statistics.
    """

    latent: Tensor
    moments: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    probe_moments: dict[str, Tensor] = field(default_factory=dict)
    probe_inputs: dict[str, Tensor] = field(default_factory=dict)
    edits: int = 0  # since the full pass

    @property
    def canvas(self) -> Box:
        """The whole canvas as a box of latents."""
        return Box(0, 0, *self.latent.shape[-2:])

    def get_ram_usage(self) -> int:
        """Return bytes."""
        return self.latent.nbytes + sum(
            x.nbytes
            for kept in (self.moments, self.inputs, self.probe_moments, self.probe_inputs)
            for x in kept.values()
        )

    @property
    def finite(self) -> bool:
        """Whether no moment is NaN or infinite."""
        return all(bool(torch.isfinite(value).all()) for value in self.moments.values())

    def moved(self, latent: Tensor) -> Tensor:
        """How far each latent [1, C, h, w] of the same size is from what was recorded: [h, w], 1 being the recorded
        ones' variance.
        """
        return ((latent.cpu() - self.latent).square().mean(1) / self.latent.var().clamp_min(1e-12))[0]

    def blocks_outside(self, boxes: list[Box]) -> Tensor:
        """Blocks [h / 2, w / 2] bool that are in none of the boxes."""
        rest = torch.ones(self.canvas.bottom // BLOCK, self.canvas.right // BLOCK, dtype=torch.bool)
        for box in boxes:
            box.divided(BLOCK).cut(rest).fill_(False)
        return rest


@contextlib.contextmanager
def replaced(parts: Parts, norm: Any, attend: Any, upsample: Any, first: Any) -> Iterator[None]:
    """Calls of a decoder's parts go to `norm(name, module, original, x)` and so on; afterwards everything is as it
    was.
    """
    calls = [(module, "forward", norm, name) for name, module in parts.norms.items()]
    calls += [(module, "optimized_attention", attend, name) for name, module in parts.attentions.items()]
    calls += [(module, "forward", upsample, name) for name, module in parts.upsamples.items()]
    calls.append((parts.first, "forward", first, "first"))
    own = [(module, call, module.__dict__.get(call)) for module, call, _, _ in calls]
    try:
        for module, call, instead, name in calls:
            setattr(
                module, call, (layer if call == "forward" else attention)(instead, name, module, getattr(module, call))
            )
        yield
    finally:
        for module, call, before in own:
            delattr(module, call) if before is None else setattr(module, call, before)


def layer(instead: Any, name: str, module: Any, original: Any) -> Callable[..., Tensor]:
    """Newer hosts call layers with arguments for video as well, which are handed on."""
    return lambda x, *rest, **named: instead(name, module, lambda y: original(y, *rest, **named), x)


def attention(instead: Any, name: str, module: Any, original: Any) -> Callable[..., Tensor]:
    """Make a replacement for an attention's call that hands on to `instead`."""
    return lambda q, k, v: instead(name, module, original, q, k, v)


def unchanged(name: str, module: nn.Module, original: Any, *given: Tensor) -> Tensor:
    """Run a layer as it is."""
    return original(*given)


def decode_and_record(parts: Parts, decode: DecodeImage, latent: Tensor) -> tuple[Tensor, Record]:
    """A full decode of one latent [1, C, h, w], bit for bit as without a record, h and w even. Raises
    UnexpectedShapeError.
    """
    record, attentions = Record(latent.cpu().clone()), {norm_of(name) for name in parts.attentions}

    def norm(name: str, module: nn.GroupNorm, original: Any, x: Tensor) -> Tensor:
        side = scale_of(x, latent) * BLOCK
        record.moments[name] = block_moments(x, side, group_means(x, module.num_groups)).stacked().cpu()
        if name in attentions:
            record.inputs[name] = x.cpu().clone()
        return original(x)

    with replaced(parts, norm, unchanged, unchanged, unchanged):
        pixels = decode(latent)
    check_all_ran(parts, record.moments)
    return pixels, record


def check_all_ran(parts: Parts, seen: dict[str, Any]) -> None:
    """Raises UnexpectedShapeError where a decoder went another way than through its own layers."""
    if missing := parts.norms.keys() - seen.keys():
        raise UnexpectedShapeError(f"{len(missing)} of the decoder's {len(parts.norms)} norms did not run")


def norm_of(attention: str) -> str:
    """Return the name of the norm before an attention."""
    return f"{attention}.norm"


def scale_of(x: Tensor, latent: Tensor) -> int:
    """Return how many px of a layer's input x make a latent. Raises UnexpectedShapeError where x is not the whole
    canvas.
    """
    scale = x.shape[-2] // latent.shape[-2]
    if x.shape[0] != 1 or tuple(side * scale for side in latent.shape[-2:]) != tuple(x.shape[-2:]):
        raise UnexpectedShapeError(
            f"a layer was given {tuple(x.shape)}, expected the {tuple(latent.shape)} that were to be decoded"
        )
    return scale


def put(whole: Tensor, boxes: list[Box], news: list[Tensor]) -> Tensor:
    """A copy with new content in the boxes."""
    result = whole.clone()
    for box, new in zip(boxes, news, strict=True):
        box.cut(result).copy_(new)
    return result
