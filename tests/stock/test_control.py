"""The host's control patches on the hole's tokens: DiffSynth's on Qwen-Image, Fun's on Z-Image, with models of random
weights.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_models import STOCK, OfFilms, make_stock, vae_of
from stock_pairs import EXACT, SIZE, edit, error, host_run, own_steps, two_canvases

DEEP = "z-image, deep"  # two control layers go with blocks 0 and 15, and the patch ends a step after the second


@pytest.fixture(autouse=True)
def _inference(monkeypatch: pytest.MonkeyPatch) -> Any:
    few = STOCK["z-image"]
    monkeypatch.setitem(
        STOCK, DEEP, replace(few, transformer={**few.transformer, "n_layers": 16, "n_refiner_layers": 2})
    )
    with torch.inference_mode():
        yield


def picture(seed: int) -> Tensor:
    """[1, H, W, 3]; `SIZE` is that of the canvases."""
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=SIZE).movedim(1, -1)


def loaded(network: torch.nn.Module) -> Any:
    """With random weights, as ModelPatchLoader hands it on."""
    from comfy.model_patcher import ModelPatcher

    for index, parameter in enumerate(network.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)) * 0.2
    return ModelPatcher(network.eval(), torch.device("cpu"), torch.device("cpu"))


def diffsynth(inpaint: bool) -> Callable[[Any], Any]:
    """`inpaint`: with the mask's channels, as its inpainting kind has."""
    import comfy.ops
    from comfy_extras import nodes_model_patch as patches

    network = patches.QwenImageBlockWiseControlNet(
        2, additional_in_dim=4 * inpaint, dim=64, device="cpu", operations=comfy.ops.manual_cast
    )
    control, vae = loaded(network), OfFilms(STOCK["qwen-image"].channels, STOCK["qwen-image"].scale)
    mask = {"mask": two_canvases()[1][:1]} if inpaint else {}
    apply = patches.QwenImageDiffsynthControlnet().diffsynth_controlnet
    return lambda model: apply(model, control, vae, picture(5), 0.8, **mask)[0]


def fun(kind: str) -> Callable[[Any], Any]:
    """`kind`: "layers", its control layers alone; "refiner", from the refiner's layers on; "broken", as some files
    are.
    """
    import comfy.ops
    import comfyui_version
    from comfy_extras import nodes_model_patch as patches

    if not hasattr(patches, "ZImageFunControlnet"):
        pytest.skip(f"ComfyUI {comfyui_version.__version__} has no Z-Image Fun control")
    more = {} if kind == "layers" else {"refiner_control": True, "additional_in_dim": 17, "broken": kind == "broken"}
    network = importlib.import_module("comfy.ldm.lumina.controlnet").ZImage_Control(
        256, 8, 8, 16, n_control_layers=2, qk_norm=True, device="cpu", operations=comfy.ops.manual_cast, **more
    )
    control = loaded(network)
    inpaint = {} if kind == "layers" else {"inpaint_image": picture(6), "mask": two_canvases()[1][:1]}
    apply = patches.ZImageFunControlnet().diffsynth_controlnet
    return lambda model: apply(model, control, vae_of(DEEP), picture(5), 0.8, **inpaint)[0]


KINDS = {
    "DiffSynth": ("qwen-image", lambda: diffsynth(False)),
    "DiffSynth inpainting": ("qwen-image", lambda: diffsynth(True)),
    "DiffSynth beside a reference": ("qwen-image-edit", lambda: diffsynth(False)),
    "Fun": (DEEP, lambda: fun("layers")),
    "Fun with refiner": (DEEP, lambda: fun("refiner")),
    "Fun with refiner, broken": (DEEP, lambda: fun("broken")),
}


@pytest.mark.parametrize("reuse", ["exact", "fast"])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_the_hole_follow_control(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str, reuse: str):
    """Two images with holes and prompts of their own, CFG 4, keys and values of each step's own level."""
    name, made = KINDS[kind]
    put = made()
    with monkeypatch.context() as patch:
        if reuse == "fast":
            own_steps(lazy, patch)
        context, latent, told = edit(lazy, name, put(make_stock(name)), reuse)
    expected = host_run(put(make_stock(name)), name, context, 4.0, "euler")
    plain = host_run(make_stock(name), name, context, 4.0, "euler")
    far, without = error(latent, expected, context), error(plain, expected, context)
    print(f"{kind}, {reuse}: {far:.1e}; without control {without:.2f}")
    assert far < EXACT
    assert without > 0.01, "a test that control does something"
    assert not told["messages"]


@pytest.mark.parametrize("kind", ["DiffSynth", "Fun with refiner"])
def test_between_passes_control_is_followed_nearly(lazy: Lazy, kind: str):
    """As near as without it; and the same MODEL gives KSampler the same bits before and after."""
    name, made = KINDS[kind]
    put = made()
    model, plain = put(make_stock(name)), make_stock(name)
    context, latent, _ = edit(lazy, name, model, "exact", steps=8)
    before = host_run(model, name, context, 4.0, "euler")
    _, nearly, _ = edit(lazy, name, model, "balanced", steps=8)
    _, exact, _ = edit(lazy, name, plain, "exact", steps=8)
    _, without, _ = edit(lazy, name, plain, "balanced", steps=8)
    far, usual = error(nearly, latent, context), error(without, exact, context)
    print(f"{kind}, balanced: {far:.3f}, without control {usual:.3f}")
    assert 0 < far < max(2 * usual, 0.1)
    assert torch.equal(host_run(model, name, context, 4.0, "euler"), before)


def test_a_block_of_control_that_ran_another_number_of_times_is_an_error(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    put = fun("refiner")
    control = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.control")
    model = put(make_stock(DEEP))
    monkeypatch.setattr(control, "strip_of", lambda patch, *_: lambda args: args)
    with pytest.raises(ValueError, match="attention calls of control patches, expected"):
        edit(lazy, DEEP, model, "fast")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("Fun")])
def test_the_host_is_told_the_bytes_that_control_keeps(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    name, made = KINDS[kind]
    edits = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.edit")
    told, held = [], []
    hooked, forget = edits.hooked, edits.Run.forget

    def noted(run: Any) -> None:
        held.append(run.kept.nbytes)
        forget(run)

    monkeypatch.setattr(edits, "hooked", lambda model, run, size: told.append(size) or hooked(model, run, size))
    monkeypatch.setattr(edits.Run, "forget", noted)
    for model in (make_stock(name), made()(make_stock(name))):
        edit(lazy, name, model, "fast", cfg=1.0)
    assert told == held
    assert told[1] > told[0]
