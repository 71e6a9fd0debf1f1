"""The training commands run end to end on a handful of made-up sprites, and a resumed run goes on where it stopped."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lazy_core.config import PRESETS
from lazy_core.editor import LazyEditor
from training import autoencoder, classifier, evaluate, plot, prepare, train
from training.loop.record import summary
from training.scenery.captions import CaptionTable, all_captions, captions_of, tokenizer_of
from training.scenery.objects import CODE_POINTS, SYNONYMS
from training.scenery.scenes import SpriteSheet, compose

NAMES = [
    {"code": str(i), "en": [word], "zh": [sign]}
    for i, (word, sign) in enumerate([("dot", "点"), ("bar", "条"), ("box", "箱")])
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "sprites.safetensors"
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
    shapes = [(x**2 + y**2 < 0.9), (x.abs() < 0.3), (x.abs() < 0.9) & (y.abs() < 0.9)]
    colours = torch.tensor([[220, 30, 30], [30, 200, 60], [40, 60, 220]])
    sprites = torch.stack(
        [torch.cat([c.view(3, 1, 1) * s, 255 * s[None]]) for c, s in zip(colours, shapes, strict=True)]
    ).to(torch.uint8)
    save_file({"sprites": sprites}, path, metadata={"names": json.dumps(NAMES, ensure_ascii=False)})
    return path


def test_scenes_are_reproducible_and_masks_cover_the_object(data):
    sheet = SpriteSheet.load(data)
    one, two = (compose(sheet, 12, 64, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.image, two.image) and torch.equal(one.mask, two.mask)
    changed = (one.image - one.empty).abs().amax(
        1, keepdim=True
    ) > 0.2  # the object itself; its soft shadow may reach further
    assert changed.any()
    assert (one.mask[changed] == 1).all()
    assert 0 <= one.image.min() and one.image.max() <= 1


def test_captions(data):
    tokenizer = tokenizer_of(all_captions(NAMES), 16)
    assert "a dot" in captions_of(NAMES[0]) and "一个点" in captions_of(NAMES[0])
    unknown = tokenizer.vocabulary["[UNK]"]
    assert all(unknown not in tokenizer.ids(caption) for entry in NAMES for caption in captions_of(entry))
    assert unknown in tokenizer.ids("a zebra")
    table = CaptionTable(NAMES, tokenizer, torch.device("cpu"))
    ids = table.draw(torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(0), drop=0.0)
    assert ids.shape == (4, 16) and not (ids == table.empty).all(1).any()
    assert torch.equal(table.draw(torch.tensor([0]), torch.Generator(), drop=1.0)[0], table.empty)


def test_whole_way(data, tmp_path):
    vae, model, judge = tmp_path / "vae", tmp_path / "model", tmp_path / "judge.safetensors"
    autoencoder.main(
        ["--preset", "tiny", "--data", str(data), "--out", str(vae), "--steps", "3", "--batch", "2", "--pool", "64"]
    )
    common = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--vae",
        str(vae / "vae.safetensors"),
        "--out",
        str(model),
        "--size",
        "64",
    ]
    small = ["--batch", "4", "--draws", "2", "--pool", "16", "--fresh", "1", "--lr", "1e-3"]
    train.main([*common, *small, "--steps", "2"])
    first = torch.load(model / "state.pt", weights_only=True)
    assert first["progress"]["step"] == 2
    train.main([*common, *small, "--steps", "5"])
    second = torch.load(model / "state.pt", weights_only=True)
    assert second["progress"]["step"] == 5 and second["progress"]["seconds"] > first["progress"]["seconds"]
    moved = [
        k for k, v in first["model"].items() if not k.startswith("vae.") and not torch.equal(v, second["model"][k])
    ]
    assert moved and all(torch.equal(v, second["model"][k]) for k, v in first["model"].items() if k.startswith("vae."))

    further = [
        *common[:-3],
        str(tmp_path / "further"),
        *common[-2:],
        *small,
        "--init",
        str(model / "model.safetensors"),
    ]
    train.main([*further, "--steps", "1", "--ema", "0.0"])
    start, end = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "further"))
    assert torch.equal(start["vae.mean"], end["vae.mean"])
    key = "transformer.decoder.y_embedder.fc1.weight"
    assert 0 < (start[key].float() - end[key].float()).abs().max() < 0.05

    tuned = tmp_path / "tuned"
    alone = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--out",
        str(tuned),
        "--steps",
        "3",
        "--batch",
        "2",
        "--pool",
        "64",
        "--decoder",
    ]
    autoencoder.main([*alone, "--init", str(model / "model.safetensors"), "--into", str(model / "model.safetensors")])
    after, changed = load_file(tuned / "model-model.safetensors"), set()
    for key, value in start.items():
        assert after[key].dtype == value.dtype
        changed |= {key} if not torch.equal(value, after[key]) else set()
    assert changed and all(key.startswith("vae.decoder.") for key in changed)
    assert (
        LazyEditor.load(tuned / "model-model.safetensors").identity
        != LazyEditor.load(model / "model.safetensors").identity
    )
    with pytest.raises(ValueError, match="another encoder"):
        autoencoder.main([*alone[:-1], "--steps", "1", "--into", str(model / "model.safetensors")])
    with pytest.raises(SystemExit):
        autoencoder.main(alone)

    editor = LazyEditor.load(model / "model.safetensors")
    assert editor.model.config.preset == "tiny" and len(editor.model.config.latent_rgb or ()) == 4
    classifier.main(["--data", str(data), "--out", str(judge), "--steps", "2", "--held-out", "32"])
    report = tmp_path / "report.json"
    arguments = [
        "--model",
        str(model / "model.safetensors"),
        "--judge",
        str(judge),
        "--data",
        str(data),
        "--json",
        str(report),
    ]
    evaluate.main([*arguments, "--edits", "24", "--steps", "1", "--grid", str(tmp_path / "grid.png")])
    figures = json.loads(report.read_text())
    assert figures["edits"] == 24 and all(0 <= x <= 1 for x in figures["prompt_accuracy"] + figures["real_sprites"])
    assert (tmp_path / "grid.png").stat().st_size > 1000
    plot.main([str(model / "record.json"), str(tmp_path / "loss.png")])
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_shipped_sizes():
    assert len(CODE_POINTS) == len(set(CODE_POINTS)) >= 60
    assert set(SYNONYMS) <= set(CODE_POINTS)
    preset = PRESETS["fluent-small"]
    assert preset.latent_scale * preset.patch_size == 16  # 256 tokens on a 256 px canvas


def test_prepare_refuses_a_wrong_file(tmp_path):
    path = tmp_path / "package.tgz"
    path.write_bytes(b"something else")
    with pytest.raises(SystemExit, match="sha256"):
        prepare.fetch(path, "0" * 64, ["false"])
    with pytest.raises(SystemExit, match="cannot fetch"):
        prepare.fetch(tmp_path / "absent.tgz", "0" * 64, ["false"])


COMMANDS = sorted(path for path in Path(train.__file__).parent.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_help_begins_with_a_whole_sentence(path: Path):
    """Also where a docstring's first sentence goes over two lines."""
    assert summary(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))).endswith((".", ":", "?"))
