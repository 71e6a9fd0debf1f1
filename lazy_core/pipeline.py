"""The two calls that everything else serves: `encode_context` once, `lazy_decode` as often as you like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from .blend.background import Matte, on_texture, texture_of
from .blend.composite import Blend, composite
from .blend.prefill import prefill
from .canvas import Canvas
from .config import LazyConfig
from .context import Context, StockTerms, View
from .diffusion.differential import token_strength
from .downscale import downscale_for, enlarged, seen_smaller, with_detail
from .geometry import Box, Grid
from .holes import hole_rows, pixels_of, windows_around
from .kv.policy import Reuse
from .kv.store import KVDtype
from .masks import boxes_of, hole_token_mask, holes_of, latent_mask
from .networks.positions import grid_coordinates, window_coordinates
from .networks.transformer import LazyTransformer
from .tokens import HoleTokens
from .vae.windows import DecodeImage, EncodeImage

Seeds = int | Sequence[int]
"""Of the noise: one for a batch, or one for each of its images."""

Sample = Callable[[Tensor, Tensor, float], Tensor]
"""Sampler over the holes: (noise [R, K, C p p], start [R, K, C p p], denoise 0..1) -> clean tokens [R, K, C p p]."""


DecodeHole = Callable[[Tensor, Tensor, Tensor], Tensor]
"""VAE decoder around the hole: (latent [B, C, h, w], canvas [B, 3, H', W'] in 0..1, touched latents [B, h, w] bool) ->
[B, 3, H', W'].

Right in the hole and on the latents next to it; elsewhere it is anything.
"""


@torch.inference_mode()
def encode_context(
    transformer: LazyTransformer,
    encode_image: EncodeImage,
    image: Tensor,
    mask: Tensor,
    model: str,
    device: torch.device | str = "cpu",
    to_model: Callable[[Tensor], Tensor] = lambda latent: latent,
    dtype: torch.dtype | None = None,
    style: int | None = None,
) -> Context:
    """Image [B, 3, H, W] in 0..1 and mask [M, H, W] (1 = hole, 0 = keep) -> Context, on the CPU.

    Each hole is a row (`holes.hole_rows`). One VAE encode, and one call of the context encoder for each size of window;
    none where no mask has a hole. `model` names the checkpoint, `to_model` scales the VAE's latents to what the model
    was trained on; everything in a Context is in the VAE's units. `dtype` is what the encoder computes in; None: as the
    latents come. `style` is the number of a drawing style to follow; None: what the canvas shows. Raises ValueError for
    sizes that do not match, NaN, or an image without a pixel.
    """
    config = transformer.config
    canvas = Canvas.of(image, mask, config.latent_scale, config.patch_size, config.enlarged_from)
    grid = canvas.grid
    hole = hole_rows(canvas.hole, grid, config.window)
    if hole.count == 0:
        return empty_context(canvas, model, hole, config.latent_channels, config.encoder_width)
    fill = canvas.filled()
    latent = encode_image(grid.seen(fill))  # padding is filled like a hole, and seen: what is there is the fill
    boxes = windows_around(hole, grid, config.window)
    latents, masks = (x.to(device=device, dtype=dtype) for x in (to_model(latent), latent_mask(canvas.hole, grid)))
    tokens, negative_offset = read_holes(transformer, latents, masks, hole.to(device), grid, boxes, style)
    view = view_of(hole, grid, boxes) if boxes else None
    context = Context(
        model, grid, canvas.image, canvas.hole, latent.cpu(), hole, tokens, view=view, negative_offset=negative_offset
    )
    if transformer.matte is not None:
        context = context.with_(texture=texture_of(canvas.image, canvas.hole, grid.crop(fill)))
    return with_soft_mask(context, canvas.weight)


def empty_context(canvas: Canvas, model: str, hole: HoleTokens, channels: int, width: int) -> Context:
    """Make the context of a canvas on which nothing is to be done; nothing is encoded."""
    latent = canvas.image.new_zeros(len(canvas.image), channels, *canvas.grid.latent_size)
    tokens = canvas.image.new_zeros(len(hole.index), 0, width)
    return Context(model, canvas.grid, canvas.image, canvas.hole, latent, hole, tokens)


def read_holes(
    transformer: LazyTransformer,
    latent: Tensor,
    mask: Tensor,
    hole: HoleTokens,
    grid: Grid,
    boxes: list[Box],
    style: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Canvas latent [B, C, h, w], mask [B, 1, h, w] -> context [R, K, E] and `Context.negative_offset` [R, E] of each
    hole, on the CPU.

    Each row is read through its own of `boxes` (`windows_around`), all of one size in one call. Another hole in its
    window is no hole to it, but what the canvas's smooth fill shows there: models are trained with one hole, and draw
    what was asked for half as often beside a second one.
    """
    boxes = boxes or [Box(0, 0, grid.rows, grid.cols)] * len(hole.index)
    same_size: dict[tuple[int, int], list[int]] = {}
    for row, box in enumerate(boxes):
        same_size.setdefault(box.size, []).append(row)
    read: dict[int, tuple[Tensor, Tensor | None]] = {}
    for rows in same_size.values():
        windows, images = [boxes[row] for row in rows], hole.owners[rows].tolist()
        window_grid = windows[0].grid(grid)
        in_window = HoleTokens(hole.index[rows], hole.valid[rows], hole.total).within(grid.cols, windows)
        cells = [box.times(grid.patch) for box in windows]
        canvas, masked = (
            torch.cat([box.cut(x[i : i + 1]) for box, i in zip(cells, images, strict=True)]) for x in (latent, mask)
        )
        masked = masked * in_window.cells(window_grid.cols, grid.patch).to(masked)
        coordinates = grid_coordinates(window_grid, transformer.config, latent.device)
        encoded = transformer.context_encoder(canvas, masked, in_window, coordinates, style)
        offsets = encoded.negative_offset if encoded.negative_offset is not None else [None] * len(rows)
        read.update(zip(rows, zip(encoded.tokens, offsets, strict=True), strict=True))
    tokens = torch.stack([read[row][0] for row in range(len(boxes))]).float().cpu()
    offsets = [offset for row in range(len(boxes)) if (offset := read[row][1]) is not None]
    return tokens, torch.stack(offsets).float().cpu() if offsets else None


