"""Soft masks.

Blended by their weight; their tokens take part later, as with the host's Differential Diffusion; all else stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import TOKEN, Lazy, image_of, random_canvas
from stock_models import conditioning, make_stock, vae_of

LEVELS = 8


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def canvas(seed: int, height: int, width: int) -> Tensor:
    return image_of(random_canvas(np.random.default_rng(seed), height, width))


def blurred(mask: Tensor, sigma: float) -> Tensor:
    """As the host's nodes blur: [1, H, W] with a Gaussian, tails and all."""
    x = torch.arange(-4 * int(sigma), 4 * int(sigma) + 1)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for turn in (kernel, kernel.movedim(-1, -2)):
        mask = torch.nn.functional.conv2d(
            mask[None].float(), turn, padding=tuple(side // 2 for side in turn.shape[-2:])
        )[0]
    return mask


def stripes(height: int, width: int) -> Tensor:
    """A full canvas in eight strengths, 1/8 to 1, in columns of tokens."""
    return ((torch.arange(width) * LEVELS // width + 1) / LEVELS).expand(1, height, width).clone()


def differential(model: Any) -> Any:
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    return DifferentialDiffusion.execute(model).args[0]


def columns(latent: Tensor) -> list[Tensor]:
    return list(latent.chunk(LEVELS, -1))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun"])
def test_eight_strengths_as_the_host_s_differential_diffusion(lazy: Lazy, sampler: str):
    """The host's sampler with its own node on the whole strip of tokens.

    Ours without it, and ours under it, are the same.
    """
    import comfy.sample

    host, side = lazy.pack.nodes.host.conditioning, LEVELS * TOKEN
    image, mask = canvas(1, 2 * TOKEN, side), stripes(2 * TOKEN, side)
    context, _ = lazy.encode(image, mask)
    assert sorted(set(context.strength.flatten().tolist())) == [(i + 1) / LEVELS for i in range(LEVELS)]
    _, ours = lazy.decode(context, steps=16, sampler_name=sampler, seed=5)
    _, under_theirs = lazy.decode(context, steps=16, sampler_name=sampler, seed=5, model=differential(lazy.model))
    pipeline, tokens = lazy.core("pipeline"), lazy.core("tokens")
    start = pipeline.soft_start(context, lazy.pack.nodes.host.vae.canvas_encoder(lazy.vae))
    conds = [
        host.with_context(each, context, t, None)
        for each, t in ((lazy.text("panda"), context.tokens), (lazy.negative, context.negative_tokens))
    ]
    strips = [tokens.to_strip(x, 2) for x in (pipeline.hole_noise(context, 5), start)]
    noise_mask = tokens.to_strip(context.strength[..., None].repeat(1, 1, 4), 2)
    model = differential(lazy.model)
    out = comfy.sample.sample(
        model,
        strips[0],
        16,
        3.0,
        sampler,
        "simple",
        *conds,
        strips[1],
        noise_mask=noise_mask,
        disable_pbar=True,
        seed=5,
    )
    expected = pipeline.fill_hole(context, tokens.from_strip(out, 2))
    assert torch.allclose(ours, expected, atol=1e-4) and torch.allclose(under_theirs, expected, atol=1e-4)
    kept = pipeline.fill_hole(context, start)
    moved = [float((a - b).abs().mean()) for a, b in zip(columns(ours)[:-1], columns(kept)[:-1], strict=True)]
    print(f"{sampler}: latents moved by {moved}")
    assert all(x > 0 for x in moved) and moved[-1] > 2 * moved[0], "the stronger the later it is like the canvas"


@pytest.mark.parametrize("name", ["flux-fill", "pixart", "qwen-image", "z-image"])
def test_stock_models_take_soft_masks(lazy: Lazy, name: str):
    """`exact` under a mask of several strengths is the host's own run of the whole canvas with its Differential
    Diffusion.
    """
    import comfy.sample
    import node_helpers

    height, width, steps = 256, LEVELS * 64, 9  # the host's PixArt divides by zero on smaller canvases
    model, vae, image = make_stock(name), vae_of(name), canvas(2, height, width)
    mask = stripes(height, width).clamp_min(
        3 / LEVELS
    )  # the host leaves out what is weaker than its last step is noisy
    context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse="exact")
    positive, negative = conditioning(name, 3), conditioning(name, 4)
    given = {"model": model, "vae": vae, "positive": positive, "negative": negative}
    _, ours = lazy.decode(context, **given, seed=7, steps=steps, cfg=2.0)
    pipeline = lazy.core("pipeline")
    start = pipeline.soft_start(context, lazy.pack.nodes.host.vae.canvas_encoder(vae))
    start = torch.where((context.strength < 1)[..., None], start, context.hole.cut(context.latent, context.grid.patch))
    latent, scale = pipeline.fill_hole(context, start), context.grid.scale
    noise_mask = context.weight[:, None, ::scale, ::scale]
    timed = model.model.latent_format.latent_dimensions == 3
    latent, noise_mask = (x.unsqueeze(2) if timed else x for x in (latent, noise_mask))
    values: dict[str, Any] = {"width": width, "height": height}
    if context.stock.masked is not None:
        values |= {
            "concat_latent_image": context.stock.masked,
            "concat_mask": context.grid.pad(context.mask[:, None].float()),
        }
    conds = [node_helpers.conditioning_set_values(each, values) for each in (positive, negative)]
    noise = comfy.sample.prepare_noise(latent, 7)
    other = differential(make_stock(name))
    out = comfy.sample.sample(
        other, noise, steps, 2.0, "euler", "simple", *conds, latent, noise_mask=noise_mask, disable_pbar=True, seed=7
    )
    expected = out.squeeze(2) if timed else out
    error = (ours - expected).abs().max() / expected.abs().max()
    print(f"{name}: relative error {error:.1e}")
    assert error < 1e-4


@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_leave_no_token_out(lazy: Lazy, steps: int):
    """With the host's node the weakest tokens never take part in four steps; here all do in the last one."""
    side = LEVELS * TOKEN
    context, _ = lazy.encode(canvas(3, 2 * TOKEN, side), stripes(2 * TOKEN, side))
    _, latent = lazy.decode(context, steps=steps)
    start = lazy.core("pipeline").soft_start(context, lazy.pack.nodes.host.vae.canvas_encoder(lazy.vae))
    kept = lazy.core("pipeline").fill_hole(context, start)
    assert all(
        float((a - b).abs().mean()) > 1e-3 for a, b in zip(columns(latent)[:-1], columns(kept)[:-1], strict=True)
    )


@pytest.mark.parametrize("blend", ["none", "feather", "poisson"])
def test_a_blurred_edge_blends(lazy: Lazy, blend: str):
    """Where the mask is 0 every bit is kept; nowhere does a pixel move by more than its weight; in the middle all of it
    is new.
    """
    image, hard = canvas(4, 96, 112), torch.zeros(1, 96, 112)
    hard[:, 30:70, 30:80] = 1
    mask = blurred(hard, 5)
    context, told = lazy.encode(image, mask)
    assert context.weight is not None and told["messages"] == []
    result, _ = lazy.decode(context, blend=blend)
    floor = lazy.core("masks").FLOOR
    assert torch.equal(result[mask <= floor], image[mask <= floor])
    moved = (result - image).abs().amax(-1)
    assert (moved <= mask + floor + 1e-5).all() and (moved[mask > 0.9] > 0).float().mean() > 0.95


@pytest.mark.parametrize("grey", [0.02, 0.3, 0.49])
def test_grey_below_one_half_acts_weakly(lazy: Lazy, grey: float):
    image, mask = canvas(5, 64, 80), torch.zeros(1, 64, 80)
    mask[:, 10:50, 10:60] = grey
    context, told = lazy.encode(image, mask)
    assert told["hole_tokens"] > 0 and told["encoder_ran"]
    result, _ = lazy.decode(context)
    full, _ = lazy.decode(lazy.encode(image, mask.ceil())[0])
    assert torch.allclose(result, torch.lerp(image, full, mask[..., None]), atol=1e-4), (
        "the same edit, mixed in by so much"
    )


def test_a_blurred_stroke_of_4_px_does_not_vanish(lazy: Lazy):
    image, hard = torch.full((1, 96, 96, 3), 0.72), torch.zeros(1, 96, 96)
    hard[:, 46:50, 8:88] = 1
    image[hard > 0] = 0.04
    mask = blurred(hard, 4)
    assert mask.max() < 0.5
    result = lazy.edit(image, mask, steps=4, prompt="")
    assert (result - image)[:, 46:50, 16:80].abs().mean() > 0.05


def test_hard_masks_are_sampled_as_ever(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    """No noise mask, no function on the model: not one bit can differ."""
    host, asked = lazy.pack.nodes.host.sampling, []
    monkeypatch.setattr(
        host.comfy.sample,
        "sample",
        lambda model, *args, sample=host.comfy.sample.sample, **named: (
            asked.append((model, named["noise_mask"])) or sample(model, *args, **named)
        ),
    )
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:40, 20:40] = 1
    context, _ = lazy.encode(canvas(6, 64, 64), mask)
    lazy.decode(context)
    assert context.weight is None and context.strength is None
    assert asked == [(lazy.model, None)]


def test_pad_image_for_outpainting(lazy: Lazy):
    """The stock node's grey and its feathered mask.

    The same bits whatever it fills with, and the picture far from the edge is kept.
    """
    small = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (80, 80), mode="bilinear").movedim(1, -1)
    padded, mask = lazy.stock.ImagePadForOutpaint().expand_image(small, 0, 0, 64, 0, 24)
    other = torch.where(mask[..., None] >= 1, 0.0, padded)
    for blend in ("none", "feather", "poisson"):
        results = [lazy.edit(each, mask, blend=blend, prompt="") for each in (padded, other)]
        whole = mask[0] >= 1
        assert torch.equal(results[0][:, whole], results[1][:, whole])
        assert torch.equal(results[0][:, :, :56], padded[:, :, :56])
