"""Training from people's own images: COCO folders and WebDataset shards in, the same numbers from one process, two, or
a resumed one.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import load_file, save_file
from torch import Tensor

from lazy_core.checkpoint import read_checkpoint, save_checkpoint
from lazy_core.config import PRESETS, Prediction
from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.diffusion.schedule import ddpm_sigmas
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.vae.tiny import TinyVAE
from training import precompute, train
from training.corpus.instances import Skipped, read_pictures
from training.loop.shards import Shards, Share, Steps

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red box": (220, 40, 30), "green disc": (30, 200, 60), "蓝色方块": (40, 60, 220)}
PIXART = replace(
    PRESETS["pixart-xl"],
    width=48,
    depth=2,
    heads=4,
    caption_width=32,
    encoder_width=32,
    encoder_depth=1,
    encoder_heads=2,
    window=None,
)


def scene(number: int) -> tuple[Image.Image, np.ndarray, str]:
    """A coloured shape on a gradient, 80 x 64 px: picture, mask, name."""
    rng = np.random.default_rng(number)
    name = list(COLOURS)[number % 3]
    y, x = np.mgrid[:64, :80]
    cy, cx, r = rng.integers(20, 44), rng.integers(24, 56), rng.integers(8, 16)
    inside = (y - cy) ** 2 + (x - cx) ** 2 < r * r if "disc" in name else (abs(y - cy) < r) & (abs(x - cx) < r)
    ground = np.stack([x * 2, y * 3, np.full_like(x, 40 * (number % 5))], -1)
    return Image.fromarray(np.where(inside[..., None], COLOURS[name], ground).astype(np.uint8)), inside, name


def polygon_of(mask: np.ndarray) -> list[list[float]]:
    """A box's corners, as COCO lists them: x, y, x, y, ..."""
    rows, cols = np.nonzero(mask)
    top, bottom, left, right = (int(v) for v in (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1))
    return [[left, top, right, top, right, bottom, left, bottom]]