def view_of(hole: HoleTokens, grid: Grid, boxes: list[Box]) -> View:
    """What `boxes` (one for each row, none of them empty) show, as one grid that is as large as the largest of them."""
    height, width = max(box.height for box in boxes), max(box.width for box in boxes)
    sizes = None if len({box.size for box in boxes}) == 1 else torch.tensor([box.size for box in boxes])
    return View(Box(0, 0, height, width).grid(grid), hole.within(grid.cols, boxes, width).index, sizes)


def tokens_read(config: LazyConfig, mask: Tensor, images: int) -> int:
    """How many tokens the context encoder reads for a batch of `images` under masks [M, H, W]: its memory follows
    them.
    """
    grid = Grid(mask.shape[-2], mask.shape[-1], config.latent_scale, config.patch_size)
    pixels = holes_of(mask)[0]
    grid = replace(grid, downscale=downscale_for(pixels, config.enlarged_from))
    hole = hole_rows(pixels, grid, config.window)
    boxes = windows_around(hole, grid, config.window)
    count = sum(box.area for box in boxes) if boxes else len(hole.index) * grid.tokens
    return count * (images if len(mask) == 1 else 1)


@torch.inference_mode()
def encode_canvas(
    encode_image: EncodeImage,
    image: Tensor,
    mask: Tensor,
    model: str,
    scale: int,
    patch: int,
    channels: int,
    reuse: Reuse = "balanced",
    fill: bool = False,
    kv_dtype: KVDtype = "model",
) -> Context:
    """`encode_context` for a stock transformer: no encoder runs, as visible tokens take part in the steps themselves
    (`kv.policy`).

    `scale` px make a latent's side, `patch` latents a token's. With `fill` the canvas is encoded a second time with its
    hole mid-grey, as inpainting models want to see it. `reuse` and `kv_dtype` are for its steps (`StockTerms`). Raises
    ValueError like `encode_context`.
    """
    canvas = Canvas.of(image, mask, scale, patch)
    hole = HoleTokens.of(hole_token_mask(canvas.hole, canvas.grid))
    if hole.count == 0:
        return empty_context(canvas, model, hole, channels, 0).with_(stock=StockTerms(reuse, kv_dtype))
    latent = encode_image(canvas.filled()).cpu()
    masked = encode_image(canvas.greyed()).cpu() if fill else None
    tokens = canvas.image.new_zeros(len(canvas.image), hole.count, 0)
    context = Context(
        model, canvas.grid, canvas.image, canvas.hole, latent, hole, tokens, stock=StockTerms(reuse, kv_dtype, masked)
    )
    return with_soft_mask(context, canvas.weight)


def with_soft_mask(context: Context, weight: Tensor | None) -> Context:
    """The context with the weight [B, H, W] of a soft mask; None: as it is."""
    if weight is None:
        return context
    return context.with_(weight=weight, strength=token_strength(weight, context.hole, context.grid))


