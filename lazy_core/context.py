"""CONTEXT: all that an edit needs and an encoder pass computed. A value: frozen, on the CPU, never a module."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from .geometry import Grid
from .kv.policy import Reuse
from .kv.split import Visible
from .kv.store import KVDtype
from .masks import mostly_black
from .tokens import HoleTokens

SAME = 2e-3  # relative: bfloat16 rounds a number by half of 2**-8, and a mean of many by far less


@dataclass(frozen=True)
class Sketch:
    """A rough picture to start from (SDEdit): clean `tokens` [R, K, C p p], and how strongly it binds, 0 (not at all)
    to 1 (keep it).
    """

    tokens: Tensor
    strength: float
    where: Tensor | None = (
        None  # [B, H, W] bool: the pixels that are the sketch's; the others are the canvas's old content
    )
    black: bool = False  # whether most of the hole is exactly black in what `tokens` show


@dataclass(frozen=True)
class View:
    """The part of a large canvas that the encoder read for each hole: its `grid`, and its tokens' places in it, `index`
    [R, K].

    `sizes` [R, 2] are the rows and columns of each hole's own part where they differ; `grid` is then as large as the
    largest.
    """

    grid: Grid
    index: Tensor
    sizes: Tensor | None = None


@dataclass(frozen=True)
class StockTerms:
    """What only the steps of a stock model ask of a context.

    `reuse` says how freely they may reuse what is known of the canvas, `kv_dtype` as what they keep it, `visible`
    of which tokens. `masked` [B, C, h, w] is the canvas encoded with a grey hole, for models that were trained to
    fill one.
    """

    reuse: Reuse
    kv_dtype: KVDtype = "model"
    masked: Tensor | None = None
    visible: Visible = "all"


@dataclass(frozen=True)
class Origin:
    """What a context was made with, told by content, so that it is known elsewhere again.

    `patches` names the model's weight patches (LoRA), `vae` [n] is the mean magnitude of each of the VAE's tensors.
    `loaded`: it came from a file.
    """

    patches: str
    vae: Tensor
    loaded: bool = False

    def same_vae(self, other: Origin) -> bool:
        """Whether both VAEs have the same weights, up to what casting to 16 bits does to them."""
        if self.vae.shape != other.vae.shape:
            return False
        return bool(((self.vae - other.vae).abs() <= SAME * self.vae.abs().maximum(other.vae.abs())).all())


@dataclass(frozen=True)
class Context:
    """What Encode Context hands on.

    `image` [B, 3, H, W] in 0..1 is the canvas as it came; `mask` [B, H, W] bool, True = hole (generate), False = keep;
    `latent` [B, C, h, w] the canvas encoded with its hole filled smoothly; `model` the identity of the checkpoint that
    made it.

    Each hole is a row of its own, and `owner` [R] says in which image it lies: `hole` [R, K]; `tokens` [R, K, E] the
    compressed context of the hole; `view` is set where the canvas is larger than the encoder's window;
    `negative_offset` [R, E] is what the negative prompt's tokens get on top, see `negative_tokens`; `edges` [R, K, P P]
    in 0..1 are lines that the hole's P x P px tokens shall follow.

    Of a soft mask, `weight` [B, H, W] in 0..1 is what the hole is blended with, and `mask` where it is not 0;
    `strength` [R, K] in 0..1 is how much of the noise levels each token takes part in
    (`lazy_core.diffusion.differential`). `alpha` [B, 1, H, W] is the canvas's, if any; `origin` says what made the
    context. `texture` [P, 4] is what the mask's pixels show where no object will be (`blend.background`), for models
    that tell objects from backgrounds.

    For a `stock` model an image's holes are one row, and `tokens` are empty [B, K, 0].
    """

    model: str
    grid: Grid
    image: Tensor
    mask: Tensor
    latent: Tensor
    hole: HoleTokens
    tokens: Tensor
    sketch: Sketch | None = None
    view: View | None = None
    stock: StockTerms | None = None
    edges: Tensor | None = None
    negative_offset: Tensor | None = None
    weight: Tensor | None = None
    strength: Tensor | None = None
    alpha: Tensor | None = None
    origin: Origin | None = None
    texture: Tensor | None = None

    @property
    def owner(self) -> Tensor:
        """The image [R] of the batch that each row belongs to."""
        return self.hole.owners

    @property
    def hole_tokens(self) -> int:
        """Tokens of all holes of an image: of the one where they are most."""
        counts = self.hole.valid.sum(1)
        return max(counts.new_zeros(len(self.image)).index_add(0, self.owner, counts).tolist(), default=0)

    @property
    def seen(self) -> View:
        """What positions refer to: the part that the encoder read, or the whole canvas."""
        return self.view or View(self.grid, self.hole.index)

    @property
    def negative_tokens(self) -> Tensor:
        """The context [R, K, E] that goes with the negative prompt: guidance leads away from it
        (`StyleEmbedder.negative_offset`).
        """
        if self.negative_offset is None:
            return self.tokens
        return self.tokens + self.negative_offset[:, None] * self.hole.valid[..., None]

    def with_(self, **changes: Any) -> Context:
        """Return the context with some fields changed."""
        return replace(self, **changes)

    def starts_from_black(self, denoise: float) -> bool:
        """Whether sampling starts from a hole that is mostly exactly black, as programs leave what is transparent."""
        if self.sketch is not None:
            return self.sketch.black
        return 0 < denoise < 1 and self.hole.count > 0 and mostly_black(self.image, self.mask)

    @property
    def hole_fraction(self) -> float:
        """Share of the canvas's pixels that lie in the hole."""
        return int(self.mask.count_nonzero()) / max(self.mask.numel(), 1)

    def tensors(self) -> list[Tensor]:
        """Return all tensors that the context holds."""
        return _tensors(self)

    # The host asks these two of whatever its node cache holds (0.3.75: bytes; newer: the tensors themselves).
    def get_ram_usage(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def _comfy_cache_tensors(self) -> list[Tensor]:
        return self.tensors()

    def __repr__(self) -> str:
        size = f"{self.grid.width} x {self.grid.height} px"
        return f"Context({size}, {self.hole_tokens} of {self.hole.total} tokens, model {self.model[:8]})"


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        return [tensor for field in fields(value) for tensor in _tensors(getattr(value, field.name))]
    return []
