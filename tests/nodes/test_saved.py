"""Save Context and Load Context: the same edit from a file, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_models import AverageVAE, conditioning, make_stock, vae_of

SIDE = 192


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder of the test's own."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def canvas() -> tuple[Tensor, Tensor]:
    image = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 40:100, 50:120] = 1
    mask[:, 150:180, 10:40] = 1
    return (image * 255).round() / 255, mask


def save(lazy: Lazy, context: Any, prefix: str = "context") -> tuple[str, dict[str, Any]]:
    output = lazy.call("LazySaveContext", context=context, filename_prefix=prefix)
    return output.args[0], output.ui["lazydiffusion"][0]


def load(lazy: Lazy, name: str) -> Any:
    return lazy.call("LazyLoadContext", context_name=name).args[0]


def test_an_edit_from_a_file_is_the_edit(lazy: Lazy, canvas: tuple[Tensor, Tensor], output: Path):
    context, _ = lazy.encode(*canvas)
    name, told = save(lazy, context, "tuesday/room")
    assert name == "tuesday/room_00001_.safetensors"
    assert (output / "lazydiffusion" / "contexts" / name).stat().st_size == told["bytes"]
    assert save(lazy, context, "tuesday/room")[0] == "tuesday/room_00002_.safetensors"
    expected, found = (lazy.decode(each, "a panda", steps=2)[0] for each in (context, load(lazy, name)))
    assert torch.equal(expected, found)


def test_a_sketch_goes_into_the_file(lazy: Lazy, canvas: tuple[Tensor, Tensor]):
    context, _ = lazy.encode(*canvas)
    given = {"vae": lazy.vae, "sketch": torch.rand(1, SIDE, SIDE, 3), "strength": 0.5}
    context = lazy.call("LazySketchCondition", context=context, **given).args[0]
    found = load(lazy, save(lazy, context)[0])
    assert torch.equal(lazy.decode(context, steps=2)[0], lazy.decode(found, steps=2)[0])


def test_a_stock_models_context_goes_to_any_checkpoint_of_its_latents(lazy: Lazy, canvas: tuple[Tensor, Tensor]):
    given = {"model": make_stock("flux-fill"), "vae": vae_of("flux-fill")}
    context, _ = lazy.encode(*canvas, **given, reuse="fast", kv_dtype="fp8")
    found = load(lazy, save(lazy, context)[0])
    assert (found.stock.reuse, found.stock.kv_dtype) == ("fast", "fp8")
    prompts: dict[str, Any] = {"positive": conditioning("flux-fill", 3), "negative": conditioning("flux-fill", 4)}
    edits = [lazy.decode(each, **given, **prompts, steps=3, cfg=1.0)[0] for each in (context, found)]
    assert torch.equal(*edits)


def test_transparency_and_sixteen_bits_go_into_a_file(lazy: Lazy, canvas: tuple[Tensor, Tensor]):
    image, mask = canvas
    clear = torch.cat([image, torch.full_like(image[..., :1], 0.5)], -1)
    context, _ = lazy.encode(clear, torch.cat([mask, mask.flip(1)]))
    half = context.with_(alpha=context.alpha.half())
    for each in (context, half):
        found = load(lazy, save(lazy, each)[0])
        assert found.alpha.shape == (2, 1, SIDE, SIDE) and found.alpha.dtype == torch.float32
        assert torch.equal(lazy.decode(context, steps=1)[0], lazy.decode(found, steps=1)[0])


def test_a_file_whose_sizes_are_not_the_models_is_refused(lazy: Lazy, canvas: tuple[Tensor, Tensor]):
    """Its name alone can be copied into any file."""
    context, _ = lazy.encode(*canvas)
    grid = type(context.grid)(SIDE, SIDE, context.grid.scale * 4, context.grid.patch)
    with pytest.raises(ValueError, match=r"has 8 channels at 1/32.*expected 8 channels at 1/8.*not this model's"):
        lazy.decode(context.with_(grid=grid), steps=1)


def with_lora(lazy: Lazy, strength: float) -> Any:
    model = lazy.model.clone()
    key = "diffusion_model.context_encoder.embed.weight"
    shape = lazy.model.model.state_dict()[key].shape
    model.add_patches({key: (torch.full(shape, 0.01),)}, strength)
    return model


def test_another_lora_another_vae_and_another_model_are_refused(
    lazy: Lazy, canvas: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
):
    context, _ = lazy.encode(*canvas, model=with_lora(lazy, 1.0))
    found = load(lazy, save(lazy, context)[0])
    assert torch.equal(*(lazy.decode(each, steps=1, model=with_lora(lazy, 1.0))[0] for each in (context, found)))
    for model in (lazy.model, with_lora(lazy, 0.5)):
        with pytest.raises(ValueError, match=r"other weight patches \(LoRA\).*Connect the same ones"):
            lazy.decode(found, steps=1, model=model)
    lazy.decode(context, steps=1)  # one that never was in a file is the user's own business, as ever
    own = load(lazy, save(lazy, lazy.encode(*canvas)[0])[0])
    host = lazy.node_module("host.identity")
    with monkeypatch.context() as patch:
        other = 1.01 * host.vae_magnitudes(lazy.vae)
        patch.setattr(host, "vae_magnitudes", lambda vae: other)
        with pytest.raises(ValueError, match=r"made with another VAE.*encode the canvas again"):
            lazy.decode(own, steps=1)
    lazy.decode(own, steps=1)
    stock = {"model": make_stock("flux"), "vae": AverageVAE(16, 8)}
    with pytest.raises(ValueError, match="made by another model"):
        lazy.decode(own, steps=1, positive=conditioning("flux", 3), negative=conditioning("flux", 4), **stock)


@pytest.mark.parametrize("prefix", [".", "./", "../out", "/etc/x", "a/../../b", "", " ", "a\nb"])
def test_names_that_lead_out_of_the_folder_are_refused(lazy: Lazy, canvas: tuple[Tensor, Tensor], prefix: str):
    context, _ = lazy.encode(*canvas)
    with pytest.raises(ValueError, match=r"filename_prefix is .*, expected a name like 'room'"):
        save(lazy, context, prefix)


def test_files_are_found_by_their_listed_names_alone(lazy: Lazy, canvas: tuple[Tensor, Tensor], output: Path):
    name, _ = save(lazy, lazy.encode(*canvas)[0], "a")
    folder = output / "lazydiffusion" / "contexts"
    (output / "elsewhere.safetensors").write_bytes((folder / name).read_bytes())
    os.symlink(output / "elsewhere.safetensors", folder / "link.safetensors")
    os.symlink(output, folder / "linked")
    files = lazy.node_module("host.context_files")
    assert files.names() == [name]
    odd = ["../../elsewhere.safetensors", "link.safetensors", "linked/elsewhere.safetensors", "gone.safetensors"]
    for other in (*odd, str(folder / name)):
        with pytest.raises(ValueError, match=r"context_name is .*, which is no file in output/lazydiffusion/contexts"):
            load(lazy, other)


def test_a_damaged_file_is_refused_by_name(lazy: Lazy, canvas: tuple[Tensor, Tensor], output: Path):
    name, _ = save(lazy, lazy.encode(*canvas)[0])
    path = output / "lazydiffusion" / "contexts" / name
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: content is not what was saved"):
        load(lazy, name)


def test_a_file_of_the_same_name_is_read_anew(lazy: Lazy, canvas: tuple[Tensor, Tensor], output: Path):
    name, _ = save(lazy, lazy.encode(*canvas)[0])
    node = lazy.nodes["LazyLoadContext"]
    before = node.fingerprint_inputs(name)
    path = output / "lazydiffusion" / "contexts" / name
    os.utime(path, ns=(1, 1))
    assert node.fingerprint_inputs(name) != before


def test_a_context_of_another_pack_is_not_saved(lazy: Lazy):
    with pytest.raises(ValueError, match="context is a dict of another node pack"):
        save(lazy, {"x": 1})
