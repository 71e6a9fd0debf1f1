"""Batch Edits and Lazy Decode Batch: lists in, lists out, and each edit is what it is by itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from host_graphs import Lazy
from stock_models import conditioning, make_stock, vae_of

LEVEL = 1 / 255
PROMPTS = ["a panda", "a red apple", "a sunflower in a pot", "a pizza"]
WIDGETS: dict[str, Any] = {"steps": 2, "cfg": 3.0, "scheduler": "simple", "denoise": 1.0, "blend": "auto"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An input folder of the test's own."""
    import folder_paths

    (tmp_path / "input").mkdir()
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return tmp_path / "input"


def canvas(number: int, height: int = 128, width: int = 160) -> Tensor:
    image = torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(number))
    return (image * 255).round() / 255


def mask(number: int, height: int = 128, width: int = 160, holes: int = 1) -> Tensor:
    result = torch.zeros(1, height, width)
    result[:, 20 : 60 + 8 * number, 30 : 70 + 4 * number] = 1
    if holes > 1:
        result[:, 100:126, 120:150] = 1
    return result


def batch(lazy: Lazy, contexts: list, prompts: list[list], seeds: list[int], **changes: Any) -> tuple[list, dict]:
    widgets = {**WIDGETS, "sampler_name": "euler", "vae_decode": "lazy", **changes}
    lists = {name: value if isinstance(value, list) else [value] for name, value in widgets.items()}
    output = lazy.call(
        "LazyDecodeBatch",
        model=[lazy.model],
        vae=[lazy.vae],
        context=contexts,
        positive=prompts,
        negative=[lazy.negative],
        seed=seeds,
        **lists,
    )
    return output.args[0], output.ui["lazydiffusion"][0]


def alone(lazy: Lazy, context: Any, prompt: list, seed: int, **changes: Any) -> Tensor:
    return lazy.decode(context, positive=prompt, seed=seed, **{**WIDGETS, "sampler_name": "euler", **changes})[0]


def test_edits_of_a_list_share_a_call_and_each_is_itself(lazy: Lazy):
    """Holes of different sizes, one canvas with two of them, prompts of different lengths, a seed for each."""
    contexts = [lazy.encode(canvas(i), mask(i, holes=1 + (i == 2)))[0] for i in range(4)]
    prompts, seeds = [lazy.text(prompt) for prompt in PROMPTS], [3, 1, 4, 1]
    images, told = batch(lazy, contexts, prompts, seeds)
    assert (told["edits"], told["calls"]) == (4, 1)
    for number, image in enumerate(images):
        single = alone(lazy, contexts[number], prompts[number], seeds[number])
        assert float((image - single).abs().max()) <= LEVEL
        assert torch.equal(
            image[mask(number, holes=1 + (number == 2)) == 0],
            canvas(number)[mask(number, holes=1 + (number == 2)) == 0],
        )


def test_large_canvases_have_windows_of_their_own(lazy: Lazy):
    contexts = [lazy.encode(canvas(i, 320, 512), mask(i, 320, 512))[0] for i in range(2)]
    assert all(context.view is not None for context in contexts)
    prompts = [lazy.text(prompt) for prompt in PROMPTS[:2]]
    images, told = batch(lazy, contexts, prompts, [1, 2])
    assert told["calls"] == 1
    for number, image in enumerate(images):
        assert float((image - alone(lazy, contexts[number], prompts[number], number + 1)).abs().max()) <= LEVEL


def test_what_cannot_share_a_call_goes_by_itself(lazy: Lazy):
    """Another size, a soft mask, a sketch, an empty mask, a prompt with a mask, a batch of two images, other steps."""
    soft = mask(0) * 0.5
    sketched = lazy.call(
        "LazySketchCondition", context=lazy.encode(canvas(1), mask(1))[0], vae=lazy.vae, sketch=canvas(9), strength=0.5
    ).args[0]
    contexts = [
        lazy.encode(canvas(0), mask(0))[0],
        lazy.encode(canvas(0, 96, 96), mask(0, 96, 96))[0],
        lazy.encode(canvas(0), soft)[0],
        sketched,
        lazy.encode(canvas(2), torch.zeros(1, 128, 160))[0],
        lazy.encode(torch.cat([canvas(3), canvas(4)]), mask(1))[0],
        lazy.encode(canvas(5), mask(1))[0],
    ]
    prompts = [lazy.text("a panda")] * 5 + [lazy.text("a pizza")] * 2
    steps = [2, 2, 2, 2, 2, 2, 1]
    images, told = batch(lazy, contexts, prompts, [5], steps=steps)
    assert told["calls"] == 7
    assert [len(image) for image in images] == [1, 1, 1, 1, 1, 2, 1]
    for number in range(1, 7):
        assert torch.equal(images[number], alone(lazy, contexts[number], prompts[number], 5, steps=steps[number]))
    assert float((images[0] - alone(lazy, contexts[0], prompts[0], 5)).abs().max()) <= LEVEL


def test_samplers_that_draw_noise_are_what_they_are_alone(lazy: Lazy):
    contexts = [lazy.encode(canvas(i), mask(i))[0] for i in range(2)]
    images, told = batch(lazy, contexts, [lazy.text("a panda")], [7, 8], sampler_name="euler_ancestral")
    assert told["calls"] == 2
    for number, image in enumerate(images):
        single = alone(lazy, contexts[number], lazy.text("a panda"), 7 + number, sampler_name="euler_ancestral")
        assert torch.equal(image, single)


