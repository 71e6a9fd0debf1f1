"""The whole way in plain Python, for scripts and for the project's own evaluation; ComfyUI users have the nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from .blend.background import Matte
from .blend.composite import Blend
from .checkpoint import load_model, style_number
from .context import Context
from .diffusion.differential import differential, relative
from .diffusion.parametrisation import parametrisation
from .diffusion.sampling import Solver, dpmpp_2m, euler, guided_denoiser
from .geometry import Box
from .model import LazyDiffusion
from .networks.cuda_graphs import StepGraphs
from .networks.decoder import Conditioning
from .networks.text_encoder import same_length
from .networks.transformer import store_for_few_rows
from .pipeline import Sample, Seeds, encode_context, hole_coordinates, lazy_decode
from .prompts import prompt_per_hole
from .text.removal import asks_for_nothing
from .text.tokenizer import Tokenizer
from .vae.windows import decode_windows


class LazyEditor:
    """A checkpoint with its own text encoder and VAE, ready to edit images [B, 3, H, W] in 0..1 under masks [M, H, W]
    (1 = hole).
    """

    def __init__(
        self, model: LazyDiffusion, tokenizer: Tokenizer | None, identity: str = "", styles: tuple[str, ...] = ()
    ):
        if model.text is None or model.vae is None or tokenizer is None:
            raise ValueError(
                "this checkpoint has no text encoder or no VAE of its own; use it inside ComfyUI, which brings them."
            )
        self.model, self.text, self.vae, self.tokenizer, self.identity = (
            model,
            model.text,
            model.vae,
            tokenizer,
            identity,
        )
        self.styles = styles
        self.graphs = StepGraphs()

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> LazyEditor:
        """Read a checkpoint that brings its own text encoder and VAE, such as the shipped one. Raises
        CheckpointError.
        """
        model, checkpoint = load_model(path)
        store_for_few_rows(model.to(device))
        return cls(model, checkpoint.tokenizer, checkpoint.identity, checkpoint.styles)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.vae.mean.device

    def encode(self, image: Tensor, mask: Tensor, style: str = "auto") -> Context:
        """Read canvas and mask, once for many edits. `style` is one of `styles`, or auto: what the canvas shows. Raises
        ValueError.
        """
        dtype = next(self.model.transformer.parameters()).dtype
        number = style_number(self.styles, style)
        return encode_context(
            self.model.transformer, self.to_latent, image, mask, self.identity, self.device, dtype=dtype, style=number
        )

    def decode(
        self,
        context: Context,
        prompt: str | list[str],
        seed: Seeds = 0,
        steps: int = 20,
        cfg: float = 3.0,
        denoise: float = 1.0,
        blend: Blend = "feather",
        solver: Solver = "euler",
        shift: float | None = None,
        regions: Sequence[tuple[str, Tensor]] = (),
        negative: str | list[str] = "",
    ) -> Tensor:
        """As often as you like: -> edited canvas [B, 3, H, W]. One prompt and one seed for all images of a batch, or
        one for each.

        `regions`: prompts for the holes under their masks [M, H, W] (`prompts.prompt_per_hole`), instead of `prompt`.
        `negative` is what guidance leads away from. `shift` moves the noise levels of flow models, see
        `schedule.shifted`; None is the checkpoint's own.
        """
        sample = self.sampler(context, prompt, steps, cfg, solver, shift, regions, negative)
        decode_hole = partial(decode_windows, self.to_image, self.to_image)
        nothing = self.asked_for_nothing(context, prompt, regions)
        vae = self.to_latent, self.to_image
        image, _ = lazy_decode(context, sample, *vae, seed, denoise, blend, decode_hole, self.matte, nothing)
        return image

    def asked_for_nothing(
        self, context: Context, prompt: str | list[str], regions: Sequence[tuple[str, Tensor]] = ()
    ) -> Tensor:
        """Which holes [R] bool have a prompt for no object. Prompts as in `decode`."""
        prompts = [prompt] * len(context.image) if isinstance(prompt, str) else prompt
        flags = torch.tensor([asks_for_nothing(each) for each in (*prompts, *(text for text, _ in regions))])
        return flags[self.prompt_numbers(context, len(prompts), regions)]

    @property
    def matte(self) -> Matte | None:
        """What tells an object from its background, where the model has it."""
        return None if self.model.transformer.matte is None else self.object_in

    def object_in(self, image: Tensor, fill: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """`ObjectMatte` where the model is, its answers on the CPU."""
        matte, weights = self.model.transformer.matte, next(self.model.transformer.parameters())
        assert matte is not None
        alpha, light = matte(image.to(weights), fill.to(weights), hole.to(weights.device))
        return alpha.float().cpu(), light.float().cpu()

    def caption(self, prompts: list[str]) -> Tensor:
        """-> [len(prompts), L, T], L the text encoder's length for each chunk of a long prompt (`tokenizer.CHUNKS`).

        Prompts of different length are repeated until all have one: attention to all of it stays the same.
        """
        chunks = [self.tokenizer.prompt([(prompt, 1.0)]).chunks for prompt in prompts]
        ids = torch.tensor([[number for number, _ in chunk] for each in chunks for chunk in each], device=self.device)
        parts = self.text(ids).split([len(each) for each in chunks])  # of each prompt [chunks, 16, T]
        return torch.stack(same_length([part.flatten(0, 1) for part in parts]))

    def sampler(
        self,
        context: Context,
        prompt: str | list[str],
        steps: int,
        cfg: float,
        solver: Solver = "euler",
        shift: float | None = None,
        regions: Sequence[tuple[str, Tensor]] = (),
        negative: str | list[str] = "",
    ) -> Sample:
        """Make the sampler of `decode`, for `pipeline.lazy_decode`."""
        config, device = self.model.config, self.device
        model = parametrisation(config.prediction)

        def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
            toward, away = self.conditioning(context, prompt, regions, negative)
            denoiser = guided_denoiser(self.model.transformer.decoder, toward, away, cfg, self.graphs)
            sigmas = model.sigmas(steps, denoise, config.shift if shift is None else shift).to(device)
            start, noise = start.to(device), noise.to(device)
            if context.strength is not None:
                noised = partial(model.add_noise, start, noise)
                denoiser = differential(denoiser, relative(context.strength).to(device), start, noised, sigmas)
            x = model.add_noise(start, noise, sigmas[0])
            end = euler(denoiser, x, sigmas) if solver == "euler" else dpmpp_2m(denoiser, x, sigmas)
            return end.cpu()

        return sample

    def conditioning(
        self,
        context: Context,
        prompt: str | list[str],
        regions: Sequence[tuple[str, Tensor]] = (),
        negative: str | list[str] = "",
    ) -> tuple[Conditioning, Conditioning]:
        """Return what the hole is denoised by, and what guidance leads away from. Prompts as in `decode`."""
        device = self.device
        prompts, against = (
            [text] * len(context.image) if isinstance(text, str) else text for text in (prompt, negative)
        )
        token_mask, edges = (None if x is None else x.to(device) for x in (context.hole.token_mask, context.edges))
        positive = Conditioning(
            context.tokens.to(device),
            hole_coordinates(context, self.model.transformer).to(device),
            self.captions_of_holes(context, prompts, regions),
            token_mask,
            (context.seen.grid.height, context.seen.grid.width),
            edges,
        )
        captions, length = self.caption(against), positive.caption.shape[1]
        if (shared := math.lcm(captions.shape[1], length)) != length:
            positive = replace(positive, caption=positive.caption.repeat(1, shared // length, 1))
        caption = captions.repeat(1, shared // captions.shape[1], 1)[context.owner.to(device)]
        return positive, replace(positive, context=context.negative_tokens.to(device), caption=caption)

    def captions_of_holes(self, context: Context, prompts: list[str], regions: Sequence[tuple[str, Tensor]]) -> Tensor:
        """A prompt for each image, and those of `decode`'s regions -> each hole's caption [R, L, T]."""
        captions = self.caption([*prompts, *(text for text, _ in regions)])
        return captions[self.prompt_numbers(context, len(prompts), regions).to(captions.device)]

    def prompt_numbers(self, context: Context, count: int, regions: Sequence[tuple[str, Tensor]]) -> Tensor:
        """Which of the images' `count` prompts, and after them those of `decode`'s regions, each hole is given: [R]."""
        if not regions:
            return context.owner
        own = prompt_per_hole(context.mask, context.hole, context.grid, [region for _, region in regions]).number
        return torch.where(own < 0, context.owner, count + own)

    def to_latent(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in 0..1 -> latent [B, C, h, w], on the CPU."""
        return self.vae.encode(image.to(self.vae.mean).clamp(0, 1) * 2 - 1).float().cpu()

    def to_image(self, latent: Tensor, wanted: Box | None = None) -> Tensor:
        """Latent [B, C, h, w] -> image [B, 3, H, W] in 0..1, on the CPU; with `wanted` of those latents alone."""
        return (self.vae.decode(latent.to(self.vae.mean), wanted) / 2 + 0.5).clamp(0, 1).float().cpu()
