"""Lazy Canvas and Lazy Result inside ComfyUI's own process, with real files."""

from __future__ import annotations

import errno
import importlib
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

NOTHING: dict[str, Any] = {
    "canvas_file": "",
    "mask_file": "",
    "sketch_file": "",
    "width": 40,
    "height": 24,
    "color": "#204060",
}


@pytest.fixture
def nodes(pack: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack's module of both nodes; input and temp folders are `tmp_path`'s."""
    import folder_paths

    for kind in ("input", "temp"):
        (tmp_path / kind / "lazydiffusion").mkdir(parents=True)
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return importlib.import_module(f"{pack.__name__}.nodes.canvas")


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(folder / "input" / "lazydiffusion" / name)
    return f"lazydiffusion/{name} [input]"


def test_blank_canvas(nodes: Any) -> None:
    image, mask, sketch, edit = nodes.LazyCanvas.execute(**NOTHING).result
    assert image.shape == (1, 24, 40, 3)
    assert (image[0, 3, 3] * 255).round().tolist() == [0x20, 0x40, 0x60]
    assert mask.shape == (1, 24, 40) and not mask.any()
    assert torch.equal(sketch, image)
    assert edit.image.shape == (1, 3, 24, 40)


def test_files_of_the_page_come_back_to_the_level(nodes: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    canvas, mask = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((20, 30, 3), (20, 30)))
    sketch = np.zeros((20, 30, 4), np.uint8)
    sketch[4:8, 5:9] = (255, 0, 10, 255)
    names = {
        f"{name}_file": save(tmp_path, f"{name}.png", pixels)
        for name, pixels in (("canvas", canvas), ("mask", mask), ("sketch", sketch))
    }
    assert nodes.LazyCanvas.validate_inputs(**names) is True
    out = nodes.LazyCanvas.execute(**{**NOTHING, **names}).result
    assert np.array_equal((out[0][0] * 255).round().numpy(), canvas)
    assert np.array_equal((out[1][0] * 255).round().numpy(), mask)
    assert (out[2][0, 5, 6] * 255).round().tolist() == [255, 0, 10]
    assert torch.equal(out[2][0, 10:], out[0][0, 10:])


def test_a_file_that_is_gone_is_named_before_the_run(nodes: Any) -> None:
    answer = nodes.LazyCanvas.validate_inputs(
        canvas_file="lazydiffusion/none.png [input]", mask_file="", sketch_file=None
    )
    assert isinstance(answer, str) and "canvas_file: 'lazydiffusion/none.png [input]' is not on this server" in answer


def test_linked_picture_counts_until_another_is_opened_and_is_told_to_the_page(nodes: Any, tmp_path: Path) -> None:
    linked = torch.rand(1, 20, 30, 3)
    output = nodes.LazyCanvas.execute(**NOTHING, image=linked, mask=torch.ones(1, 20, 30))
    assert torch.equal(output.result[0], linked)
    assert output.result[1].all()
    [shown] = output.ui["lazydiffusion_canvas"]
    assert {name: (file["width"], file["height"], file["type"]) for name, file in shown.items()} == dict.fromkeys(
        ("image", "mask"), (30, 20, "temp")
    )
    own = save(tmp_path, "own.png", np.zeros((8, 8, 3), np.uint8))
    output = nodes.LazyCanvas.execute(**{**NOTHING, "canvas_file": own}, image=linked)
    assert output.result[0].shape == (1, 8, 8, 3)
    assert output.ui["lazydiffusion_canvas"] == [{}]


def test_result_is_written_rounded_once_for_each_image(nodes: Any, tmp_path: Path) -> None:
    canvas = torch.randint(0, 256, (1, 3, 16, 16)).float() / 255
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:8, 4:8] = 1
    edit = nodes.Edit(canvas, mask)
    made = torch.rand(2, 16, 16, 3)
    output = nodes.LazyResult.execute(made, edit)
    files = output.ui["lazydiffusion_result"]
    assert len(files) == 2
    for file, image in zip(files, output.result[0], strict=True):
        pixels = np.asarray(Image.open(tmp_path / "temp" / file["subfolder"] / file["filename"]))
        assert np.array_equal(pixels, (image * 255).round().numpy())
        assert np.array_equal(pixels[10:], (canvas[0].movedim(0, -1)[10:] * 255).round().numpy())
    again = nodes.LazyResult.execute(made, edit).ui["lazydiffusion_result"]
    assert again == files
    assert len(list((tmp_path / "temp" / "lazydiffusion").iterdir())) == 2


def test_a_full_disk_is_said_in_words_and_leaves_no_half_of_a_picture(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    image = torch.rand(1, 8, 8, 3)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match=r"could not be written into .*: No space left on device. Make room there"):
            nodes.LazyResult.execute(image)
    assert list((tmp_path / "temp" / "lazydiffusion").iterdir()) == []
    nodes.LazyResult.execute(image)
    [file] = (tmp_path / "temp" / "lazydiffusion").iterdir()
    assert Image.open(file).size == (8, 8)


def test_an_edit_of_another_pack_is_refused_in_words(nodes: Any) -> None:
    with pytest.raises(ValueError, match="edit is a dict, expected the EDIT of a Lazy Canvas"):
        nodes.LazyResult.execute(torch.rand(1, 8, 8, 3), {"a": 1})


def test_lazy_decode_makes_previews_where_a_canvas_shows_them(pack: ModuleType) -> None:
    decode = importlib.import_module(f"{pack.__name__}.nodes.decode")
    assert decode.shown_in_canvas(SimpleNamespace(prompt={"1": {"class_type": "LazyCanvas"}}))
    assert not decode.shown_in_canvas(SimpleNamespace(prompt={"1": {"class_type": "LoadImage"}}))
    assert not decode.shown_in_canvas(None)
