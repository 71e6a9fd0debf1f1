"""What the nodes refuse by themselves, whatever the host lets through: called in this process, with the values as they
come.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from host_graphs import Lazy, box_mask, image_of, mask_of, random_canvas

HEIGHT, WIDTH = 48, 64
CANVAS = image_of(random_canvas(np.random.default_rng(12), HEIGHT, WIDTH))
HOLE = mask_of(box_mask(HEIGHT, WIDTH, 10, 10, 40, 40))
NAN = float("nan")
VAE_SAYS = r"VAE .*expected.* Connect the VAE"
CONTEXT_SAYS = r"context is .*, expected .* Connect .*Encode Context"


@pytest.fixture(scope="module")
def context(lazy: Lazy) -> Any:
    return lazy.encode(CANVAS, HOLE)[0]


def batch(tensor: Tensor, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape[1:])


ENCODE: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, r"model is null, expected a MODEL\. Connect"),
    ({"vae": None}, VAE_SAYS),
    ({"mask": HOLE[:, :40]}, r"mask is 64 x 40 px, expected .*64 x 48\. Resize the mask"),
    ({"mask": HOLE * NAN}, "mask holds NaN.* Check the node that made it"),
    ({"image": CANVAS * NAN}, "image holds NaN.* Check the node that made it"),
    ({"image": batch(CANVAS, 2), "mask": batch(HOLE, 3)}, "3 masks came with 2 images, expected one mask"),
    (
        {"image": CANVAS[..., :1]},
        r"image has shape \(1, 48, 64, 1\), expected \[batch, height, width, 3\]\. Convert it to RGB",
    ),
    ({"image": CANVAS[0]}, r"image has shape \(48, 64, 3\), expected \[batch, height, width, 3\]"),
    ({"image": CANVAS[:, :0], "mask": HOLE[:, :0]}, r"image is 64 x 0 px, expected at least one pixel"),
]


@pytest.mark.parametrize(("inputs", "says"), ENCODE, ids=[" ".join(inputs) for inputs, _ in ENCODE])
def test_encode_context_refuses(lazy: Lazy, inputs: dict[str, Any], says: str):
    given: dict[str, Any] = {"image": CANVAS, "mask": HOLE, **inputs}
    with pytest.raises(ValueError, match=says):
        lazy.encode(**given)


DECODE: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, r"model is null, expected a MODEL\. Connect"),
    ({"vae": None}, VAE_SAYS),
    ({"context": None}, CONTEXT_SAYS),
    ({"context": {"steps": 20}}, CONTEXT_SAYS),
    ({"steps": -3}, "steps is -3, expected at least 1"),
    ({"scheduler": "kl_optimal", "steps": 1}, "NaN.*kl_optimal.*1 step.* Choose"),  # the host's own division by zero
    ({"blend": "glue"}, "blend is 'glue', expected one of auto, none, feather, poisson"),
    ({"positive": [[torch.zeros(1, 77, 768), {}]]}, "positive .*768 .*expected 256.* CLIP .*Load Lazy Model"),
    ({"negative": [[torch.zeros(1, 77, 768), {}]]}, "negative .*768 .*expected 256.* CLIP .*Load Lazy Model"),
]


@pytest.mark.parametrize(("inputs", "says"), DECODE, ids=[" ".join(inputs) for inputs, _ in DECODE])
def test_lazy_decode_refuses(lazy: Lazy, context: Any, inputs: dict[str, Any], says: str):
    given: dict[str, Any] = {"context": context, **inputs}
    with pytest.raises(ValueError, match=says):
        lazy.decode(**given)


SKETCH: list[tuple[dict[str, Any], str]] = [
    ({"vae": None}, VAE_SAYS),
    ({"context": None}, CONTEXT_SAYS),
    ({"strength": -0.1}, r"strength is -0\.1, expected a number from 0 to 1"),
    ({"strength": 1.5}, r"strength is 1\.5, expected a number from 0 to 1"),
    ({"strength": NAN}, "strength is NaN, expected a number from 0 to 1"),
    ({"sketch": CANVAS * NAN}, "sketch holds NaN.* Check the node that made it"),
    ({"sketch": CANVAS[:, :40]}, r"sketch is 64 x 40 px, expected .*64 x 48\. Resize the sketch"),
    ({"sketch_mask": HOLE[:, :40]}, r"sketch mask is 64 x 40 px, expected .*64 x 48\. Resize the sketch mask"),
    ({"kind": "edges", "sketch": CANVAS[:, :40]}, r"sketch is 64 x 40 px, expected .*64 x 48\. Resize the sketch"),
    ({"sketch": batch(CANVAS, 2)}, "2 sketches .*3 images.*expected one"),
    ({"sketch_mask": batch(HOLE, 2)}, "2 sketch masks .*3 images.*expected one"),
]


@pytest.mark.parametrize(("inputs", "says"), SKETCH, ids=[" ".join(inputs) for inputs, _ in SKETCH])
def test_sketch_condition_refuses(lazy: Lazy, inputs: dict[str, Any], says: str):
    three, _ = lazy.encode(batch(CANVAS, 3), HOLE)
    given: dict[str, Any] = {"context": three, "vae": lazy.vae, "sketch": CANVAS, "strength": 0.5, **inputs}
    with pytest.raises(ValueError, match=says):
        lazy.call("LazySketchCondition", **given)


def test_ksampler_says_what_to_use_instead(lazy: Lazy):
    with (
        torch.inference_mode(),
        pytest.raises(ValueError, match=r"without a CONTEXT\. Use the Lazy Decode node instead of KSampler"),
    ):
        latent = {"samples": torch.zeros(1, 8, 8, 8)}
        lazy.stock.KSampler().sample(
            lazy.model, 1, 2, 3.0, "euler", "simple", lazy.text("panda"), lazy.negative, latent
        )


def test_what_was_refused_leaves_no_trace(lazy: Lazy, context: Any):
    """Errors neither count as runs of the encoder nor change what comes after."""
    before, runs = lazy.decode(context)[0], lazy.encode(CANVAS, HOLE)[1]["encoder_runs"]
    for bad in (CANVAS * NAN, CANVAS[0]):
        with pytest.raises(ValueError, match="image"):
            lazy.encode(bad, HOLE)
    told = lazy.encode(CANVAS, HOLE)[1]
    assert (told["encoder_ran"], told["encoder_runs"]) == (False, runs)
    assert torch.equal(lazy.decode(context)[0], before)


@pytest.mark.parametrize(("version", "known"), [("0.3.75", True), ("0.99.0", False)])
def test_the_log_names_the_versions(
    lazy: Lazy, version: str, known: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    host = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.version")
    monkeypatch.setattr(host.comfyui_version, "__version__", version)
    with caplog.at_level("INFO"):
        host.report_version()
    assert f"ComfyUI {version}; tested with " in caplog.text
    assert ("This one was not" not in caplog.text) == known