def rle_of(mask: np.ndarray, compressed: bool) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        counts: Any = encoded["counts"]
        return {"size": list(encoded["size"]), "counts": counts.decode()}
    runs, value, column = [0], 0, mask.T.flatten().astype(int)
    for pixel in column:
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def annotation(number: int, mask: np.ndarray, name: str) -> dict[str, Any]:
    segmentation: Any = polygon_of(mask) if "disc" not in name else rle_of(mask, compressed=number % 2 == 0)
    return {"segmentation": segmentation, "caption": [name, f"a {name}"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """24 good pictures in COCO's layout, and one of every kind of trouble."""
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "red box"}]}

    def add(name: str, data: bytes | None, *found: dict[str, Any]) -> None:
        content["images"].append({"id": name, "file_name": name})
        content["annotations"] += [{"image_id": name, **entry} for entry in found]
        if data is not None:
            (root / "images" / name).write_bytes(data)

    for number in range(24):
        picture, mask, name = scene(number)
        entry = annotation(number, mask, name)
        if number == 0:
            entry = {
                "segmentation": entry["segmentation"],
                "category_id": 7,
            }  # plain COCO: a category instead of a caption
        add(f"{number:03d}.png", png(picture), entry)
    picture, mask, name = scene(0)
    good = annotation(0, mask, name)
    add("cut.png", png(picture)[: len(png(picture)) // 2], good)
    add("text.png", b"no picture at all", good)
    add("absent.png", None, good)
    add("empty.png", png(picture), {**good, "segmentation": rle_of(np.zeros_like(mask), compressed=True)})
    add("other.png", png(picture), {**good, "segmentation": rle_of(mask[:32], compressed=True)})
    add("odd.png", png(picture), {**good, "segmentation": "scribble"}, {**good, "caption": " "})
    add("alone.png", png(picture))
    tiny = np.zeros_like(mask)
    tiny[30:33, 40:43] = True
    add("tiny.png", png(picture), {**good, "segmentation": rle_of(tiny, compressed=True)})
    (root / "annotations.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return root


TROUBLE = {
    "cut.png": "broken image",
    "text.png": "broken image",
    "absent.png": "missing image",
    "empty.png#0": "empty mask",
    "other.png#0": "mask is 80 x 32 px, not its image's size",
    "odd.png#0": "malformed mask",
    "odd.png#1": "no caption",
    "alone.png": "no annotations",
}


def png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("vae") / "vae.safetensors"
    torch.manual_seed(0)
    assert PRESETS["tiny"].vae is not None
    save_file(TinyVAE(PRESETS["tiny"].vae).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def shards(folder, vae, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    precompute.main(
        [str(folder), "--vae", str(vae), "--out", str(out), "--size", "64", "--shard", "20", "--batch", "5"]
    )
    return out


# -- reading -----------------------------------------------------------------------------------------------------------
def test_trouble_is_skipped_counted_and_named(folder):
    skipped = Skipped()
    pictures = list(read_pictures(folder, skipped))
    assert dict(skipped.names) == TROUBLE and skipped.counts()["broken image"] == 2
    assert [picture.name for picture in pictures] == [f"{i:03d}.png" for i in range(24)] + ["tiny.png"]
    for number, picture in enumerate(pictures[:24]):
        _, mask, name = scene(number)
        assert np.array_equal(picture.instances[0].mask, mask), (
            "polygons and both kinds of run lengths are the same masks"
        )
        assert picture.instances[0].captions[0] == name


def test_webdataset_shards_read_the_same_and_a_cut_one_is_named(folder, tmp_path):
    def write(path: Path, numbers: range) -> None:
        with tarfile.open(path, "w") as archive:
            for number in numbers:
                picture, mask, name = scene(number)
                files = {
                    "png": png(picture),
                    "json": json.dumps({"annotations": [annotation(number, mask, name)]}).encode(),
                }
                for ending, data in files.items():
                    member = tarfile.TarInfo(f"part/{number:03d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))

    write(tmp_path / "a.tar", range(12))
    write(tmp_path / "b.tar", range(12, 24))
    skipped = Skipped()
    pictures = list(read_pictures(tmp_path, skipped))
    assert len(pictures) == 24 and not skipped.names
    assert [np.array(p.image).tobytes() for p in pictures] == [np.array(scene(i)[0]).tobytes() for i in range(24)]
    halves = [[p.name for p in read_pictures(tmp_path, Skipped(), (i, 2))] for i in range(2)]
    assert sorted(halves[0] + halves[1]) == [p.name for p in pictures] and len(halves[0]) == 12
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: len(whole) // 2 - 100])
    kept = list(read_pictures(tmp_path, skipped))
    assert 12 < len(kept) < 24 and ("a.tar" in dict(skipped.names) or any("a.tar" in name for name, _ in skipped.names))
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        for number, content in enumerate((b'{"annotations": null}', b'{"annotations": [1]}', b"[]", b"no json")):
            member = tarfile.TarInfo(f"{number}.json")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    odd = Skipped()
    list(read_pictures(tmp_path, odd))
    assert {name: reason for name, reason in odd.names if "c.tar" in name} == {
        f"c.tar/{i}": "no readable annotations" for i in range(4)
    }
    with pytest.raises(ValueError, match=r"neither \*.tar shards nor an annotations\.json"):
        list(read_pictures(folder / "images", Skipped()))


# -- precomputing ------------------------------------------------------------------------------------------------------
def test_precompute(folder, vae, shards, tmp_path, capsys):
    manifest = json.loads((shards / "manifest-000.json").read_text())
    assert manifest["skipped"] == {**Skipped(list(TROUBLE.items())).counts(), "smaller than 0.4 % of its square": 1}
    assert len(manifest["holes"]) == 48 and [s["samples"] for s in manifest["shards"]] == [20, 20, 8]
    loaded = Shards.load(shards)
    assert len(loaded) == 48 and set(loaded.captions()) <= {c for name in COLOURS for c in (name, f"a {name}")}
    first = load_file(shards / "shard-000-00000.safetensors")
    assert first["target"].shape == first["canvas"].shape == (20, 4, 8, 8) and first["mask"].shape == (20, 1, 8, 8)
    outside = first["mask"].bool().logical_not().expand_as(first["target"])
    assert (first["target"] - first["canvas"]).abs()[outside].mean() < (first["target"] - first["canvas"]).abs()[
        ~outside
    ].mean()
    assert (first["mask"][::2] != first["mask"][1::2]).any((1, 2, 3)).sum() >= 3, (
        "variants of an instance differ in their masks"
    )

    capsys.readouterr()
    common = [str(folder), "--vae", str(vae), "--out", str(tmp_path), "--size", "64", "--batch", "3"]
    precompute.main([*common, "--part", "0/2"])
    with pytest.raises(ValueError, match="holds 1 of 2 parts"):
        Shards.load(tmp_path)
    precompute.main([*common, "--part", "1/2"])
    assert "skipped empty.png#0: empty mask" in capsys.readouterr().out
    halves = Shards.load(tmp_path)
    with pytest.raises(SystemExit):
        precompute.main([*common, "--part", "2/2"])
    assert sorted(halves.holes.tolist()) == sorted(loaded.holes.tolist()), "the same masks, however the work was shared"
    parts = torch.cat([load_file(tmp_path / name)["target"] for name in halves.files])
    whole = torch.cat([load_file(shards / name)["target"] for name in loaded.files])
    assert torch.allclose(parts.float().sum(0), whole.float().sum(0), atol=0.1)


def words_of_one_sprite(folder: Path) -> Path:
    names = json.dumps([{"code": "0", "en": ["dot"], "zh": ["点"]}])
    save_file(
        {"sprites": torch.zeros(1, 4, 8, 8, dtype=torch.uint8)},
        folder / "sprites.safetensors",
        metadata={"names": names},
    )
    return folder / "sprites.safetensors"


def test_shards_that_do_not_fit_say_so(shards, tmp_path):
    with pytest.raises(ValueError, match=r"no manifest-\*.json: make one"):
        Shards.load(tmp_path)
    loaded = Shards.load(shards)
    with pytest.raises(ValueError, match=r"holds latents of .*expected .*'channels': 8"):
        loaded.check(PRESETS["fluent-small"])
    with pytest.raises(ValueError, match="captions as words, expected T5"):
        loaded.check(replace(PRESETS["pixart-xl"], latent_channels=4))
    with pytest.raises(ValueError, match="scenes have captions in words, which pixart-xl cannot read"):
        train.main(["--preset", "pixart-xl", "--out", str(tmp_path), "--data", str(words_of_one_sprite(tmp_path))])
    with pytest.raises(ValueError, match="48 samples, expected at least a batch of 64"):
        Steps(loaded, PRESETS["tiny"], None, Share(64, 1))
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        Steps(loaded, PRESETS["tiny"], None, Share(8, 1, size=3))


def test_an_epoch_takes_every_sample_once_and_processes_share_it(shards):
    loaded = Shards.load(shards)
    plan = loaded.plan(0, 8, seed=1)
    assert plan.shape == (6, 8) and sorted(plan.flatten().tolist()) == list(range(48))
    assert not torch.equal(plan, loaded.plan(1, 8, seed=1)) and torch.equal(plan, loaded.plan(0, 8, seed=1))
    spread = torch.stack([loaded.holes[row].float().std() for row in plan]).mean()
    assert spread < loaded.holes.float().std() / 2, "holes of a batch are of similar size"
    tokenizer = train.tokenizer_of(loaded.captions(), 16)
    one = Steps(loaded, PRESETS["tiny"], tokenizer, Share(8, 2, seed=1))[3]
    two = [Steps(loaded, PRESETS["tiny"], tokenizer, Share(8, 2, seed=1, rank=rank, size=2))[3] for rank in range(2)]
    for rank, part in enumerate(two):
        assert torch.equal(part.scenes.target, one.scenes.target[rank::2]) and torch.equal(part.text, one.text[rank::2])
        draws = one.draws
        assert part.draws == draws and torch.equal(part.sigma.view(4, draws), one.sigma.view(8, draws)[rank::2])
        width = part.noise.shape[1]
        assert torch.equal(part.noise.unflatten(0, (4, draws)), one.noise.unflatten(0, (8, draws))[rank::2, :, :width])


# -- training ----------------------------------------------------------------------------------------------------------
def settings(shards: Path, vae: Path, out: Path, *more: str) -> list[str]:
    common = [
        "--preset",
        "tiny",
        "--data",
        str(shards),
        "--vae",
        str(vae),
        "--out",
        str(out),
        "--batch",
        "8",
        "--draws",
        "2",
    ]
    return [*common, "--steps", "10", "--record-every", "1", "--float32", "--lr", "3e-3", *more]


def start(arguments: list[str], processes: int = 1) -> subprocess.Popen:
    module = ["-m", "training.train"]
    if processes > 1:
        module = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def curve(out: Path) -> list[float]:
    return [value for _, _, value in json.loads((out / "record.json").read_text())["curves"]["loss"]]


@pytest.fixture(scope="module")
def alone(shards, vae, tmp_path_factory) -> Path:
    """Ten steps by one process."""
    out = tmp_path_factory.mktemp("alone")
    finish(start(settings(shards, vae, out)))
    return out


def test_the_decoder_alone_on_shards_leaves_what_shards_cannot_teach(shards, tmp_path):
    """Shards bring no drawings: `--decoder-only` must not set free what is frozen for that."""
    model = LazyDiffusion(replace(PRESETS["tiny"], edges=True, fill=True))
    initialise(model, torch.Generator().manual_seed(0))
    words = train.tokenizer_of(Shards.load(shards).captions(), 16)
    save_checkpoint(tmp_path / "init.safetensors", model, words)
    arguments = ["--data", str(shards), "--init", str(tmp_path / "init.safetensors"), "--out", str(tmp_path / "out")]
    trainer = train.Trainer(train.parse([*arguments, "--batch", "8", "--decoder-only"]))
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all(name.startswith(train.DECODER_ONLY) for name in trained)
    assert "transformer.context_encoder.fill_embedder.weight" in trained
    assert not any("edge_embedder" in name for name in trained)


@pytest.mark.parametrize("more", [(), ("--shard-optimizer",)], ids=["data parallel", "optimizer shared out"])
def test_two_processes_train_like_one(shards, vae, alone, tmp_path, more):
    finish(start(settings(shards, vae, tmp_path, *more), processes=2))
    one, two = curve(alone), curve(tmp_path)
    print("one process", one, "two", two)
    assert len(one) == len(two) == 10 and one[-1] < one[0]
    assert two == pytest.approx(one, rel=2e-4, abs=1.01e-5), "but for the last digit that the log prints"
    ours, theirs = (load_file(path / "model.safetensors") for path in (alone, tmp_path))
    assert all(torch.allclose(ours[key].float(), theirs[key].float(), atol=2e-3) for key in ours)
    assert json.loads((tmp_path / "record.json").read_text())["settings"]["processes"] == 2


def test_a_killed_run_goes_on_to_the_same_numbers(shards, vae, alone, tmp_path):
    """SIGKILL somewhere in the middle; the second start ends where the run that was left in peace did, bit for bit."""
    arguments = settings(shards, vae, tmp_path, "--save-minutes", "0")
    process = start(arguments)
    deadline = time.monotonic() + 120
    while not (tmp_path / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait()
    stopped = torch.load(tmp_path / "state.pt", weights_only=True)["progress"]["step"]
    assert 1 <= stopped < 10, "it was to be killed before its end"
    finish(start(arguments))
    ours, theirs = (torch.load(path / "state.pt", weights_only=True) for path in (alone, tmp_path))
    assert theirs["progress"]["step"] == 10
    assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in ours["model"])
    assert curve(tmp_path)[-1] == curve(alone)[-1]


def test_public_vae_t5_and_pixart_weights(folder, tmp_path, monkeypatch):
    """The paper's parts at toy width: diffusers' VAE, T5, PixArt-alpha's decoder, trained to predict noise."""
    from diffusers import AutoencoderKL
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    torch.manual_seed(0)
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    AutoencoderKL(**blocks, block_out_channels=(8, 8, 8, 8), norm_num_groups=4).save_pretrained(tmp_path / "vae")  # type: ignore[arg-type]
    T5EncoderModel(T5Config(vocab_size=32, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path / "t5"
    )
    words = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", "a", "red", "box"])}, "<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(tmp_path / "t5")
    data = tmp_path / "data"
    precompute.main(
        [str(folder), "--vae", str(tmp_path / "vae"), "--t5", str(tmp_path / "t5"), "--out", str(data), "--size", "64"]
    )
    first = load_file(data / "shard-000-00000.safetensors")
    assert first["target"].shape[1:] == (4, 8, 8) and first["text"].shape[1:] == (120, 32)
    assert (first["text"][torch.arange(120)[None] >= first["words"][:, None]] == 0).all() and first["words"].min() >= 1

    init = tmp_path / "init.safetensors"
    model = LazyDiffusion(PIXART)
    initialise(model)
    save_checkpoint(init, model)
    arguments = [
        "--data",
        str(data),
        "--init",
        str(init),
        "--out",
        str(tmp_path / "run"),
        "--batch",
        "4",
        "--steps",
        "3",
        "--ema",
        "0",
    ]
    train.main(
        [*arguments, "--optimizer", "adamw", "--record-every", "1", "--licence", "mine", "--provenance", "made here"]
    )
    trained = read_checkpoint(tmp_path / "run" / "model.safetensors")
    assert (
        trained.metadata["licence"] == "mine" and trained.config.prediction == "epsilon" and trained.tokenizer is None
    )
    assert all(np.isfinite(curve(tmp_path / "run")))
    before = load_file(init)
    moved = {
        key.split(".")[1] for key, value in trained.weights.items() if (value.float() - before[key]).abs().max() > 1e-4
    }
    assert moved == {"context_encoder", "decoder"}

    weights = {key: torch.randn_like(value) for key, value in model.transformer.decoder.state_dict().items()}
    pixart = {
        ("y_embedder.y_proj." + k[11:] if k.startswith("y_embedder.") else k): v
        for k, v in weights.items()
        if "context_emb" not in k
    }
    pixart = {
        k.replace("x_embedder.", "x_embedder.proj."): v.view(48, 4, 2, 2) if k == "x_embedder.weight" else v
        for k, v in pixart.items()
    }
    save_file(pixart, tmp_path / "pixart.safetensors")
    monkeypatch.setitem(train.PRESETS, "pixart-xl", PIXART)
    arguments = ["--preset", "pixart-xl", "--data", str(data), "--init-pixart", str(tmp_path / "pixart.safetensors")]
    train.main(
        [*arguments, "--out", str(tmp_path / "second"), "--batch", "4", "--steps", "1", "--lr", "0", "--ema", "0"]
    )
    started = read_checkpoint(tmp_path / "second" / "model.safetensors").weights
    key = "blocks.0.attn.qkv.weight"
    assert torch.allclose(started[f"transformer.decoder.{key}"].float(), weights[key], atol=2e-3)


def test_what_the_network_is_given():
    """Flow: a mix of clean and noise. DDPM: scaled to unit variance, and told the nearest step of its table."""
    clean, noise = torch.ones(2, 3, 4), torch.full((2, 3, 4), 2.0)

    def given(prediction: Prediction, sigma: Tensor) -> tuple[Tensor, Tensor]:
        model, level = parametrisation(prediction), sigma.view(-1, 1, 1)
        return model.scale_input(model.add_noise(clean, noise, level), level), model.timestep(sigma)

    x, t = given("flow_x0", torch.tensor([0.25, 1.0]))
    assert (
        torch.allclose(x[0], torch.tensor(1.25))
        and torch.allclose(x[1], torch.tensor(2.0))
        and t.tolist() == [250, 1000]
    )
    x, t = given("epsilon", torch.tensor([1.0, float(ddpm_sigmas()[999])]))
    assert torch.allclose(x[0], torch.tensor(3 / 2**0.5)) and t[1] == 999
