"""Edits by LazyDiffusion and by the paper's two baselines, as `method` describes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from lazy_core.blend.composite import Blend, composite
from lazy_core.blend.prefill import prefill
from lazy_core.checkpoint import load_model
from lazy_core.context import Context
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.masks import hole_token_mask, latent_mask, threshold
from lazy_core.networks.positions import grid_coordinates
from lazy_core.pipeline import lazy_decode

from ..loop.method import METHOD_KEY, METHODS, SIZE_KEY, Method, everything
from ..scenery.crop import crop_boxes, cut, put_back


@dataclass(frozen=True)
class MethodEditor:
    """A checkpoint with the method that it was trained for; `size` is the canvas in px that it was trained on."""

    method: Method
    editor: LazyEditor
    size: int = 256

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> MethodEditor:
        model, checkpoint = load_model(path)
        editor = LazyEditor(model.to(device), checkpoint.tokenizer, checkpoint.identity)
        method = checkpoint.metadata.get(METHOD_KEY, "lazy")
        if method not in METHODS:
            raise ValueError(f"{path} was trained for '{method}', expected one of {', '.join(METHODS)}.")
        return cls(cast(Method, method), editor, int(checkpoint.metadata.get(SIZE_KEY, 256)))

    def edit(
        self, image: Tensor, mask: Tensor, prompts: list[str], seed: int, steps: int, cfg: float, blend: Blend = "none"
    ) -> Tensor:
        """Images [B, 3, H, W] in 0..1 under masks [B, 1, H, W] (1 = hole), a prompt for each -> edited images."""
        if self.method == "lazy":
            return self.editor.decode(self.editor.encode(image, mask[:, 0]), prompts, seed, steps, cfg, blend=blend)
        if self.method == "image":
            return self.regenerate(image, mask, prompts, seed, steps, cfg, blend)
        boxes, side = crop_boxes(mask), self.size // 2
        squares = self.regenerate(
            cut(image, boxes, side), cut(mask, boxes, side, grow=True), prompts, seed, steps, cfg, "none"
        )
        return composite(image, put_back(image, squares, boxes), threshold(mask[:, 0]), blend)

    def edit_magnified(
        self, times: int, image: Tensor, mask: Tensor, prompts: list[str], seed: int, steps: int, cfg: float
    ) -> Tensor:
        """Edit images that are so many `times` larger, and their holes, one by one; the results are as large as what
        came. 1: as `edit`.
        """
        if times == 1:
            return self.edit(image, mask, prompts, seed, steps, cfg)
        results = []
        for number, prompt in enumerate(prompts):
            one, hole = image[number : number + 1], mask[number : number + 1]
            large = F.interpolate(one, scale_factor=times, mode="bicubic").clamp(0, 1)
            hole = F.interpolate(hole, scale_factor=times)
            results.append(F.avg_pool2d(self.edit(large, hole, [prompt], seed + number, steps, cfg), times))
        return torch.cat(results)

    def tokens(self, mask: Tensor) -> Tensor:
        """How many tokens the decoder denoises for each of the masks [B, 1, H, W]: [B]."""
        config = self.editor.model.config
        height, width = (self.size // 2, self.size // 2) if self.method == "crop" else mask.shape[-2:]
        grid = Grid(height, width, config.latent_scale, config.patch_size)
        if self.method == "lazy":
            return hole_token_mask(threshold(mask[:, 0]), grid).sum(1)
        return torch.full((len(mask),), grid.tokens)

    @torch.inference_mode()
    def regenerate(
        self, image: Tensor, mask: Tensor, prompts: list[str], seed: int, steps: int, cfg: float, blend: Blend
    ) -> Tensor:
        """All tokens are denoised and decoded, the hole's pixels kept."""
        editor, hole = self.editor, threshold(mask[:, 0])
        config, device = editor.model.config, editor.device
        grid = Grid(image.shape[-2], image.shape[-1], config.latent_scale, config.patch_size)
        latent = editor.to_latent(prefill(grid.pad(image), grid.pad(hole[:, None].float())[:, 0] > 0))
        tokens = everything(hole.new_ones(len(image), grid.tokens))
        coordinates = grid_coordinates(grid, config, device)
        encoder = editor.model.transformer.context_encoder
        known, _, offset = encoder(
            latent.to(device), latent_mask(hole, grid).to(device), tokens.to(device), coordinates
        )
        offset = None if offset is None else offset.float().cpu()
        context = Context(
            editor.identity, grid, image, hole, latent, tokens, known.float().cpu(), negative_offset=offset
        )
        sample = editor.sampler(context, prompts, steps, cfg)
        return lazy_decode(context, sample, editor.to_latent, editor.to_image, seed, blend=blend)[0]
