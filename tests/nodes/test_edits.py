"""Edits in a running ComfyUI, as the web page makes them: the encoder runs once, results repeat, progress, previews,
Cancel.
"""

from __future__ import annotations

import copy
import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from comfy_client import ComfyClient, Prompt
from devtools.graphs import decode_node, edit_graph
from devtools.server import Server
from host_graphs import MASKS, box_mask, figures, random_canvas, random_mask, upload

VARIED = [
    {"prompt": "red apple", "seed": 1, "steps": 2, "cfg": 3.0},
    {"prompt": "panda", "seed": 1, "steps": 2, "cfg": 3.0},
    {"prompt": "panda", "seed": 2, "steps": 2, "cfg": 3.0},
    {"prompt": "panda", "seed": 2, "steps": 3, "cfg": 3.0},
    {"prompt": "panda", "seed": 2, "steps": 3, "cfg": 1.0},
    {"prompt": "熊猫", "seed": 2**64 - 1, "steps": 1, "cfg": 7.5},
    {"prompt": "", "negative": "panda", "seed": 0, "steps": 1, "cfg": 3.0},
    {"prompt": "pizza", "seed": 5, "steps": 2, "cfg": 3.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
    {"prompt": "pizza", "seed": 5, "steps": 2, "cfg": 3.0, "denoise": 0.5, "blend": "poisson"},
    {"prompt": "rocket", "seed": 6, "steps": 2, "cfg": 3.0, "blend": "none"},
]


@pytest.fixture(scope="module")
def uncached(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    """A server whose graph cache is off and whose previews are on."""
    folder, flags = tmp_path_factory.mktemp("uncached"), ("--cache-none", "--preview-method", "latent2rgb")
    with Server(host, folder, folder / "server.log", flags, python=Path(sys.executable)) as running:
        yield ComfyClient(running)


@pytest.fixture(params=["default cache", "--cache-none"])
def client(request: pytest.FixtureRequest) -> ComfyClient:
    return request.getfixturevalue("server" if request.param == "default cache" else "uncached")


def fresh(name: str, height: int = 80, width: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A canvas that no other test has, and a mask in its middle."""
    rng = np.random.default_rng(list(name.encode()))
    return random_canvas(rng, height, width), box_mask(height, width, 20, 30, 52, 70)


def told(client: ComfyClient, graph: Prompt) -> dict[str, Any]:
    return figures(client.queue(graph), "context")


def result_of(client: ComfyClient, graph: Prompt) -> np.ndarray:
    result = client.queue(graph)
    assert result.error is None, result.error
    return client.images(result, "save")[0]


# -- encode once -------------------------------------------------------------------------------------------------------
def test_ten_edits_encode_once(client: ComfyClient):
    names = upload(client, "ten edits", *fresh(f"ten edits {client.address}"))
    before = told(client, edit_graph(*upload(client, "other", *fresh(f"other {client.address}"))))["encoder_runs"]
    results = [client.queue(edit_graph(*names, **widgets)) for widgets in VARIED]
    after = told(client, edit_graph(*upload(client, "third", *fresh(f"third {client.address}"))))["encoder_runs"]
    assert after == before + 2  # the ten edits' canvas, and the one that asked
    pictures = [client.images(result, "save")[0] for result in results]
    by_seed = {widgets["seed"]: picture.tobytes() for widgets, picture in zip(VARIED, pictures, strict=True)}
    assert len(set(by_seed.values())) == len(by_seed) > 5, "another seed was to give another picture"
    answers = [figures(result, "context") for result in results if "context" in result.executed]
    assert [answer["encoder_runs"] for answer in answers] == [before + 1] * len(answers)
    assert [answer["encoder_ran"] for answer in answers] == [True] + [False] * (len(answers) - 1)
    assert len(answers) == (
        10 if "--cache-none" in client.server.flags else 1
    )  # else the graph's cache comes before ours


def test_a_changed_pixel_or_mask_encodes_again_and_going_back_does_not(client: ComfyClient):
    canvas, mask = fresh(f"change {client.address}")
    pixel, grown = canvas.copy(), mask.copy()
    pixel[79, 3, 2] ^= 1
    grown[19, 30] = True
    first = told(client, edit_graph(*upload(client, "a", canvas, mask)))
    changed = told(client, edit_graph(*upload(client, "b", pixel, mask)))
    masked = told(client, edit_graph(*upload(client, "c", canvas, grown)))
    assert [figure["encoder_ran"] for figure in (first, changed, masked)] == [True] * 3
    assert [figure["encoder_runs"] - first["encoder_runs"] for figure in (changed, masked)] == [1, 2]
    for name, picture, hole in (("a", canvas, mask), ("b", pixel, mask), ("c", canvas, grown)):
        back = told(client, edit_graph(*upload(client, name, picture, hole), seed=9))
        assert back["encoder_ran"] is False
        assert back["encoder_runs"] == masked["encoder_runs"]


def test_the_same_pixels_under_another_name_do_not_encode_again(client: ComfyClient):
    """A mask painted once more is a new file to the graph's cache, and the same to ours."""
    pictures = fresh(f"name {client.address}")
    first = told(client, edit_graph(*upload(client, "first name", *pictures)))
    again = told(client, edit_graph(*upload(client, "second name", *pictures)))
    assert again == {**first, "encoder_ran": False, "encode_ms": again["encode_ms"]}


def test_several_decodes_in_one_workflow_share_the_context(client: ComfyClient):
    graph = edit_graph(*upload(client, "shared", *fresh(f"shared {client.address}")))
    graph["decode 2"] = decode_node(seed=2)
    graph["save 2"] = {
        **copy.deepcopy(graph["save"]),
        "inputs": {"images": ["decode 2", 0], "filename_prefix": "second"},
    }
    result = client.queue(graph)
    assert result.executed.count("context") == 1
    first, second = (client.images(result, name)[0] for name in ("save", "save 2"))
    assert (first != second).any()


# -- nothing else moves ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", MASKS)
def test_png_in_png_out_is_identical_outside(server: ComfyClient, kind: str):
    """Through LoadImage and SaveImage: eight bits in, the same eight bits out."""
    rng = np.random.default_rng(len(kind))
    height, width = (389, 517) if kind == "ring" else (int(side) for side in rng.integers(60, 120, 2))
    canvas, mask = random_canvas(rng, height, width), random_mask(rng, kind, height, width)
    for blend in ("none", "feather", "poisson"):
        result = result_of(server, edit_graph(*upload(server, f"png {kind}", canvas, mask), blend=blend))
        assert (result[~mask] == canvas[~mask]).all()
        if kind != "one pixel" or blend == "none":  # one faded pixel may round to the old eight bits
            assert (result[mask] != canvas[mask]).any()


def test_empty_mask_gives_the_image(server: ComfyClient):
    canvas, mask = fresh("empty")
    graph = edit_graph(*upload(server, "empty", canvas, np.zeros_like(mask)))
    result = server.queue(graph)
    assert figures(result, "decode")["hole_tokens"] == 0
    assert (server.images(result, "save")[0] == canvas).all()


# -- same seed, same result --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "widgets", [{}, {"sampler_name": "euler_ancestral"}, {"sampler_name": "dpmpp_2m_sde", "denoise": 0.7}], ids=str
)
def test_same_seed_same_result(uncached: ComfyClient, widgets: dict[str, Any]):
    names = upload(uncached, "seed", *fresh("seed"))
    first, second = (uncached.queue(edit_graph(*names, seed=11, steps=3, **widgets)) for _ in range(2))
    assert first.prompt_id != second.prompt_id
    assert "decode" in second.executed
    pictures = [uncached.images(result, "save")[0] for result in (first, second)]
    assert (pictures[0] == pictures[1]).all()
    assert (pictures[0] != result_of(uncached, edit_graph(*names, seed=12, steps=3, **widgets))).any()


# -- progress, previews, Cancel ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("widgets", [{}, {"sampler_name": "heun"}, {"denoise": 0.5}], ids=str)
def test_progress_counts_the_steps(uncached: ComfyClient, widgets: dict[str, Any]):
    result = uncached.queue(edit_graph(*upload(uncached, "progress", *fresh("progress")), steps=7, **widgets))
    progress = [data for name, data in result.events if name == "progress" and data["node"] == "decode"]
    assert [data["value"] for data in progress] == [1, 2, 3, 4, 5, 6, 7]
    assert {data["max"] for data in progress} == {7}


@pytest.mark.parametrize(("height", "width"), [(128, 256), (256, 192)])
def test_preview_is_the_canvas_with_the_hole_changing(uncached: ComfyClient, height: int, width: int):
    """Not a strip of hole tokens: the picture's proportions, everything in its place, and only the hole differs from
    step to step.
    """
    canvas, _ = fresh("preview", height, width)
    mask = box_mask(height, width, 0, 0, 48, 48)
    result = uncached.queue(edit_graph(*upload(uncached, "preview", canvas, mask), steps=4))
    previews = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int) for data in result.previews]
    assert len(previews) == 4
    assert all(preview.shape[1] / preview.shape[0] == pytest.approx(width / height, rel=0.01) for preview in previews)
    scale = previews[0].shape[0] / height
    hole, kept = int(48 * scale), int(80 * scale)  # between them JPEG's blocks and the server's enlargement smear
    assert all((preview[kept:, kept:] == previews[0][kept:, kept:]).all() for preview in previews)
    assert np.ptp(previews[0][kept:, kept:]) > 5, "the kept canvas is to be seen, too"
    assert (previews[0][:hole, :hole] != previews[-1][:hole, :hole]).any()


def test_cancel_ends_a_long_edit_and_the_next_one_works(server: ComfyClient):
    names = upload(server, "cancel", *fresh("cancel"))
    seen: list[int] = []
    pressed: list[float] = []

    def press_cancel(name: str, data: dict[str, Any]) -> None:
        if name == "progress":
            seen.append(data["value"])
            if len(seen) == 3:
                server.interrupt()
                pressed.append(time.monotonic())

    result = server.queue(edit_graph(*names, steps=1000), on_event=press_cancel)
    assert result.events[-1][0] == "execution_interrupted"
    assert result.events[-1][1]["node_id"] == "decode"
    assert seen[-1] < 900
    assert "save" not in result.outputs
    again = server.queue(edit_graph(*names, steps=2))
    assert again.error is None
    assert "context" not in again.executed or not figures(again, "context")["encoder_ran"]
    assert (server.images(again, "save")[0] != fresh("cancel")[0]).any()
