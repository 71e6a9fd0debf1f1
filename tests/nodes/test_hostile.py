"""Checkpoints of strangers on a running ComfyUI: each is refused in a sentence, or loads for what it is; the next edit
works right after it."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from comfy_client import ComfyClient, Result
from devtools.graphs import edit_graph
from devtools.places import PACK
from devtools.server import Server
from host_graphs import box_mask, random_canvas, upload
from hostile_files import LIBRARY_ATTACKS, REFUSED, good, library

HEIGHT, WIDTH = 48, 64
SEEDS = itertools.count(5000)
TRIED = (
    *(
        "depth 10^9",
        "vae.blocks 10^18",
        "width 30,000",
        "vocabulary 10^12",
        "heads 0",
        "prediction",
        "format -5",
        "5,000 digits",
    ),
    *("deep JSON", "ids beyond the vocabulary", "a million tensors", "8 GB of an unknown name", "NaN"),
)
TOKENIZERS = (
    "post-processor names an undeclared token",
    "padding of 10^12",
    "padding of 10^8",
    "split that backtracks",
)


@pytest.fixture(scope="module")
def client(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    base = tmp_path_factory.mktemp("hostile")
    models = base / "models" / "lazydiffusion"
    models.mkdir(parents=True)
    for name in TRIED:
        made = good()
        REFUSED[name][0](made)
        made.write(models / f"{file_of(name)}.safetensors")
    for name in TOKENIZERS:
        made = good()
        library(**LIBRARY_ATTACKS[name])(made)
        made.write(models / f"{file_of(name)}.safetensors")
    with Server(
        host, base, base / "server.log", ("--whitelist-custom-nodes", PACK), python=Path(sys.executable)
    ) as running:
        yield ComfyClient(running)
    shutil.rmtree(models)


@pytest.fixture(scope="module")
def canvas() -> np.ndarray:
    return random_canvas(np.random.default_rng(4), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def names(client: ComfyClient, canvas: np.ndarray) -> tuple[str, str]:
    return upload(client, "canvas", canvas, hole())


def file_of(name: str) -> str:
    return re.sub("[^a-z0-9]+", " ", name.lower()).strip()


def hole() -> np.ndarray:
    return box_mask(HEIGHT, WIDTH, 8, 8, 40, 40)


def edit(client: ComfyClient, names: tuple[str, str], **widgets: str) -> Result:
    return client.queue(edit_graph(*names, seed=next(SEEDS), steps=1, **widgets))


def check_edit(client: ComfyClient, result: Result, canvas: np.ndarray) -> None:
    assert result.error is None, result.error
    after, inside = client.images(result, "save")[0], hole()
    assert (after[~inside] == canvas[~inside]).all() and (after[inside] != canvas[inside]).any()


@pytest.mark.parametrize("name", TRIED)
def test_refused_and_the_next_edit_works(client: ComfyClient, names: tuple[str, str], canvas: np.ndarray, name: str):
    result = edit(client, names, model_name=f"{file_of(name)}.safetensors")
    assert result.error is not None and result.error["node_type"] == "LazyModelLoader"
    assert result.error["exception_type"].endswith("CheckpointError")
    assert re.search(REFUSED[name][1], result.error["exception_message"], re.DOTALL), result.error["exception_message"]
    check_edit(client, edit(client, names), canvas)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_killed_the_queue_is_read_for_its_words(
    client: ComfyClient, names: tuple[str, str], canvas: np.ndarray, name: str
):
    check_edit(
        client,
        edit(client, names, model_name=f"{file_of(name)}.safetensors", prompt="a" * 5000 + "! red apple"),
        canvas,
    )
    check_edit(client, edit(client, names), canvas)
