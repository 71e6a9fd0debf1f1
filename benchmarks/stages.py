"""The stages of an edit by the three methods, on weights of one size (random unless a checkpoint is prepared: time does
not care).

lazy: encoder once on the canvas, decoder on the hole's tokens, VAE decoder around the hole.
image (RegenerateImage): no encoder, decoder on all tokens, the whole VAE.
crop (RegenerateCrop): the same on a square of half the canvas's side, whatever the hole: a quarter of the tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lazy_core.config import PRESETS, LazyConfig
from lazy_core.context import Context
from lazy_core.cost import step_flops
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.holes import hole_rows, windows_around
from lazy_core.masks import latent_mask, threshold
from lazy_core.model import LazyDiffusion
from lazy_core.networks.cuda_graphs import StepGraphs
from lazy_core.networks.decoder import Conditioning, LazyDecoder, PreparedInputs
from lazy_core.pipeline import fill_hole, read_holes
from lazy_core.text.tokenizer import build_tokenizer
from lazy_core.tokens import HoleTokens
from lazy_core.vae.canvas_cache import CanvasCache
from lazy_core.vae.windows import decode_windows

from .timing import Work

METHODS = ("lazy", "image", "crop")
CAPTION = {"pixart-xl": 120}  # text tokens of presets without a text encoder of their own


@dataclass(frozen=True)
class Case:
    """What is measured: a canvas of `side` px and one hole [side, side] for each image of the batch."""

    side: int
    holes: Tensor
    share: float
    kind: str

    @property
    def batch(self) -> int:
        return len(self.holes)


class Stages:
    """One preset on one device, ready to be timed."""

    def __init__(self, preset: str, device: torch.device, dtype: torch.dtype, guided: bool):
        self.config: LazyConfig = PRESETS[preset]
        self.device, self.dtype, self.guided = device, dtype, guided
        with torch.device(device):
            self.model = LazyDiffusion(self.config)
        self.model.to(dtype).eval().requires_grad_(False)
        for parameter in self.model.parameters():
            parameter.uniform_(-0.02, 0.02)
        self.text_tokens = self.config.text.length if self.config.text else CAPTION[preset]
        self.graphs = StepGraphs()

    @property
    def decoder(self) -> LazyDecoder:
        return self.model.transformer.decoder

    def tokens(self, method: str, case: Case) -> list[int]:
        """Tokens of each row that a step computes: of each hole, or of each image."""
        if method == "lazy":
            return self.hole_tokens(case).valid.sum(1).tolist()
        return [self.grid(case.side if method == "image" else case.side // 2).tokens] * case.batch

    def grid(self, side: int) -> Grid:
        return Grid(side, side, self.config.latent_scale, self.config.patch_size)

    def hole_tokens(self, case: Case) -> HoleTokens:
        return hole_rows(threshold(case.holes), self.grid(case.side), self.config.window)

    def step_flops(self, method: str, case: Case) -> int:
        """Counted operations of a step without the text's keys and values, which are made once per edit."""
        branches = 2 if self.guided else 1
        return sum(
            branches * step_flops(self.config, count, self.text_tokens, kept_text=True)
            for count in self.tokens(method, case)
        )

    def step(self, method: str, case: Case) -> Work:
        """One decoder pass as in the sampling loop: everything that steps share is prepared before."""
        return self.step_on(self.tokens(method, case), case.side)

    def step_on(self, counts: list[int], side: int) -> Work:
        """The same on holes of so many tokens, in canvases of `side` px."""
        largest, images = max(counts), len(counts) * (2 if self.guided else 1)
        valid = (
            (torch.arange(largest)[None] < torch.tensor(counts)[:, None])
            .repeat(images // len(counts), 1)
            .to(self.device)
        )
        draw = lambda *shape: torch.randn(*shape, device=self.device, dtype=self.dtype)  # noqa: E731
        conditioning = Conditioning(
            draw(images, largest, self.config.encoder_width),
            torch.rand(images, largest, 2, device=self.device),
            draw(images, self.text_tokens, self.config.caption_width),
            None if bool(valid.all()) else valid,
            (side, side),
        )
        prepared = self.decoder.prepare(conditioning, shared_timestep=True)
        x, timestep = draw(images, largest, self.config.latent_channels * self.config.patch_size**2), draw(images).abs()
        return Step(self, x, timestep, prepared)

    def context(self, case: Case) -> Work:
        """The context encoder alone (lazy only), on a window around each hole."""
        grid, hole = self.grid(case.side), self.hole_tokens(case).to(self.device)
        boxes = windows_around(hole, grid, self.config.window)
        latent = torch.randn(
            case.batch, self.config.latent_channels, *grid.latent_size, device=self.device, dtype=self.dtype
        )
        mask = torch.zeros_like(latent[:, :1])
        return inference(lambda: read_holes(self.model.transformer, latent, mask, hole, grid, boxes))

    # -- whole edits, for presets that bring a VAE and a text encoder
    # ---------------------------------------------------
    def edit(self, method: str, case: Case, steps: int) -> tuple[Work, Work]:
        """-> a cold edit (new canvas) and a warm one (same canvas and hole, new prompt)."""
        assert self.config.text
        editor = LazyEditor(self.model, build_tokenizer([], self.config.text.length))
        picture = torch.rand(case.batch, 3, case.side, case.side)
        if method != "lazy":
            return self.regenerate(editor, method, case, picture, steps)
        context = editor.encode(picture, case.holes)

        def decode(prepared: Context) -> Tensor:
            return editor.decode(prepared, "panda", steps=steps, cfg=3.0 if self.guided else 1.0)

        return lambda: decode(editor.encode(picture, case.holes)), lambda: decode(context)

    def next_edit(self, case: Case, steps: int) -> Work:
        """A lazy edit of another hole, on a canvas that was edited before: each time the hole is somewhere else."""
        assert self.config.text
        editor = LazyEditor(self.model, build_tokenizer([], self.config.text.length))
        editor.to_latent = partial(CanvasCache(limit=1 << 30).encode, "", editor.to_latent)  # type: ignore[method-assign]
        picture, holes = torch.rand(case.batch, 3, case.side, case.side), case.holes
        cfg = 3.0 if self.guided else 1.0

        def work() -> Tensor:
            nonlocal holes
            holes = holes.roll((3 * self.config.token_pixels, 5 * self.config.token_pixels), (1, 2))
            return editor.decode(editor.encode(picture, holes), "panda", steps=steps, cfg=cfg)

        return work

    def regenerate(self, editor: LazyEditor, method: str, case: Case, picture: Tensor, steps: int) -> tuple[Work, Work]:
        """The decoder on every token of the canvas, or of a square of half its side; nothing is kept from edit to
        edit.
        """
        side = case.side if method == "image" else case.side // 2
        start, grid = (case.side - side) // 2, self.grid(side)
        region = slice(start, start + side)
        hole = HoleTokens.of(torch.ones(case.batch, grid.tokens, dtype=torch.bool))
        tokens = torch.zeros(case.batch, hole.count, self.config.encoder_width)

        def work() -> Tensor:
            part = picture[..., region, region]
            context = Context(
                "", grid, part, threshold(case.holes[..., region, region]), editor.to_latent(part), hole, tokens
            )
            sample = editor.sampler(context, "panda", steps, 3.0 if self.guided else 1.0)
            noise = torch.randn(case.batch, hole.count, self.config.latent_channels * self.config.patch_size**2)
            return editor.to_image(fill_hole(context, sample(noise, torch.zeros_like(noise), 1.0)))

        return inference(work), inference(work)

    def vae(self, method: str, case: Case) -> tuple[Work, Work]:
        """-> VAE encoder and VAE decoder."""
        assert self.model.vae is not None
        side = case.side if method != "crop" else case.side // 2
        editor = LazyEditor(self.model, build_tokenizer([], 16))
        picture, grid = torch.rand(case.batch, 3, side, side), self.grid(side)
        latent = torch.randn(case.batch, self.config.latent_channels, *grid.latent_size)
        touched = latent_mask(threshold(case.holes), self.grid(case.side))[:, 0] > 0
        if method == "lazy":
            return inference(lambda: editor.to_latent(picture)), inference(
                lambda: decode_windows(editor.to_image, editor.to_image, latent, picture, touched)
            )
        return inference(lambda: editor.to_latent(picture)), inference(lambda: editor.to_image(latent))


@dataclass(frozen=True)
class Step:
    """A step of an edit, on a GPU as a CUDA graph; `ready` makes it one that comes after the edit's first."""

    stages: Stages
    x: Tensor
    timestep: Tensor
    prepared: PreparedInputs

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        return self.stages.graphs.step(self.stages.decoder, self.x, self.timestep, self.prepared)

    def ready(self) -> None:
        if self.x.is_cuda:
            self()


def inference(work: Callable[[], object]) -> Work:
    def run() -> object:
        with torch.inference_mode():
            return work()

    return run
