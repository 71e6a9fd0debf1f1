"""Bad input in a running ComfyUI: the node's error says what is wrong, what came, what was expected and what to do; the
next edit works.
"""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from comfy_client import ComfyClient, Prompt, PromptError, Result
from devtools.graphs import edit_graph, node
from devtools.places import PACK
from devtools.server import Server
from host_files import write_files
from host_graphs import SHIPPED, box_mask, figures, random_canvas, upload

HEIGHT, WIDTH = 80, 96
SEEDS = itertools.count(
    1000
)  # never the same workflow twice: the graph's cache must not answer for a server that is broken
FOREIGN = Path(__file__).parents[1] / "support" / "foreign_pack.py"


# -- the server and its pictures --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def client(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    base = tmp_path_factory.mktemp("errors")
    write_files(base, base / "trapped")
    (base / "custom_nodes").mkdir()
    shutil.copy(FOREIGN, base / "custom_nodes" / FOREIGN.name)
    flags = ("--whitelist-custom-nodes", PACK, FOREIGN.name)
    with Server(host, base, base / "server.log", flags, python=Path(sys.executable)) as running:
        yield ComfyClient(running)
    shutil.rmtree(base / "models")


@pytest.fixture(scope="module")
def canvas() -> np.ndarray:
    return random_canvas(np.random.default_rng(88), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def names(client: ComfyClient, canvas: np.ndarray) -> tuple[str, str]:
    return upload(client, "good", canvas, hole())


@pytest.fixture
def good(client: ComfyClient, names: tuple[str, str], canvas: np.ndarray) -> Iterator[Prompt]:
    """An edit that works, to be spoiled. Afterwards the next edit must work on the same server, with the CONTEXT still
    in its cache.
    """
    before = figures(client.queue(edit_graph(*names, seed=next(SEEDS))), "decode")
    yield edit_graph(*names, seed=next(SEEDS))
    result = client.queue(edit_graph(*names, seed=next(SEEDS)))
    assert figures(result, "decode")["hole_tokens"] == before["hole_tokens"]
    assert "context" not in result.outputs or figures(result, "context")["encoder_ran"] is False
    after, inside = client.images(result, "save")[0], hole()
    assert (after[~inside] == canvas[~inside]).all()
    assert (after[inside] != canvas[inside]).any()


def hole() -> np.ndarray:
    return box_mask(HEIGHT, WIDTH, 20, 30, 50, 61)


def failure(client: ComfyClient, graph: Prompt, where: str) -> str:
    """The text in the page's error box, which must name node `where`."""
    result: Result = client.queue(graph)
    assert result.error is not None, "it was to fail"
    name, event = result.events[-1]
    assert name == "execution_error"
    entry = client.history(result.prompt_id)
    assert entry is not None and entry["status"]["status_str"] == "error"
    assert (event["node_id"], event["node_type"]) == (where, graph[where]["class_type"])
    assert event["exception_message"] == result.error["exception_message"]
    assert "save" not in result.outputs
    return event["exception_message"]


# -- errors that nodes raise -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """`spoil` changes a good workflow; the error box of node `where` says each of `says` (regular expressions), in any
    order.
    """

    name: str
    spoil: Callable[[Prompt], None]
    where: str
    says: tuple[str, ...]


def model_file(name: str, *says: str) -> Case:
    return Case(
        f"{name}.safetensors",
        lambda graph: graph["model"]["inputs"].update(model_name=f"{name}.safetensors"),
        "model",
        says,
    )


def smaller_mask(graph: Prompt) -> None:
    graph["mask"] = node("SolidMask", value=1.0, width=64, height=HEIGHT)


def bad_pixel(value: str) -> Callable[[Prompt], None]:
    def spoil(graph: Prompt) -> None:
        graph["bad"] = node("BadPixel", image=["canvas", 0], value=value)
        graph["context"]["inputs"]["image"] = ["bad", 0]

    return spoil


def foreign_context(graph: Prompt) -> None:
    graph["context"] = node("ForeignContext")


def foreign_context_to_sketch(graph: Prompt) -> None:
    foreign_context(graph)
    add_sketch(graph)


def stock_conditioning(graph: Prompt) -> None:
    graph["positive"] = node("ForeignConditioning")


def other_models_context(graph: Prompt) -> None:
    graph["model 2"] = node("LazyModelLoader", model_name="other.safetensors")
    graph["context"]["inputs"]["model"] = ["model 2", 0]


def stock_model(where: str) -> Callable[[Prompt], None]:
    def spoil(graph: Prompt) -> None:
        graph["stock"] = node("UNETLoader", unet_name="stock.safetensors", weight_dtype="default")
        graph[where]["inputs"]["model"] = ["stock", 0]

    return spoil


def stock_vae(where: str) -> Callable[[Prompt], None]:
    def spoil(graph: Prompt) -> None:
        graph["stock"] = node("VAELoader", vae_name="pixel_space")
        if where == "sketch":
            add_sketch(graph)
        graph[where]["inputs"]["vae"] = ["stock", 0]

    return spoil


def add_sketch(graph: Prompt, **inputs: Any) -> None:
    links = {"context": ["context", 0], "vae": ["model", 2], "sketch": ["canvas", 0], "strength": 0.5}
    graph["sketch"] = node("LazySketchCondition", **{**links, **inputs})
    graph["decode"]["inputs"]["context"] = ["sketch", 0]


def other_sized_sketch(graph: Prompt) -> None:
    graph["small"] = node("EmptyImage", width=64, height=HEIGHT, batch_size=1, color=255)
    add_sketch(graph, sketch=["small", 0])


def other_sized_sketch_mask(graph: Prompt) -> None:
    graph["small"] = node("SolidMask", value=1.0, width=64, height=HEIGHT)
    add_sketch(graph, sketch_mask=["small", 0])


def ksampler(graph: Prompt) -> None:
    graph["latent"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    widgets = {"seed": 1, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
    }
    graph["decode"] = node("KSampler", **widgets, **links)
    graph["image"] = node("VAEDecode", samples=["decode", 0], vae=["model", 2])
    graph["save"]["inputs"]["images"] = ["image", 0]


def area(graph: Prompt) -> None:
    graph["area"] = node(
        "ConditioningSetArea", conditioning=["positive", 0], width=64, height=64, x=0, y=0, strength=1.0
    )
    graph["decode"]["inputs"]["positive"] = ["area", 0]


AGAIN = "(?i)download or copy it again"
CONNECT = "Connect .*Load Lazy Model|Connect .*Encode Context"
CASES = [
    Case("mask of another size", smaller_mask, "context", ("mask", "64 x 80", "expected .*96 x 80", "Resize the mask")),
    Case("NaN", bad_pixel("nan"), "context", ("image holds NaN", "Check the node that made it")),
    Case("infinity", bad_pixel("inf"), "context", ("image holds .*infinite", "Check the node that made it")),
    Case(
        "context of another pack",
        foreign_context,
        "decode",
        ("context is a dict", "another node pack", "expected", "Connect .*Encode Context"),
    ),
    Case(
        "sketch on another pack's",
        foreign_context_to_sketch,
        "sketch",
        ("context is a dict", "expected", "Connect .*Encode Context"),
    ),
    Case(
        "context of another model",
        other_models_context,
        "decode",
        ("CONTEXT", "another model than the one connected", "Encode .*again"),
    ),
    Case(
        "stock CLIP's conditioning",
        stock_conditioning,
        "decode",
        ("positive .*768 wide", "expected 256", "CLIP .*Load Lazy Model"),
    ),
    Case(
        "stock model encodes",
        stock_model("context"),
        "context",
        ("the model is a WAN21", "expected a LazyDiffusion model", CONNECT),
    ),
    Case(
        "stock model decodes",
        stock_model("decode"),
        "decode",
        ("the model is a WAN21", "expected a LazyDiffusion model", CONNECT),
    ),
    Case(
        "stock VAE encodes",
        stock_vae("context"),
        "context",
        ("VAE makes 3 channels at 1/1", "expected 8 at 1/8", CONNECT),
    ),
    Case(
        "stock VAE decodes",
        stock_vae("decode"),
        "decode",
        ("VAE makes 3 channels at 1/1", "expected 8 at 1/8", CONNECT),
    ),
    Case("stock VAE sketches", stock_vae("sketch"), "sketch", ("VAE makes 3 channels", "expected 8", "Connect .*VAE")),
    Case(
        "sketch of another size",
        other_sized_sketch,
        "sketch",
        ("sketch is 64 x 80", "expected .*96 x 80", "Resize the sketch"),
    ),
    Case(
        "sketch mask of another size",
        other_sized_sketch_mask,
        "sketch",
        ("mask is 64 x 80", "expected .*96 x 80", "Resize the sketch mask|Resize"),
    ),
    Case(
        "KSampler",
        ksampler,
        "decode",
        ("LazyDiffusion model", "without a CONTEXT", "Use the Lazy Decode node instead of KSampler"),
    ),
    Case(
        "NaN denoise", lambda graph: widget("denoise", float("nan"))(graph), "decode", ("denoise is NaN", "from 0 to 1")
    ),
    Case("NaN cfg", lambda graph: widget("cfg", float("nan"))(graph), "decode", ("cfg is NaN", "from 0 to 100")),
    Case(
        "NaN prompt weight",
        lambda graph: graph["positive"]["inputs"].update(text="(panda:nan)"),
        "decode",
        ("positive holds NaN", "weights in its prompt"),
    ),
    Case(
        "text for a picture",
        lambda graph: graph["context"]["inputs"].update(image="picture.png"),
        "context",
        (r"image is 'picture\.png'", "expected an IMAGE", "Connect Load Image"),
    ),
    Case("area conditioning", area, "decode", ("conditioning has area", "cannot apply", "Remove that node")),
    model_file("truncated", r"truncated\.safetensors is damaged", AGAIN),
    model_file("cut in its header", r"cut in its header\.safetensors is damaged", AGAIN),
    model_file("cut to a few bytes", r"cut to a few bytes\.safetensors is damaged", AGAIN),
    model_file("empty", r"empty\.safetensors is damaged", AGAIN),
    model_file("picture", r"picture\.safetensors is .*no safetensors file", AGAIN),
    model_file("pickled", r"pickled\.safetensors is .*no safetensors file", AGAIN),
    model_file("stock", r"stock\.safetensors is no LazyDiffusion checkpoint", "Choose the model that ships"),
    model_file("without config", "is no LazyDiffusion checkpoint", "metadata has no", "Choose the model that ships"),
    model_file("of other shapes", "missing .*decoder.blocks.0", "another shape", "expected", AGAIN),
    model_file("malformed config", r"malformed config\.safetensors", "malformed", AGAIN),
    model_file("newer", r"format 99 is newer than this pack's \d", "update"),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input_is_told_and_the_next_edit_works(client: ComfyClient, good: Prompt, case: Case):
    case.spoil(good)
    message = failure(client, good, case.where)
    missing = [pattern for pattern in case.says if not re.search(pattern, message, re.DOTALL)]
    assert not missing, f"{message!r} does not say {missing}"
    assert not (client.server.base / "trapped").exists(), "a pickle was loaded"


def test_the_other_checkpoint_is_a_good_one(client: ComfyClient, good: Prompt, names: tuple[str, str]):
    """So that it was refused above for what it is; its CONTEXT is made anew, not taken from the cache of the shipped
    model's.
    """
    result = client.queue(edit_graph(*names, seed=next(SEEDS), model_name="other.safetensors"))
    assert figures(result, "context")["encoder_ran"] is True


# -- errors that the host answers before a node runs -------------------------------------------------------------------
def strength(value: float) -> Callable[[Prompt], None]:
    return lambda graph: add_sketch(graph, strength=value)


def widget(name: str, value: Any) -> Callable[[Prompt], None]:
    return lambda graph: graph["decode"]["inputs"].update({name: value})


REFUSED = {
    "steps below 0": (widget("steps", -1), "decode", ("steps", "-1", "min", "0")),
    "no steps": (widget("steps", None), "decode", ("steps", "INT")),
    "no blend": (widget("blend", None), "decode", ("blend", "None", "auto", "poisson")),
    "no model": (
        lambda graph: graph["model"]["inputs"].update(model_name=None),
        "model",
        ("model_name", "None", "not in"),
    ),
    "blend left out": (
        lambda graph: graph["decode"]["inputs"].pop("blend"),
        "decode",
        ("Required input is missing", "blend"),
    ),
    "strength above 1": (strength(1.5), "sketch", ("strength", r"1\.5", "max", r"1\.0")),
    "strength below 0": (strength(-0.1), "sketch", ("strength", r"-0\.1", "min", r"0\.0")),
    "denoise above 1": (widget("denoise", 1.1), "decode", ("denoise", r"1\.1", "max", r"1\.0")),
    "unknown sampler": (widget("sampler_name", "magic"), "decode", ("sampler_name", "magic", "not in")),
    "unknown blend": (widget("blend", "glue"), "decode", ("blend", "glue", "none", "feather", "poisson")),
    "pickled checkpoint": (
        lambda graph: graph["model"]["inputs"].update(model_name="pickled.ckpt"),
        "model",
        ("model_name", "pickled.ckpt", "not in"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_host_refuses_and_the_next_edit_works(client: ComfyClient, good: Prompt, name: str):
    spoil, where, says = REFUSED[name]
    spoil(good)
    with pytest.raises(PromptError) as caught:
        client.queue(good)
    errors = caught.value.details["node_errors"][where]["errors"]
    assert len(errors) == 1, "one wrong value marks one input"
    text = " ".join(f"{error['message']} {error['details']}" for error in errors)
    assert [pattern for pattern in says if not re.search(pattern, text)] == [], text


def test_pickled_checkpoints_are_not_offered(client: ComfyClient):
    offered = client.object_info("LazyModelLoader")["LazyModelLoader"]["input"]["required"]["model_name"]
    names = offered[0] if isinstance(offered[0], list) else offered[1]["options"]
    assert {"other.safetensors", SHIPPED.name} <= set(names)
    assert not [name for name in names if not name.endswith(".safetensors")]
