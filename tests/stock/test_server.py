"""A stock checkpoint file, loaded by the host's own loaders in a running ComfyUI: a tiny SD3 with random weights, and
TAESD for a VAE.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comfy_client import ComfyClient, Prompt
from devtools.graphs import MODEL, decode_node, node
from devtools.server import Server
from host_graphs import box_mask, figures, random_canvas, upload
from stock_models import make_stock

WIDTH = 256  # of the shipped model's prompts, which this SD3 takes
HEIGHT, WIDE = 160, 224


@pytest.fixture(scope="module")
def client(host: Path, comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    folder = tmp_path_factory.mktemp("stock")
    write_models(folder / "models")
    with Server(
        host, folder, folder / "server.log", ("--preview-method", "latent2rgb"), python=Path(sys.executable)
    ) as running:
        yield ComfyClient(running)


def write_models(models: Path) -> None:
    """diffusion_models/tiny_sd3, vae_approx/taesd3_*, loras/tiny: all random."""
    import comfy.taesd.taesd

    for name in ("diffusion_models", "vae_approx", "loras"):
        (models / name).mkdir(parents=True)
    transformer = make_stock("sd3", text=WIDTH).model.diffusion_model
    save_file(
        {key: value.contiguous() for key, value in transformer.state_dict().items()},
        models / "diffusion_models/tiny_sd3.safetensors",
    )
    torch.manual_seed(0)
    small = comfy.taesd.taesd.TAESD(latent_channels=16)
    for parameter in small.parameters():  # the host's layers come without initial values
        parameter.data.normal_(0, 0.05)
    for part in ("encoder", "decoder"):
        save_file(getattr(small, f"taesd_{part}").state_dict(), models / f"vae_approx/taesd3_{part}.safetensors")
    key, rank = "diffusion_model.joint_blocks.0.x_block.attn.qkv", 4
    lora = {f"{key}.lora_up.weight": torch.randn(384, rank) * 0.3, f"{key}.lora_down.weight": torch.randn(rank, 128)}
    save_file(lora, models / "loras/tiny.safetensors")


@pytest.fixture
def names(client: ComfyClient) -> tuple[str, str]:
    rng = np.random.default_rng(5)
    return upload(client, "stock", random_canvas(rng, HEIGHT, WIDE), box_mask(HEIGHT, WIDE, 40, 60, 100, 130))


def graph(names: tuple[str, str], reuse: str = "balanced", **widgets: Any) -> Prompt:
    links = {"model": ["model", 0], "vae": ["vae", 0]}
    return {
        "model": node("UNETLoader", unet_name="tiny_sd3.safetensors", weight_dtype="default"),
        "vae": node("VAELoader", vae_name="taesd3"),
        "ours": node("LazyModelLoader", model_name=MODEL),
        "canvas": node("LoadImage", image=names[0]),
        "mask": node("LoadImageMask", image=names[1], channel="red"),
        "positive": node("CLIPTextEncode", text="panda", clip=["ours", 1]),
        "negative": node("CLIPTextEncode", text="", clip=["ours", 1]),
        "context": node("LazyEncodeContext", **links, image=["canvas", 0], mask=["mask", 0], reuse=reuse),
        "decode": decode_node(**{**links, "steps": 6, **widgets}),
        "save": node("SaveImage", images=["decode", 0], filename_prefix="stock"),
    }


def with_ksampler(names: tuple[str, str], seed: int) -> Prompt:
    """The same MODEL object through the host's own nodes."""
    both = graph(names)
    both["latent"] = node("VAEEncode", pixels=["canvas", 0], vae=["vae", 0])
    inputs = {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
    }
    settings = {"seed": seed, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    both["sampled"] = node("KSampler", **inputs, **settings)
    both["seen"] = node("VAEDecode", samples=["sampled", 0], vae=["vae", 0])
    both["plain"] = node("SaveImage", images=["seen", 0], filename_prefix="plain")
    for name in ("context", "decode", "save"):
        both.pop(name)
    return both


def run(client: ComfyClient, prompt: Prompt, save: str = "save") -> np.ndarray:
    result = client.queue(prompt)
    assert result.error is None, result.error
    return client.images(result, save)[0]


def test_an_edit_keeps_the_outside_and_tells_what_it_did(client: ComfyClient, names: tuple[str, str]):
    result = client.queue(graph(names))
    assert result.error is None, result.error["exception_message"]
    told = figures(result, "decode")
    assert told["hole_tokens"] == 5 * 6  # 60 x 70 px from (40, 60), in tokens of 16 px
    assert told["all_tokens"] == 10 * 14
    assert told["saved_ms"] >= 0  # on so small a model a machine that is busy finds nothing saved
    assert result.previews, "no step previews came"
    picture = client.images(result, "save")[0]
    outside = ~box_mask(HEIGHT, WIDE, 40, 60, 100, 130)
    assert np.array_equal(picture[outside], random_canvas(np.random.default_rng(5), HEIGHT, WIDE)[outside])


def test_another_seed_encodes_nothing_and_changes_the_hole(client: ComfyClient, names: tuple[str, str]):
    first, second = (client.queue(graph(names, seed=seed)) for seed in (11, 12))
    assert "context" not in second.executed
    pictures = [client.images(result, "save")[0] for result in (first, second)]
    assert not np.array_equal(pictures[0], pictures[1])


def test_the_same_prompt_gives_the_same_bits_whatever_ran_before(client: ComfyClient, names: tuple[str, str]):
    first = run(client, graph(names, seed=21))
    run(client, graph(names, "exact", seed=21))
    again = graph(names, seed=21)
    again["save"]["inputs"]["filename_prefix"] = "again"
    again["decode"]["inputs"]["denoise"] = 1.0
    assert np.array_equal(run(client, again), first)


def test_ksampler_beside_a_lazy_edit_gives_the_same_bits(client: ComfyClient, names: tuple[str, str]):
    before = run(client, with_ksampler(names, 31), "plain")
    edited = graph(names, seed=32)
    run(client, edited)
    both = {**with_ksampler(names, 31), **edited}
    both["plain"]["inputs"]["filename_prefix"] = "plain again"
    both["sampled"]["inputs"]["steps"] = 2
    assert np.array_equal(run(client, both, "plain"), before)


def test_a_lora_changes_the_hole(client: ComfyClient, names: tuple[str, str]):
    without = run(client, graph(names, seed=41))
    patched = graph(names, seed=41)
    patched["lora"] = node("LoraLoaderModelOnly", model=["model", 0], lora_name="tiny.safetensors", strength_model=1.0)
    for name in ("context", "decode"):
        patched[name]["inputs"]["model"] = ["lora", 0]
    assert not np.array_equal(run(client, patched), without)


def test_cancel_in_the_middle_and_edit_again(client: ComfyClient, names: tuple[str, str]):
    good = run(client, graph(names, seed=51))
    sent = []

    def stop(name: str, data: dict[str, Any]) -> None:
        if name == "progress" and data.get("node") == "decode" and not sent:
            sent.append(client.interrupt())

    cancelled = client.queue(graph(names, seed=52, steps=300), on_event=stop)
    assert sent
    assert "execution_interrupted" in [name for name, _ in cancelled.events]
    again = graph(names, seed=51)
    again["save"]["inputs"]["filename_prefix"] = "after"
    assert np.array_equal(run(client, again), good)