@torch.inference_mode()
def lazy_decode(
    context: Context,
    sample: Sample,
    encode_image: EncodeImage,
    decode_image: DecodeImage,
    seed: Seeds,
    denoise: float = 1.0,
    blend: Blend = "feather",
    decode_hole: DecodeHole | None = None,
    matte: Matte | None = None,
    nothing: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Fill the hole: -> (image [B, 3, H, W] in 0..1, latent [B, C, h, w] of the edited canvas).

    Denoising starts from noise, from the sketch, or, for `denoise` < 1, from what the hole showed before. Tokens of a
    soft mask start from the canvas. With an empty mask, or `denoise` 0 and no sketch, the image comes back as it is.
    With `decode_hole` the VAE decodes the neighbourhood of the hole, and nothing else. `seed`: one for the batch, whose
    images then have noise of their own, or one for each image, which is then what it is by itself. `matte`, where the
    context has a `texture`: this takes the place of what was generated beside the object, unless `denoise` or a sketch
    lets the old content in; in the holes `nothing` [R] bool, whose prompt asks for no object, of all of it.
    """
    if len(context.image) == 0:
        return context.image, context.latent
    if context.hole.count == 0 or (denoise <= 0 and context.sketch is None):
        return context.image, encode_image(context.grid.pad(context.image))
    noise, old = hole_noise(context, seed), old_share(context, denoise)
    from_noise = context.sketch is None and denoise >= 1
    if context.sketch is not None:
        start, denoise = context.sketch.tokens, denoise * (1 - context.sketch.strength)
    elif denoise < 1:
        start = context.hole.cut(encode_image(context.grid.seen(context.grid.pad(context.image))), context.grid.patch)
    elif context.strength is not None:
        start = soft_start(context, encode_image)
    else:
        start = torch.zeros_like(noise)
    tokens = sample(noise, start, denoise) if denoise > 0 else start
    latent = fill_hole(context, tokens)
    grid = context.grid
    if decode_hole is not None:
        touched = latent_mask(context.mask, grid)[:, 0] > 0
        decoded = decode_hole(latent, grid.seen(grid.pad(context.image)), touched)
    else:
        decoded = decode_image(latent)
    pixels = grid.crop(enlarged(decoded, context.mask, grid)).to(context.image)
    if old is not None:
        pixels = with_detail(pixels, context.image, context.mask, old, grid)
    if matte is not None and context.texture is not None and from_noise:
        emptied = None if nothing is None else pixels_of(context.hole, nothing, context.grid, len(context.image))
        seen = partial(seen_smaller, matte, grid.downscale)
        pixels = on_texture(context.image, pixels, context.mask, context.texture, seen, emptied)
    return composite(context.image, pixels, context.mask, blend, weight=context.weight, old=old), latent


def old_share(context: Context, denoise: float) -> Tensor | None:
    """Return the share of the hole's old content in what `feather` fades into [B, H, W]; None: nothing of it.

    As much as sampling starts from: none at full denoising, and none where a sketch lies over it.
    """
    sketch = context.sketch
    left = 1 - denoise * (1 - sketch.strength if sketch is not None else 1)
    if left <= 0 or (sketch is not None and sketch.where is None):
        return None
    share = torch.full((), left).expand(context.mask.shape)
    return share if sketch is None or sketch.where is None else torch.where(sketch.where, 0.0, share)


def soft_start(context: Context, encode_image: EncodeImage) -> Tensor:
    """Encode what tokens of a soft mask are until they take part -> [B, K, C p p].

    The canvas, with the smooth fill as far as the mask's weight goes; zeros where all of a token is to go.
    """
    assert context.weight is not None and context.strength is not None
    kept = prefill(context.image, context.mask)
    for image, filled, weight, hole in zip(context.image, kept, context.weight, context.mask, strict=True):
        for box in boxes_of(hole):
            before, after, share = (box.cut(x) for x in (image, filled, weight.to(image)))
            after.copy_(torch.lerp(before, after, share))
    start = context.hole.cut(encode_image(context.grid.seen(context.grid.pad(kept))), context.grid.patch)
    return start * (context.strength < 1)[..., None].to(start)


def fill_hole(context: Context, tokens: Tensor) -> Tensor:
    """Hole tokens [R, K, C p p] scattered into the canvas's latent [B, C, h, w]."""
    return context.hole.scatter(tokens, context.latent, context.grid.patch)


def grid_noise(context: Context, seed: Seeds) -> Tensor:
    """Standard normal noise [B, C, h, w] for the whole grid."""
    if isinstance(seed, int):
        return torch.randn(context.latent.shape, generator=torch.Generator("cpu").manual_seed(seed))
    shape = context.latent.shape[1:]
    if len(seed) != len(context.latent):
        raise ValueError(
            f"{len(seed)} seeds came for {len(context.latent)} images, expected one seed, or one for each."
        )
    return torch.stack([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(each)) for each in seed])


def hole_noise(context: Context, seed: Seeds) -> Tensor:
    """Noise [R, K, C p p], drawn for the whole grid and then gathered: a grown mask leaves old tokens' noise as it
    was.
    """
    return context.hole.cut(grid_noise(context, seed), context.grid.patch)


def hole_coordinates(context: Context, transformer: LazyTransformer) -> Tensor:
    """Coordinates [R, K, 2] of the hole's tokens in what the encoder read."""
    seen = context.seen
    return window_coordinates(seen.grid, seen.index, transformer.config, seen.sizes)
