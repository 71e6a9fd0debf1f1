"""`exact` on stock models equals the host's own sampling of the whole canvas; so does a sparse step on keys and values
of its own step.
"""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_edits import SEED, STEPS, canvas_and_holes, filling, hole_of, host_run
from stock_models import STOCK, AverageVAE, conditioning, make_stock, vae_of

SIZES = {"square": (320, 320), "wide": (256, 448)}  # the host's PixArt divides by zero below 256 px


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("name", STOCK)
def test_exact_equals_the_hosts_own_run(lazy: Lazy, name: str, cfg: float, size: str):
    model, vae = make_stock(name), vae_of(name)
    image, mask = canvas_and_holes(*SIZES[size])
    context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse="exact")
    positive, negative = conditioning(name, 3), conditioning(name, 4)
    given = {"model": model, "vae": vae, "positive": positive, "negative": negative}
    _, latent = lazy.decode(context, **given, seed=SEED, steps=STEPS, cfg=cfg)
    fill = filling(context, positive)
    expected = host_run(make_stock(name), context, positive, negative, cfg, fill)
    error = (hole_of(latent, context) - hole_of(expected, context)).abs().max() / hole_of(expected, context).abs().max()
    print(f"{name}, {size}, cfg {cfg}: {context.hole.count} of {context.hole.total} tokens, relative error {error:.1e}")
    assert error < 1e-5


@pytest.mark.parametrize("name", STOCK)
def test_a_sparse_step_on_its_own_steps_keys_and_values_is_exact(
    lazy: Lazy, name: str, monkeypatch: pytest.MonkeyPatch
):
    """Every step is computed twice, in full for what it keeps and then sparsely: the sparse answer is the one that is
    used.
    """
    stock = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.run")
    counted = {"full": 0, "sparse": 0}

    def sparse_after_full(self: Any, x: Tensor, t: Tensor, call: Any) -> Tensor:
        around = self.run_full(x, t, call)
        counted["full"] += 1
        out = self.run_sparse(x, t, torch.zeros_like(around), call)
        counted["sparse"] += 1
        return torch.where(self.canvas.hole.repeat(len(x) // len(self.canvas.hole), *[1] * (x.dim() - 1)), out, around)

    monkeypatch.setattr(stock.Run, "step", sparse_after_full)
    model, vae = make_stock(name), vae_of(name)
    image, mask = canvas_and_holes(*SIZES["wide"])
    context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse="fast")
    positive, negative = conditioning(name, 3), conditioning(name, 4)
    given = {"model": model, "vae": vae, "positive": positive, "negative": negative}
    _, latent = lazy.decode(context, **given, seed=SEED, steps=STEPS, cfg=4.0)
    fill = filling(context, positive)
    expected = host_run(make_stock(name), context, positive, negative, 4.0, fill)
    error = (hole_of(latent, context) - hole_of(expected, context)).abs().max() / hole_of(expected, context).abs().max()
    print(f"{name}: sparse steps on {context.hole.count} of {context.hole.total} tokens, relative error {error:.1e}")
    assert counted["sparse"] == counted["full"] > 0
    assert error < 2e-6, "what the README says"


@pytest.mark.parametrize(
    ("name", "shift", "guidance"), [("flux-fill", None, 30.0), ("z-image", 5.0, None), ("qwen-image", 5.0, None)]
)
def test_exact_with_the_stock_nodes_of_the_shipped_workflows(
    lazy: Lazy, name: str, shift: float | None, guidance: float | None
):
    """Other noise levels by ModelSamplingAuraFlow, guidance, no negative prompt."""
    import node_helpers
    from comfy_extras.nodes_model_advanced import ModelSamplingAuraFlow

    model, other = make_stock(name), make_stock(name)
    if shift is not None:
        model, other = (ModelSamplingAuraFlow().patch_aura(each, shift)[0] for each in (model, other))
    positive = conditioning(name, 3)
    if guidance is not None:
        positive = node_helpers.conditioning_set_values(positive, {"guidance": guidance})
    negative = [[torch.zeros_like(text), values] for text, values in conditioning(name, 3)]
    image, mask = canvas_and_holes(*SIZES["wide"])
    context, _ = lazy.encode(image, mask, model=model, vae=vae_of(name), reuse="exact")
    given = {"model": model, "vae": vae_of(name), "positive": positive, "negative": negative}
    _, latent = lazy.decode(context, **given, seed=SEED, steps=STEPS, cfg=2.5)
    fill = (
        {}
        if context.stock.masked is None
        else {
            "concat_latent_image": context.stock.masked,
            "concat_mask": context.grid.pad(context.mask[:, None].float()),
        }
    )
    expected = hole_of(host_run(other, context, positive, negative, 2.5, fill), context)
    assert (hole_of(latent, context) - expected).abs().max() < 1e-4 * expected.abs().max()
    plain = hole_of(host_run(make_stock(name), context, conditioning(name, 3), negative, 2.5, fill), context)
    assert (plain - expected).abs().max() > 1e-3 * expected.abs().max()


def test_of_a_vae_with_alpha_an_edit_takes_the_colours(lazy: Lazy):
    image, mask = canvas_and_holes(*SIZES["wide"])
    made = []
    for alpha in (False, True):
        model, vae = make_stock("flux"), AverageVAE(STOCK["flux"].channels, STOCK["flux"].scale, alpha)
        context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse="fast")
        given = {"model": model, "vae": vae, "positive": conditioning("flux", 3), "negative": conditioning("flux", 4)}
        made.append(lazy.decode(context, **given, seed=SEED, steps=STEPS, cfg=1.0)[0])
    assert made[0].shape[-1] == 3
    assert torch.equal(*made)