def test_stock_checkpoints_go_one_after_the_other(lazy: Lazy):
    given = {"model": make_stock("flux-fill"), "vae": vae_of("flux-fill")}
    contexts = [lazy.encode(canvas(i), mask(i), **given)[0] for i in range(2)]
    prompt, negative = conditioning("flux-fill", 3), conditioning("flux-fill", 4)
    widgets = {**{name: [value] for name, value in WIDGETS.items()}, "cfg": [1.0], "sampler_name": ["euler"]}
    output = lazy.call(
        "LazyDecodeBatch",
        **{name: [value] for name, value in given.items()},
        context=contexts,
        positive=[prompt],
        negative=[negative],
        seed=[1, 2],
        vae_decode=["lazy"],
        **widgets,
    )
    assert output.ui["lazydiffusion"][0]["calls"] == 2 and len(output.args[0]) == 2


def test_transparency_comes_back(lazy: Lazy):
    clear = torch.cat([canvas(0), torch.full((1, 128, 160, 1), 0.5)], -1)
    contexts = [lazy.encode(clear, mask(0))[0], lazy.encode(canvas(1), mask(1))[0]]
    images, told = batch(lazy, contexts, [lazy.text("a panda")], [1])
    assert told["calls"] == 1 and [image.shape[-1] for image in images] == [4, 3]
    assert bool((images[0][..., 3][mask(0) == 1] == 1).all()) and bool((images[0][..., 3][mask(0) == 0] == 0.5).all())


# -- manifests ---------------------------------------------------------------------------------------------------------
def save(folder: Path, name: str, picture: Tensor, mode: str = "RGB") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture * 255).round().byte().numpy()).convert(mode).save(folder / name)


def read(lazy: Lazy, name: str, first: int = 0, count: int = 32) -> Any:
    return lazy.call("LazyBatchEdits", manifest=name, first=first, count=count)


def test_a_folder_of_frames_and_masks_is_a_list(lazy: Lazy, folder: Path):
    for number in range(3):
        save(folder, f"film/{number}.png", canvas(number)[0])
        save(folder, f"film/{number}_mask.png", mask(number)[0], "L")
    output = read(lazy, "film/", first=1)
    images, masks, prompts, _, seeds, names = output.args
    assert [len(each) for each in (images, masks, prompts, seeds, names)] == [2] * 5
    assert torch.equal(images[0], canvas(1)) and torch.equal(masks[1], mask(2))
    assert output.ui["lazydiffusion"][0]["messages"][0] == {"code": "part_of_manifest", "count": 2, "all": 3}


def test_a_manifest_is_read_with_prompts_and_seeds(lazy: Lazy, folder: Path):
    save(folder, "sub/room.png", canvas(0)[0])
    row = {"image": "room.png", "box": [30, 20, 40, 40], "prompt": ["panda", "pizza"], "seed": [1, 2]}
    (folder / "sub" / "edits.jsonl").write_text(json.dumps(row))
    output = read(lazy, "sub/edits.jsonl")
    assert output.args[2] == ["panda", "panda", "pizza", "pizza"] and output.args[4] == [1, 2, 1, 2]
    assert output.args[5][0] == "room_panda_1" and output.ui["lazydiffusion"][0]["messages"] == []


def test_a_changed_picture_is_read_again(lazy: Lazy, folder: Path):
    save(folder, "film/0.png", canvas(0)[0])
    save(folder, "film/0_mask.png", mask(0)[0], "L")
    node = lazy.nodes["LazyBatchEdits"]
    before = node.fingerprint_inputs("film/", 0, 32)
    assert node.fingerprint_inputs("film/", 0, 32) == before
    os.utime(folder / "film" / "0.png", ns=(1, 1))
    assert node.fingerprint_inputs("film/", 0, 32) != before


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image": "../secret.png", "box": [0, 0, 8, 8]}, "line 1: image: '../secret.png' lies outside input/"),
        ({"image": "../none.png", "box": [0, 0, 8, 8]}, "line 1: image: '../none.png' lies outside input/"),
        ({"image": "linked.png", "box": [0, 0, 8, 8]}, "line 1: image: 'linked.png' lies outside input/"),
        ({"image": "gone.png", "box": [0, 0, 8, 8]}, "line 1: image: 'gone.png' is not there"),
    ],
)
def test_what_a_manifest_may_not_name(lazy: Lazy, folder: Path, row: dict[str, Any], sentence: str):
    save(folder.parent, "secret.png", canvas(0)[0])
    (folder / "linked.png").symlink_to(folder.parent / "secret.png")
    (folder / "edits.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=sentence):
        read(lazy, "edits.jsonl")


@pytest.mark.parametrize("name", ["../edits.jsonl", "/etc/passwd", "none.csv", ""])
def test_only_manifests_of_the_input_folder_are_read(lazy: Lazy, name: str):
    with pytest.raises(ValueError, match="which is no manifest in ComfyUI's input folder"):
        read(lazy, name)


def test_beyond_the_end_is_said(lazy: Lazy, folder: Path):
    save(folder, "film/0.png", canvas(0)[0])
    save(folder, "film/0_mask.png", mask(0)[0], "L")
    with pytest.raises(ValueError, match="first is 1, but film/ has 1 edits"):
        read(lazy, "film/", first=1)
