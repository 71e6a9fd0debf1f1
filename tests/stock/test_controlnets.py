"""ControlNets in lazy steps: what they add to the hole's tokens is what the host's own run adds, at each step's own
noise level and at those of passes to come.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from host_graphs import Lazy
from stock_models import FLUX, MMDIT, QWEN, STOCK, AverageVAE, OfFilms, make_stock, newer_settings
from stock_pairs import EXACT, SIZE, edit, error, host_run, own_steps, two_canvases, two_prompts


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def controlnet(network: torch.nn.Module, latent_format: Any, **more: Any) -> Any:
    """With random weights, as the host's loaders make it of InstantX's files."""
    import comfy.controlnet

    generator = torch.Generator().manual_seed(7)
    for parameter in [*network.parameters(), *network.buffers()]:
        if parameter.is_floating_point():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    vars(network)["dtype"] = torch.float32
    return comfy.controlnet.ControlNet(
        network, compression_ratio=1, latent_format=latent_format, load_device=torch.device("cpu"), **more
    )


def flux() -> Any:
    import comfy.latent_formats
    import comfy.ldm.flux.controlnet
    import comfy.ops

    network = comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True,
        control_latent_channels=16,
        operations=comfy.ops.manual_cast,
        **FLUX,
        **newer_settings(STOCK["flux"]),
    )
    return controlnet(network, comfy.latent_formats.Flux(), extra_conds=["y", "guidance"])


def qwen(inpaint: bool) -> Any:
    import comfy.latent_formats
    import comfy.ldm.qwen_image.controlnet
    import comfy.ops

    network = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(
        extra_condition_channels=4 * inpaint, operations=comfy.ops.manual_cast, **QWEN
    )
    return controlnet(network, comfy.latent_formats.Wan21(), extra_conds=[], concat_mask=inpaint)


def sd3() -> Any:
    import comfy.cldm.mmdit
    import comfy.latent_formats
    import comfy.ops

    network = comfy.cldm.mmdit.ControlNet(
        num_blocks=1, control_latent_channels=16, operations=comfy.ops.manual_cast, **MMDIT
    )
    return controlnet(network, comfy.latent_formats.SD3())


KINDS: dict[str, tuple[str, Callable[[], Any], dict[str, Any]]] = {
    "Flux": ("flux", flux, {}),
    "Flux, the first half": ("flux", flux, {"timestep_percent_range": (0.0, 0.5)}),
    "Qwen-Image": ("qwen-image", lambda: qwen(False), {}),
    "Qwen-Image, inpainting": ("qwen-image", lambda: qwen(True), {}),
    "Qwen-Image beside a reference": ("qwen-image-edit", lambda: qwen(False), {}),
    "SD3": ("sd3", sd3, {}),
}


def prompt_with(kind: str) -> tuple[str, list]:
    """The stock model, and its positive prompt with a ControlNet on it that serves the negative one, too."""
    name, make, more = KINDS[kind]
    vae = (OfFilms if name.startswith("qwen") else AverageVAE)(STOCK[name].channels, STOCK[name].scale)
    small = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    control = make()
    mask = [1 - two_canvases()[1][:1, None]] * control.concat_mask
    control.set_cond_hint(F.interpolate(small, size=SIZE), 0.8, vae=vae, extra_concat=mask, **more)
    (text, values), *_ = two_prompts(name, 3)
    return name, [[text, {**values, "control": control, "control_apply_to_uncond": True}]]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_the_hole_follow_a_controlnet(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    """Two images with holes and prompts of their own, CFG 4, keys and values of each step's own level."""
    name, positive = prompt_with(kind)
    with monkeypatch.context() as patch:
        own_steps(lazy, patch)
        context, latent, _ = edit(lazy, name, make_stock(name), "fast", positive=positive)
    expected = host_run(make_stock(name), name, context, 4.0, "euler", positive)
    plain = host_run(make_stock(name), name, context, 4.0, "euler")
    far, without = error(latent, expected, context), error(plain, expected, context)
    print(f"{kind}: {far:.1e}; without the ControlNet {without:.2f}")
    assert far < EXACT
    assert without > 0.003, "a test that it does something"
    assert "get_control" not in vars(positive[0][1]["control"])


