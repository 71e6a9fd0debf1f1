"""Frozen descriptions of the models and the table of presets; a checkpoint carries its own as JSON in the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from .checks.rules import agree, read_values

FORMAT_VERSION = 2  # from 2 on the tokenizer is a list of words; a file without one is as it was in 1
Prediction = Literal["epsilon", "flow_x0"]


@dataclass(frozen=True)
class VAEConfig:
    """The tiny autoencoder: `channels` at 1/4 resolution, twice as many at 1/8, `blocks` per resolution."""

    latent_channels: int = 8
    channels: int = 64
    blocks: int = 4


@dataclass(frozen=True)
class TextConfig:
    """The small text encoder; its words travel in the checkpoint."""

    width: int = 256
    depth: int = 2
    heads: int = 4
    vocabulary: int = 512
    length: int = 16


@dataclass(frozen=True)
class LazyConfig:
    """Encoder and decoder. Sizes are in tokens and channels; `patch_size` latents make a token's side.

    `prediction`: what the decoder's output means. `epsilon` (DDPM, with a learned variance beside it that sampling
    drops) is the paper's; `flow_x0` is rectified flow whose network predicts the clean latent. `positions`: `pixart`
    takes PixArt-alpha's spacing of positions, `unit` spaces neighbours 1 apart at any size. `window`: tokens a side
    that the encoder reads around a hole on a canvas that is larger; None reads everything. `edges`: the decoder also
    takes edge maps (lines to follow), added to the context; the encoder does not run again for one. `fill`: the context
    also tells each of the hole's tokens what the canvas's smooth fill is there (`blend.prefill`), in latents, and which
    of them the mask covers. `styles`: of so many drawing styles the encoder names the canvas's; 0 names none.
    `style_depth`: blocks of a ViT of its own that names it (`StyleReader`); 0 names it from the context.
    `style_guidance`: how far guidance also leads towards the style that the encoder names
    (`StyleEmbedder.negative_offset`). `style_emphasis`: how much more than in training the hole is told it.
    `style_decisive`: the hole is told the most probable style alone, not all of them
    as probable as they are. `steps`: how many denoising steps are enough for it; a checkpoint that does not say has its
    preset's. `shift` moves the noise levels of a flow model's steps, see `schedule.shifted`; a checkpoint carries the
    one that suits it in few steps. `latent_rgb`: for each latent channel its share in (red, green, blue), -1..1, for
    step previews; None shows none. `matte`: channels of the network that tells an object from its background
    (`networks.matte`), whose place the picture's own texture takes; 0: all of the hole is as generated. `vae` and
    `text` are None for a model that brings neither.
    """

    latent_channels: int = 4
    patch_size: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    caption_width: int = 4096
    encoder_width: int = 1152
    encoder_depth: int = 12
    encoder_heads: int = 16
    prediction: Prediction = "epsilon"
    learn_sigma: bool = True
    micro_conditioning: bool = True
    positions: Literal["pixart", "unit"] = "pixart"
    latent_scale: int = 8
    window: int | None = None
    edges: bool = False
    fill: bool = False
    styles: int = 0
    style_depth: int = 0
    style_guidance: float = 0.0
    style_emphasis: float = 0.0
    style_decisive: bool = False
    shift: float = 1.0
    steps: int = 20
    latent_rgb: tuple[tuple[float, float, float], ...] | None = None
    matte: int = 0
    vae: VAEConfig | None = None
    text: TextConfig | None = None
    preset: str = field(default="", compare=False)

    @property
    def token_pixels(self) -> int:
        """A token's side in px."""
        return self.latent_scale * self.patch_size

    @property
    def trained_pixels(self) -> int | None:
        """Side in px of the canvases that a model with a window was trained on: its holes are no larger."""
        return self.window and self.window * self.token_pixels

    @property
    def enlarged_from(self) -> int | None:
        """`trained_pixels` of a model that draws the objects of larger holes smaller, to be enlarged (`downscale`): one
        that tells them from their background, which stays as sharp as the picture.
        """
        return self.trained_pixels if self.matte else None

    @property
    def out_channels(self) -> int:
        """Channels of what the decoder puts out: twice the latent's where it also learned a variance."""
        return self.latent_channels * (2 if self.learn_sigma else 1)

    def to_json(self) -> str:
        """Return the config as a checkpoint's metadata carries it."""
        return json.dumps({"format": FORMAT_VERSION if self.text else 1, **asdict(self)})

    @classmethod
    def from_json(cls, text: str, file: str = "the checkpoint") -> LazyConfig:
        """Read a config. Raises CheckpointError: which field is unknown, malformed or at odds with another, or a newer
        format.
        """
        values = read_values(text, FORMAT_VERSION, file)
        for name, part in (("vae", VAEConfig), ("text", TextConfig)):
            if values.get(name) is not None:
                values[name] = part(**values[name])
        if "steps" not in values and values.get("preset") in PRESETS:
            values["steps"] = PRESETS[values["preset"]].steps
        config = cls(**values)
        agree(config, file)
        return config


_SMALL = LazyConfig(
    latent_channels=8,
    patch_size=2,
    width=320,
    depth=8,
    heads=5,
    caption_width=256,
    encoder_width=256,
    encoder_depth=3,
    encoder_heads=4,
    prediction="flow_x0",
    learn_sigma=False,
    micro_conditioning=False,
    positions="unit",
    window=16,
    edges=True,
    fill=True,
    styles=3,
    style_depth=3,
    style_guidance=2.0,
    style_decisive=True,
    shift=2.0,
    steps=4,
    vae=VAEConfig(),
    text=TextConfig(),
    preset="fluent-small",
)

PRESETS: dict[str, LazyConfig] = {
    # What ships: 256 px canvas, 16 x 16 tokens, trained by `training/` on a CPU.
    "fluent-small": _SMALL,
    # The same in pixel space, for comparison at equal training time (training/README.md).
    "fluent-pixel": replace(_SMALL, latent_channels=3, patch_size=16, latent_scale=1, vae=None, preset="fluent-pixel"),
    # The paper's model (section 4; decoder: PixArt-alpha XL/2 at 1024 px, T5-XXL captions).
    "pixart-xl": LazyConfig(window=64, preset="pixart-xl"),
    # Seconds to build and run: unit tests.
    "tiny": LazyConfig(
        latent_channels=4,
        width=48,
        depth=2,
        heads=4,
        caption_width=32,
        encoder_width=32,
        encoder_depth=2,
        encoder_heads=2,
        prediction="flow_x0",
        learn_sigma=False,
        micro_conditioning=False,
        positions="unit",
        vae=VAEConfig(latent_channels=4, channels=8, blocks=2),
        text=TextConfig(width=32, depth=1, heads=2, vocabulary=64),
        preset="tiny",
    ),
}
