"""What a MODEL brings to an edit. Nodes ask `engine_of` once: all that differs between our models and stock ones is
here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from ..lazy_core.blend.background import Matte
from ..lazy_core.blend.composite import Blend
from ..lazy_core.checkpoint import style_number
from ..lazy_core.context import Context, Origin
from ..lazy_core.pipeline import Sample, encode_canvas, encode_context, tokens_read
from . import messages
from .host.conditioning import holes_of_several_prompts
from .host.identity import check_origin, identity_of, origin_of, vae_key, vae_magnitudes
from .host.load import load_for_encoding, object_in
from .host.memory import unload_other_models
from .host.model import LazyDiffusionModel, transformer_of
from .host.sampling import Settings, hole_sampler
from .host.timing import Timing, saved_ms
from .host.vae import canvas_encoder, check_vae
from .images import check_context, check_shape
from .memory import retry_when_out_of_memory
from .stock import edit as stock
from .stock.families import is_stock


@dataclass(frozen=True)
class Encoding:
    """How a canvas is encoded: `make` does it, `key` says all that its result depends on beside canvas and mask;
    `origin` is the same for a file, told by content.
    """

    make: Callable[[], Context]
    key: str
    origin: Origin


class Engine(Protocol):
    """Encodes canvases and fills holes with one kind of MODEL.

    Every method raises ValueError for a VAE or CONTEXT that does not belong to the model.
    """

    @property
    def steps(self) -> int:
        """The denoising steps that suit the model, where its user leaves them to it."""
        ...

    @property
    def blend(self) -> Blend:
        """How its holes meet the canvas best."""
        ...

    def encoding(self, vae: Any, picture: Tensor, mask: Tensor, style: str) -> Encoding:
        """Say how to encode a picture [B, 3, H, W] in 0..1 under a mask [M, H, W] (1 = hole); nothing runs yet.

        `style` is one of the model's drawing styles or auto, where it knows several.
        """
        ...

    def check(self, context: object, vae: Any) -> Context:
        """Return `context` if this model made it, with the kind of VAE that it knows."""
        ...

    def sampler(self, context: Context, positive: list, negative: list, settings: Settings, timing: Timing) -> Sample:
        """Make the sampler of an edit; `timing` learns what its run took."""
        ...

    @property
    def matte(self) -> Matte | None:
        """What tells an object from its background, where the model can."""
        ...

    def saved_ms(self, context: Context, positive: list, timing: Timing) -> float:
        """About how much longer the edit would have taken on the whole canvas; 0: unknown, or nothing."""
        ...

    def messages(self, context: Context, conditioning: Sequence = ()) -> list[messages.Message]:
        """What is to be said of a CONTEXT, and of the prompts that it is decoded with."""
        ...


@dataclass(frozen=True)
class OwnEngine:
    """A model of ours: its context encoder reads the canvas, its decoder sees the hole's tokens alone."""

    model: Any
    transformer: LazyDiffusionModel
    blend: Blend = "poisson"

    @property
    def steps(self) -> int:
        return self.transformer.config.steps

    def encoding(self, vae: Any, picture: Tensor, mask: Tensor, style: str) -> Encoding:
        model, config = self.model, self.transformer.config
        self.check_vae(vae)
        number = style_number(model.model.lazy_styles, style)

        def encode() -> Context:
            transformer, device, dtype = load_for_encoding(model, tokens_read(config, mask, len(picture)))
            to_model = model.model.latent_format.process_in
            return encode_context(
                transformer, canvas_encoder(vae), picture, mask, identity_of(model), device, to_model, dtype, number
            )

        make = partial(
            retry_when_out_of_memory, "Encode Context", work=encode, again=encode, make_room=unload_other_models
        )
        origin = origin_of(model, vae)
        return Encoding(make, f"{identity_of(model)}/{origin.patches}/{vae_key(vae)}/{number}", origin)

    def check(self, context: object, vae: Any) -> Context:
        self.check_vae(vae)
        config = self.transformer.config
        known = check_context(context, identity_of(self.model))
        check_shape(known, config.latent_scale, config.patch_size, config.latent_channels, config.encoder_width)
        return check_origin(known, self.model, vae)

    def check_vae(self, vae: Any) -> None:
        check_vae(vae, self.transformer.config.latent_channels, self.transformer.config.latent_scale)

    def sampler(self, context: Context, positive: list, negative: list, settings: Settings, timing: Timing) -> Sample:
        return hole_sampler(self.model, context, positive, negative, settings, timing)

    @property
    def matte(self) -> Matte | None:
        return None if self.transformer.matte is None else partial(object_in, self.model)

    def saved_ms(self, context: Context, positive: list, timing: Timing) -> float:
        return saved_ms(self.model, context, positive[0][0].shape[1], timing)

    def messages(self, context: Context, conditioning: Sequence = ()) -> list[messages.Message]:
        found = messages.of_hole(context, self.transformer.config)
        shared = holes_of_several_prompts(conditioning, context)
        return [*found, messages.message("prompts_share_hole", count=shared)] if shared else found


@dataclass(frozen=True)
class StockEngine:
    """A checkpoint not made for lazy edits: no encoder runs, its steps read the canvas themselves, some of them all of
    it.
    """

    model: Any
    steps: int = 20
    blend: Blend = "feather"

    def encoding(self, vae: Any, picture: Tensor, mask: Tensor, style: str) -> Encoding:
        latents, fill = stock.latents_of(self.model, vae), stock.wants_fill(self.model)
        scale, patch, channels = latents.scale, latents.patch, latents.channels

        def make() -> Context:
            return encode_canvas(
                canvas_encoder(vae), picture, mask, latents.identity, scale, patch, channels, fill=fill
            )

        origin = Origin("", vae_magnitudes(vae))  # no encoder runs: patches on MODEL change nothing of the CONTEXT
        return Encoding(make, f"{latents.identity}/{vae_key(vae)}/{fill}", origin)

    def check(self, context: object, vae: Any) -> Context:
        latents = stock.latents_of(self.model, vae)
        known = check_context(context, latents.identity)
        check_shape(known, latents.scale, latents.patch, latents.channels, 0)
        return check_origin(known, None, vae)

    def sampler(self, context: Context, positive: list, negative: list, settings: Settings, timing: Timing) -> Sample:
        return stock.hole_sampler(self.model, context, positive, negative, settings, timing)

    @property
    def matte(self) -> Matte | None:
        return None

    def saved_ms(self, context: Context, positive: list, timing: Timing) -> float:
        return max(1000 * timing.saved_seconds, 0.0)

    def messages(self, context: Context, conditioning: Sequence = ()) -> list[messages.Message]:
        return []


def engine_of(model: Any) -> Engine:
    """Return what edits with a MODEL. Raises ValueError for one that is neither ours nor of a family that we know."""
    return StockEngine(model) if is_stock(model) else OwnEngine(model, transformer_of(model))