@pytest.mark.parametrize("kind", ["Flux", "Flux, the first half", "Qwen-Image"])
def test_passes_to_come_ask_it_at_their_own_noise_level(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    """Each pass over all tokens gets what the ControlNet adds at that pass's noise level; `balanced` is near."""
    name, positive = prompt_with(kind)
    runs = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.run")
    control, asked, used = positive[0][1]["control"], {}, []
    get, full = type(control).get_control, runs.Run.run_full

    def get_control(self: Any, x: Tensor, t: Tensor, *args: Any) -> Any:
        result = get(self, x, t, *args)
        asked[id(result)] = (result, float(t[0]))  # kept, or its id would be another's
        return result

    def run_full(self: Any, x: Tensor, t: Tensor, call: Any, later: bool = False) -> Tensor:
        used.append((float(t[0]), asked[id(call.control)][1] if call.control is not None else None))
        return full(self, x, t, call, later)

    with monkeypatch.context() as patch:
        patch.setattr(type(control), "get_control", get_control)
        patch.setattr(runs.Run, "run_full", run_full)
        context, latent, _ = edit(lazy, name, make_stock(name), "balanced", positive=positive, steps=20)
    assert len(used) > 1 and all(level in (None, sigma) for sigma, level in used)
    assert ("half" in kind) == any(level is None for _, level in used)
    _, expected, _ = edit(lazy, name, make_stock(name), "exact", positive=positive, steps=20)
    assert 0 < error(latent, expected, context) < 0.15


def test_what_is_not_made_of_tokens_is_refused(lazy: Lazy):
    nets = importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.controlnets")
    policy = importlib.import_module(f"{lazy.pack.__name__}.lazy_core.kv.policy")
    hole = policy.HoleInLatent(torch.tensor([3, 5]), 4, 4, 2)
    added = torch.randn(4, 16, 8)
    given = {"input": [added, None], "output": []}
    assert nets.part_of(None, hole, None, 4) is None
    part = nets.part_of(given, hole, [1, 3], 4)
    assert torch.equal(part["input"][0], added[[1, 3]][:, [3, 5]]) and part["input"][1] is None
    for wrong in (torch.zeros(4, 64, 8, 8), torch.zeros(4, 15, 8)):
        with pytest.raises(ValueError, match=r"a ControlNet adds .* expected 16 tokens.*Set reuse to exact"):
            nets.part_of({"input": [wrong]}, hole, None, 4)


# -- what a run sees of ControlNets
# -------------------------------------------------------------------------------------
class Counting:
    """A ControlNet that counts its steps and, as those of some packs, has its `get_control` on the object."""

    def __init__(self, name: str, inner: Any = None, own: bool = False):
        self.name, self.previous_controlnet, self.steps, self.seen = name, inner, 0, []
        if own:
            self.get_control = self.other

    def other(self, x_noisy: Any, t: Any, cond: Any, count: int, options: Any) -> str:
        self.steps += 1
        self.seen.append(options["sigmas"])
        inner = self.previous_controlnet
        return self.name + (inner.get_control(x_noisy, t, cond, count, options) if inner else "")

    get_control: Any = other


def watching(lazy: Lazy) -> Any:
    return importlib.import_module(f"{lazy.pack.__name__}.nodes.stock.controlnets").ControlNets()


@pytest.mark.parametrize("own", [False, True])
def test_of_a_chain_the_outermost_is_asked_again_and_nothing_stays(lazy: Lazy, own: bool):
    inner = Counting("a", own=own)
    outer, nets = Counting("b", inner, own), watching(lazy)
    before = [dict(vars(each)) for each in (inner, outer)]
    with nets.watched([["text", {"control": outer}], ["text", {"control": inner}], ["text", {}]]):
        given = outer.get_control(x_noisy=1, t=2, cond={}, count=2, options={"sigmas": 2})
        compute = nets.take(given)
        steps = inner.steps, outer.steps
        assert given == compute(1, 0.5) == "ba"
        assert inner.seen == outer.seen == [2, 0.5], "asked with the pass's own noise level"
        assert (inner.steps, outer.steps) == steps, "and as if nobody had asked"
        assert nets.compute is None, "what is asked within is no call's"
        assert inner.get_control(1, 2, {}, 2, {"sigmas": 2}) == nets.take("a")(1, 2) == "a"
    for each, was in zip((inner, outer), before, strict=True):
        assert vars(each).get("get_control") == was.get("get_control")
        assert ("get_control" in vars(each)) == own


def test_a_run_that_fails_leaves_no_watch_behind(lazy: Lazy):
    control, nets = Counting("a"), watching(lazy)
    with pytest.raises(RuntimeError), nets.watched([["text", {"control": control}]]):
        raise RuntimeError
    assert "get_control" not in vars(control)


def test_control_that_nobody_saw_is_an_error_and_not_a_wrong_picture(lazy: Lazy):
    nets = watching(lazy)
    assert nets.take(None) is None
    with pytest.raises(ValueError, match=r"a ControlNet that is in no prompt.*Set reuse to exact"):
        nets.take({"input": []})
