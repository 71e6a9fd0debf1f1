"""Scenes whose style only the context tells, captions that never say it, the two baselines, and the figures of an
evaluation.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from lazy_core.checkpoint import load_model, read_checkpoint, save_checkpoint
from lazy_core.config import PRESETS
from lazy_core.geometry import Grid
from lazy_core.masks import hole_token_mask, latent_mask
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.networks.positions import grid_coordinates
from lazy_core.text.removal import NOTHING
from lazy_core.text.tokenizer import build_tokenizer
from lazy_core.tokens import HoleTokens
from sprites import NAMES, STYLES, WORDS, sheet
from training import average, classifier, evaluate, few_steps, naming, progressive, several_holes, sketch_study, train
from training import help as help_pages
from training.evaluation import edits, figures
from training.evaluation.methods import MethodEditor
from training.loop.extended import extended
from training.loop.method import METHODS
from training.loop.objective import token_loss
from training.scenery import drawings
from training.scenery.captions import all_captions, captions_of, grow_embedding, plural, tokenizer_of
from training.scenery.crop import CropBox, bounds, crop_boxes, cut, inside, put_back
from training.scenery.scenes import (
    FAR,
    NEAR,
    OBJECTS,
    TWO,
    UNKNOWN,
    Draw,
    Recipe,
    SpriteSheet,
    cast_of,
    compose,
    pair_split,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("styles") / "sprites.safetensors"
    metadata = {"names": json.dumps(NAMES), "styles": json.dumps(STYLES)}
    save_file({"sprites": (sheet().sprites * 255).round().to(torch.uint8)}, path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An untrained model that knows the words of eight of the objects."""
    torch.manual_seed(0)  # the VAE's weights, which `initialise` leaves as they are made
    model = LazyDiffusion(PRESETS["tiny"])
    initialise(model, torch.Generator().manual_seed(0))
    path = tmp_path_factory.mktemp("init") / "init.safetensors"
    save_checkpoint(path, model, build_tokenizer(["a", *WORDS[:8]], 16))
    return path


# -- edges -------------------------------------------------------------------------------------------------------------
def test_drawn_edges_follow_the_object_and_stay_in_the_mask():
    exact, loose = (
        compose(sheet(), 24, 96, torch.Generator().manual_seed(5), Recipe(drawn=share, removals=0.2))
        for share in (1.0, 0.5)
    )
    assert torch.equal(exact.image, loose.image), "what is drawn changes nothing else"
    for scenes in (exact, loose):
        assert (scenes.lines[scenes.mask < 0.5] == 0).all() and 0 <= scenes.lines.min() and scenes.lines.max() <= 1
        removed = scenes.label == len(sheet())
        assert (scenes.binding[removed] == 0).all() and (scenes.lines[scenes.binding == 0] == 0).all()
    assert removed.any() and (exact.binding[~removed] > 0).all()
    drawn = exact.binding > 0.9
    step = (exact.image - exact.empty).abs().amax(1, keepdim=True) > 0.1
    near = torch.nn.functional.max_pool2d(step.float(), 9, 1, 4) - (
        1 - torch.nn.functional.max_pool2d(1 - step.float(), 9, 1, 4)
    )
    share = (exact.lines * near).sum((1, 2, 3)) / exact.lines.sum((1, 2, 3))
    assert drawn.sum() > 5 and share[drawn].mean() > 0.9, "lines run along the object's outline"


def test_a_model_from_before_styles_learns_to_name_them(data, small, tmp_path):
    """New parts change nothing at first; then the encoder names the scenes' styles, and the decoder is told."""
    before, _ = load_model(small)
    after = extended(before, replace(before.config, edges=True, fill=True, styles=3))
    grid, mask = Grid(64, 64, 8, 2), torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, 10:50, 20:60] = True
    given = (
        torch.randn(1, 4, 8, 8),
        latent_mask(mask, grid),
        HoleTokens.of(hole_token_mask(mask, grid)),
        grid_coordinates(grid, after.config),
    )
    with torch.no_grad():
        assert torch.equal(*(model.transformer.context_encoder(*given).tokens for model in (before, after)))
    settings = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--init",
        str(small),
        "--size",
        "64",
        "--batch",
        "4",
        "--draws",
        "1",
        "--pool",
        "16",
    ]
    train.main(
        [*settings, "--out", str(tmp_path), "--steps", "30", "--ema", "0", "--lr", "0.01", "--record-every", "1"]
    )
    trained = read_checkpoint(tmp_path / "model.safetensors")
    assert trained.config.styles == 3 and trained.weights["transformer.context_encoder.naming.table"].abs().max() > 0
    losses = [point[2] for point in json.loads((tmp_path / "record.json").read_text())["curves"]["naming"]]
    first, last = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert last < 0.8 * first, f"three colours are soon told apart: {losses}"
    with pytest.raises(ValueError, match="knows 3 styles"):
        two = tmp_path / "two.safetensors"
        save_file(
            {"sprites": torch.zeros(2, 16, 4, 32, 32, dtype=torch.uint8)},
            two,
            metadata={"names": json.dumps(NAMES), "styles": json.dumps(STYLES[:2])},
        )
        again = ["--data", str(two), "--init", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "again")]
        train.main([*settings, *again])


def test_a_model_learns_to_take_edges(data, small, tmp_path):
    """One from before edges gets a place for them that changes nothing at first; the training fills it."""
    assert not read_checkpoint(small).config.edges
    settings = [
        "--preset",
        "tiny",
        "--data",
        str(data),
        "--init",
        str(small),
        "--out",
        str(tmp_path),
        "--size",
        "64",
        "--batch",
        "4",
    ]
    train.main([*settings, "--draws", "1", "--pool", "16", "--steps", "3", "--ema", "0"])
    trained = read_checkpoint(tmp_path / "model.safetensors")
    assert trained.config.edges and trained.weights["transformer.decoder.edge_embedder.weight"].abs().max() > 0
    assert {"loss", "naming"} == json.loads((tmp_path / "record.json").read_text())["curves"].keys()


def test_the_decoder_alone_learns_what_the_canvas_is_filled_with(data, small, tmp_path):
    """`--decoder-only`: decoder and fill move, everything else keeps its bits."""
    settings = [
        "--data",
        str(data),
        "--size",
        "64",
        "--batch",
        "4",
        "--draws",
        "1",
        "--pool",
        "16",
        "--ema",
        "0",
        "--float32",
    ]
    train.main([*settings, "--init", str(small), "--out", str(tmp_path / "before"), "--steps", "1"])
    before = read_checkpoint(tmp_path / "before" / "model.safetensors")
    train.main(
        [
            *settings,
            "--init",
            str(tmp_path / "before" / "model.safetensors"),
            "--out",
            str(tmp_path / "after"),
            "--steps",
            "4",
            "--decoder-only",
        ]
    )
    after = read_checkpoint(tmp_path / "after" / "model.safetensors")
    assert after.config.fill and after.weights.keys() == before.weights.keys()
    moved = {name for name, value in after.weights.items() if not torch.equal(value, before.weights[name])}
    may = ("transformer.decoder.", "transformer.context_encoder.fill_embedder.")
    assert all(name.startswith(may) for name in moved), moved
    assert f"{may[1]}weight" in moved and any(name.startswith(may[0]) for name in moved)


def test_a_file_between_two_of_one_model(small, tmp_path):
    """At either end it is that file, in the middle the mean; what the first lacks started at zero; other models are
    named.
    """
    first, _ = load_model(small)
    second = extended(first, replace(first.config, fill=True))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(torch.randn_like(parameter))
    save_checkpoint(tmp_path / "after.safetensors", second, read_checkpoint(small).tokenizer, licence="MIT")
    ends = read_checkpoint(small), read_checkpoint(tmp_path / "after.safetensors")
    fill = "transformer.context_encoder.fill_embedder.weight"
    for share in (0.0, 0.5, 1.0):
        out = tmp_path / f"{share}.safetensors"
        average.main(
            [
                str(small),
                str(tmp_path / "after.safetensors"),
                "--share",
                str(share),
                "--style-guidance",
                "2",
                "--out",
                str(out),
            ]
        )
        found = read_checkpoint(out)
        assert found.config == replace(second.config, style_guidance=2.0) and found.tokenizer == ends[0].tokenizer
        assert found.notes["licence"] == "MIT"
        for name, value in found.weights.items():
            start, end = ends[0].weights.get(name, torch.zeros_like(value)).float(), ends[1].weights[name].float()
            assert torch.allclose(value.float(), start + share * (end - start), atol=2e-2), name
        assert (found.weights[fill] == 0).all() == (share == 0)
    with pytest.raises(ValueError, match="expected 0"):
        average.between({}, {}, 1.5)
    with pytest.raises(ValueError, match="must be of one model"):
        average.between({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, 0.5)
    with pytest.raises(ValueError, match="must be of one model"):
        average.between({"a": torch.zeros(2)}, {"b": torch.zeros(2)}, 0.5)


# -- naming styles
# ------------------------------------------------------------------------------------------------------
def test_the_reader_learns_and_nothing_else_moves(data, small, tmp_path):
    settings = [
        "--data",
        str(data),
        "--init",
        str(small),
        "--depth",
        "1",
        "--size",
        "64",
        "--batch",
        "8",
        "--pool",
        "16",
        "--record-every",
        "5",
    ]
    naming.main([*settings, "--out", str(tmp_path / "one"), "--steps", "120", "--lr", "0.003"])
    before, after = read_checkpoint(small), read_checkpoint(tmp_path / "one" / "model.safetensors")
    assert after.config.style_depth == 1 and after.config.styles == 3
    assert after.tokenizer == before.tokenizer
    for name, weight in before.weights.items():
        if "naming" not in name:
            assert torch.equal(after.weights[name], weight.half()), name
    curve = [point[2] for point in json.loads((tmp_path / "one" / "record.json").read_text())["curves"]["naming"]]
    assert statistics.mean(curve[-8:]) < 0.8 * math.log(3), "three colours are soon told apart better than by chance"
    again = ["--init", str(tmp_path / "one" / "model.safetensors"), "--out", str(tmp_path / "two"), "--steps", "1"]
    naming.main([*settings, *again])
    assert read_checkpoint(tmp_path / "two" / "model.safetensors").config.style_depth == 1
    naming.main([*settings, *again, "--afresh", "--lr", "0"])  # the reader of --init is gone
    afresh, reader = (
        read_checkpoint(tmp_path / "two" / "model.safetensors"),
        "transformer.context_encoder.naming.reader.",
    )
    copied = [
        name
        for name in afresh.weights
        if name.startswith(reader) and name.replace("naming.reader.", "") in before.weights
    ]
    assert copied
    assert all(
        torch.equal(afresh.weights[name], before.weights[name.replace("naming.reader.", "")].half()) for name in copied
    )


def test_a_new_reader_starts_as_the_encoder(small):
    model, _ = load_model(small)
    depth = model.config.encoder_depth
    larger = extended(model, replace(model.config, styles=3, style_depth=depth))
    encoder = larger.transformer.context_encoder
    assert encoder.naming is not None and encoder.naming.reader is not None
    mine, theirs = encoder.naming.reader.state_dict(), encoder.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if not name.startswith("head."))


def test_a_prior_for_the_first_style_is_a_bias_of_the_readers_logits(small):
    model, _ = load_model(small)
    with pytest.raises(ValueError, match="reader of styles"):
        average.prefer_first_style(model, 1.0)
    larger = extended(model, replace(model.config, styles=3, style_depth=1))
    encoder = larger.transformer.context_encoder
    assert encoder.naming is not None
    x, places = torch.randn(2, 64, encoder.embed.get_parameter("weight").shape[1]), torch.rand(64, 2)
    before = encoder.naming.logits(x, places, x, x[..., 0] > 0)
    average.prefer_first_style(larger, 2.5)
    after = encoder.naming.logits(x, places, x, x[..., 0] > 0)
    assert torch.allclose(after - before, torch.tensor([2.5, 0.0, 0.0]).expand(2, -1), atol=1e-4)


def test_another_number_of_styles_is_refused(small):
    model, _ = load_model(small)
    three = extended(model, replace(model.config, styles=3))
    with pytest.raises(ValueError, match="3 styles, expected 2"):
        extended(three, replace(three.config, styles=2))


# -- data --------------------------------------------------------------------------------------------------------------
def test_sheet_of_one_style_and_of_three(data, tmp_path):
    three = SpriteSheet.load(data)
    assert three.sprites.shape == (3, 16, 4, 32, 32) and len(three) == 16 and three.styles == STYLES
    save_file(
        {"sprites": torch.zeros(2, 4, 8, 8, dtype=torch.uint8)},
        tmp_path / "old",
        metadata={"names": json.dumps(NAMES[:2])},
    )
    old = SpriteSheet.load(tmp_path / "old")
    assert old.sprites.shape == (1, 2, 4, 8, 8) and old.styles == ("3d",)
    assert len(compose(old, 2, 64, torch.Generator().manual_seed(0)).label) == 2


def test_withheld_pairs_never_occur_in_training():
    split = pair_split(3, 64)
    assert not split[0].any()  # the style that the first model saw in full
    assert [[int((row == kind).sum()) for kind in (1, 2)] for row in split[1:]] == [[4, 4], [4, 4]]
    bright = sheet()
    withheld = ~bright.pairs("train")
    assert (
        torch.equal(withheld, bright.pairs("validation") | bright.pairs("test"))
        and not (bright.pairs("validation") & bright.pairs("test")).any()
    )
    marked = SpriteSheet(
        torch.where(withheld[:, :, None, None, None], 1.0, 0.0).expand_as(bright.sprites).contiguous(), NAMES, STYLES
    )
    train_scenes = compose(
        marked, 96, 64, torch.Generator().manual_seed(1)
    )  # only withheld pairs are visible in this sheet
    assert (
        torch.equal(train_scenes.image, train_scenes.empty)
        and not train_scenes.unseen.any()
        and not train_scenes.seen.any()
    )
    style, objects, unseen = cast_of(bright, Draw(torch.Generator().manual_seed(2)), 2000, Recipe.held_out())
    assert 0.2 < unseen.float().mean() < 0.3 and bright.pairs("test")[style[unseen], objects[unseen, 0]].all()
    assert (
        bright.pairs("train")[style[:, None], objects[:, 1:]].all()
        and bright.pairs("train")[style[~unseen], objects[~unseen, 0]].all()
    )
    assert all(len(set(row)) == 5 for row in objects.tolist())


def test_bare_scenes_show_nothing_and_are_of_the_first_style():
    made = compose(sheet(), 64, 64, torch.Generator().manual_seed(3), Recipe(bare=0.5, removals=0.0))
    plain = (made.style == 0) & (made.seen == UNKNOWN)
    assert 20 < int(plain.sum()) < 50
    empty = made.empty[plain].var((2, 3)).mean()
    assert empty < made.empty[~plain].var((2, 3)).mean(), "objects stand out"
    assert bool((made.image[plain] != made.empty[plain]).flatten(1).any(1).all()), "the target is there all the same"
    asked = edits.known(sheet(), 24, 5, "test", bare=True)
    assert bool((asked.seen == UNKNOWN).all()) and bool((asked.style == 0).all()) and not bool(asked.unseen.any())


def test_far_scenes_show_the_style_outside_the_crop_only():
    recipe = Recipe.held_out()
    one, two = (
        compose(sheet(c), 96, 128, torch.Generator().manual_seed(4), recipe)
        for c in (((1.0, 0.0, 0.0),) * 3, ((0.0, 1.0, 0.0),) * 3)
    )
    assert torch.equal(one.mask, two.mask) and torch.equal(one.seen, two.seen)
    objects = (one.empty - two.empty).abs().amax(1, keepdim=True) * (
        1 - one.mask
    )  # other objects are where the colour matters
    within = objects * inside(crop_boxes(one.mask), 128)
    near, far = one.seen == NEAR, one.seen == FAR
    assert near.sum() > 15 and far.sum() > 15
    assert within[far].max() < 0.12 and (objects[far].amax((1, 2, 3)) > 0.3).all()
    assert (within[near].amax((1, 2, 3)) > 0.3).all()


def test_nothing_changes_outside_the_mask_and_removals_put_nothing_back():
    scenes = compose(sheet(), 96, 64, torch.Generator().manual_seed(5), Recipe(removals=0.4, twos=0.3))
    assert torch.equal(scenes.image * (1 - scenes.mask), scenes.empty * (1 - scenes.mask))
    removed = scenes.label == 16
    assert 20 < removed.sum() < 60 and torch.equal(scenes.image[removed], scenes.empty[removed])
    assert (scenes.image[~removed] != scenes.empty[~removed]).flatten(1).any(1).all()
    assert (scenes.look == TWO).any() and not scenes.look[removed].any()
    area = compose(sheet(), 400, 64, torch.Generator().manual_seed(6), OBJECTS).mask.mean((1, 2, 3))
    assert area.min() < 0.03 and area.max() > 0.6


def test_crop_boxes():
    mask = torch.zeros(3, 1, 64, 64)
    mask[0, 0, 30:40, 20:40] = 1
    mask[1, 0, :2, :2] = 1
    mask[2] = 1
    assert bounds(mask).tolist() == [[20, 30, 40, 40], [0, 0, 2, 2], [0, 0, 64, 64]]
    crop = crop_boxes(mask)
    assert crop.side.tolist() == [30, 12, 64] and crop.left.tolist() == [15, 0, 0] and crop.top.tolist() == [20, 0, 0]
    assert ((inside(crop, 64) * mask) == mask).all()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same = CropBox(*(torch.tensor([value]) for value in (5, 7, 32)))
    assert torch.allclose(put_back(image, cut(image, same, 32), same), image, atol=1e-6)
    assert cut(mask[:1], CropBox(*(torch.tensor([v]) for v in (0, 0, 64))), 16, grow=True).sum() >= 15


# -- captions ----------------------------------------------------------------------------------------------------------
def test_captions_never_name_the_style():
    texts = " ".join(all_captions(NAMES)).split()
    assert not {"3d", "flat", "ink", "style", "fluent"} & set(texts)
    assert "two dots" in captions_of(NAMES[0], TWO) and "a dot" not in captions_of(NAMES[0], TWO)
    assert [plural(name) for name in ("maple leaf", "cherries", "fox", "bus", "teddy", "gray mouse")][:5] == [
        *("maple leaves", "cherries", "foxes", "buses", "teddies"),
    ]
    assert "empty background" in NOTHING["en"] and "空白背景" in NOTHING["zh"]


def test_vocabulary_grows_without_moving_known_words():
    known = build_tokenizer(["a", "dot", "zebra"], 16)
    grown = tokenizer_of(all_captions(NAMES), 16, known)
    assert all(grown.vocabulary[word] == number for word, number in known.vocabulary.items())
    assert all(grown.vocabulary["[UNK]"] not in grown.ids(caption) for caption in all_captions(NAMES))
    model = LazyDiffusion(PRESETS["tiny"])
    before = table_of(model).clone()
    grown_model = grow_embedding(model, 100)
    assert table_of(grown_model).shape == (100, 32) and torch.equal(table_of(grown_model)[:64], before)
    assert grown_model.config.text is not None and grown_model.config.text.vocabulary == 100
    assert 0.3 < table_of(grown_model)[64:].std() < 0.7


def table_of(model: LazyDiffusion) -> torch.Tensor:
    return model.get_parameter("text.token.weight")


# -- methods -----------------------------------------------------------------------------------------------------------
def test_loss_counts_hole_and_rest_alike():
    target, output = torch.zeros(1, 4, 2), torch.tensor([[[1.0], [0.0], [0.0], [2.0]]]).expand(-1, -1, 2)
    everything, hole = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[True, False, False, False]])
    assert token_loss(output, target, torch.ones(1), everything).item() == pytest.approx(5 / 4)
    assert token_loss(output, target, torch.ones(1), everything, hole).item() == pytest.approx(1 + 4 / 3)


@pytest.fixture(scope="module")
def trained(data, small, tmp_path_factory):
    """A step of each method from the same weights."""
    folder = tmp_path_factory.mktemp("methods")
    for method in METHODS:
        common = [
            "--preset",
            "tiny",
            "--data",
            str(data),
            "--init",
            str(small),
            "--out",
            str(folder / method),
            "--size",
            "64",
        ]
        train.main(
            [
                *common,
                "--method",
                method,
                "--batch",
                "4",
                "--draws",
                "2",
                "--pool",
                "16",
                "--steps",
                "1",
                "--lr",
                "1e-3",
            ]
        )
    return [folder / method / "model.safetensors" for method in METHODS]


def test_methods_share_parameters_and_keep_what_is_not_masked(trained):
    weights = [read_checkpoint(path).weights for path in trained]
    assert all(
        {k: v.shape for k, v in other.items()} == {k: v.shape for k, v in weights[0].items()} for other in weights[1:]
    )
    image, mask = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.zeros(2, 1, 64, 64)
    mask[0, 0, 8:24, 8:24], mask[1, 0, 30:50, 20:44] = 1, 1
    for path, method, tokens in zip(trained, METHODS, ([4, 6], [16, 16], [4, 4]), strict=True):
        editor = MethodEditor.load(path)
        assert editor.method == method and editor.size == 64
        result = editor.edit(image, mask, ["a dot", "a bell"], seed=1, steps=2, cfg=2.0)
        assert torch.equal(result * (1 - mask), image * (1 - mask)) and (result != image).any()
        assert editor.tokens(mask).tolist() == tokens


def test_method_of_an_older_checkpoint_is_lazy(small):
    assert MethodEditor.load(small).method == "lazy"


# -- evaluation --------------------------------------------------------------------------------------------------------
def test_evaluation_of_three_methods(data, trained, tmp_path):
    judge, report = tmp_path / "judge.safetensors", tmp_path / "report.json"
    classifier.main(["--data", str(data), "--out", str(judge), "--steps", "2", "--held-out", "16"])
    assert (tmp_path / "style_judge.safetensors").exists()
    arguments = ["--models", *map(str, trained), "--judge", str(judge), "--data", str(data), "--json", str(report)]
    evaluate.main(
        [*arguments, "--edits", "16", "--steps", "1", "--grid", str(tmp_path / "grid.png"), "--grid-edits", "6"]
    )
    found = json.loads(report.read_text())
    assert [row["method"] for row in found["rows"]] == ["lazy", "image", "crop", "real"] and found["edits"] == 16
    assert found["near"] + found["far"] == 16 and found["near"] > 0 and found["far"] > 0
    for row in found["rows"]:
        for name in evaluate.FIGURES:
            value, low, high = row[name]
            assert low <= value <= high or name.startswith("frechet")
    real = found["rows"][-1]
    assert real["seam"] == [1.0, 1.0, 1.0] and real["colour_shift"] == [0.0, 0.0, 0.0]
    assert Image.open(tmp_path / "grid.png").size[0] > 500
    evaluate.main([*arguments[:1], str(trained[0]), *arguments[4:], "--edits", "16", "--steps", "1", "--vae"])
    rows = {row["method"]: row for row in json.loads(report.read_text())["rows"]}
    assert list(rows) == ["lazy", "vae", "real"]
    assert (
        rows["vae"]["tokens"] == 0
        and rows["vae"]["colour_shift"][0] > 0
        and rows["vae"]["frechet"] != rows["real"]["frechet"]
    )


def test_figures():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(300, 8, generator=generator) for _ in range(2))
    same, moved = figures.frechet(a, a), figures.frechet(a + 2, b)
    assert (
        same[0] == pytest.approx(0, abs=1e-6) and 25 < moved[1] < moved[0] < moved[2] < 40
    )  # 8 dimensions moved by 2: 32
    assert figures.recall(a, a)[0] == 1 and figures.recall(a + 20, b)[0] == 0 and figures.recall(b, a)[0] > 0.8
    drawn = (
        torch.cat([torch.zeros(150, 8), torch.full((150, 8), 2.0)]) + b
    )  # two styles, each right under its own condition
    told = F.one_hot(torch.arange(300) // 150)
    assert figures.frechet(drawn, drawn)[0] == pytest.approx(figures.joint(drawn, told, drawn, told)[0], abs=1e-6)
    swapped = figures.joint(drawn, told.flip(0), drawn, told)
    assert swapped[1] > 1, "the same pictures under the wrong conditions"
    value, low, high = figures.average(torch.tensor([1.0, 0.0] * 50))
    assert value == 0.5 and 0.38 < low < 0.45 and 0.55 < high < 0.62 and figures.interval(torch.zeros(0)) is None
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    flat = torch.full((1, 3, 32, 32), 0.5)
    shifted = flat + 0.1 * mask
    assert figures.seam(flat, mask).item() == 0 and figures.seam(shifted, mask).item() == pytest.approx(0.1, abs=1e-6)
    assert figures.colour_shift(shifted, flat, mask).item() == pytest.approx(25.5, abs=1e-3)


# -- drawings ----------------------------------------------------------------------------------------------------------
def test_ink_is_drawn_on_paper():
    lines = np.zeros((256, 256, 4), dtype=np.uint8)
    lines[40:216, 40:216, 3] = 255
    lines[60:196, 60:196, 3] = 0  # a frame
    drawn = np.asarray(drawings.on_paper(Image.fromarray(lines)))
    assert (
        tuple(drawn[128, 128]) == (*drawings.PAPER, 255)
        and tuple(drawn[50, 50]) == (0, 0, 0, 255)
        and drawn[5, 5, 3] == 0
    )
    half = drawings.sprite(Image.new("RGBA", (256, 256), (200, 100, 50, 128)))
    assert half.shape == (4, 128, 128) and half[:, 0, 0].tolist() == [100, 50, 25, 128]
    icons = {"icons": {"x": {"body": "<path/>", "width": 8}}, "width": 32, "height": 32}
    assert 'viewBox="0 0 8 32"' in drawings.iconify(icons, {"2764": "x"}, "2764-fe0f")


# -- studies -----------------------------------------------------------------------------------------------------------
def test_plans_of_progressive_pictures():
    made = progressive.plan(sheet(), 4, 6, size=128)
    again = progressive.plan(sheet(), 4, 6, size=128)
    assert torch.equal(made.masks, again.masks) and made.masks.shape == (4, 6, 1, 128, 128)
    assert all(len(set(row.tolist())) == 6 for row in made.labels)
    covered = made.masks.sum(1)
    assert (made.masks.sum((2, 3, 4)) > 100).all() and (covered > 1).float().mean() < 0.15, (
        "masks hardly touch each other"
    )


def test_agreement_with_a_sketch():
    scenes = compose(sheet(), 16, 128, torch.Generator().manual_seed(2), Recipe(drawn=1.0, removals=0, everything=0))
    keen = scenes.binding > 0.8
    follow, ignore = (
        sketch_study.edge_agreement(image, scenes.lines, scenes.mask) for image in (scenes.image, scenes.empty)
    )
    assert follow[keen].mean() > 0.6 and ignore[keen].mean() < follow[keen].mean() - 0.3
    drawing = sketch_study.coarse(scenes)
    near, far = (sketch_study.colour_distance(image, drawing, scenes.mask) for image in (scenes.image, scenes.empty))
    assert near.mean() < far.mean() and (sketch_study.colour_distance(drawing, drawing, scenes.mask) == 0).all()


def test_studies_run(data, small, tmp_path, monkeypatch):
    judge = tmp_path / "judge.safetensors"
    classifier.main(["--data", str(data), "--out", str(judge), "--steps", "1", "--held-out", "16"])
    settings = ["--preset", "tiny", "--data", str(data), "--init", str(small), "--out", str(tmp_path), "--size", "64"]
    train.main([*settings, "--batch", "2", "--pool", "8", "--draws", "1", "--steps", "1"])
    common = [
        "--data",
        str(data),
        "--judge",
        str(judge),
        "--model",
        str(tmp_path / "model.safetensors"),
        "--json",
        str(tmp_path / "j"),
    ]
    common += ["--picture", str(tmp_path / "p.png")]
    few_steps.main([*common, "--edits", "8", "--steps", "1", "2", "--solver", "euler", "dpmpp_2m"])
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert len(rows) == 8 and {row["steps"] for row in rows} == {1, 2}
    progressive.main([*common, "--sequences", "2", "--edits", "2", "--steps", "1"])
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert [row["changed_outside"] for row in rows] == [0, 0]
    several_holes.main([*common, "--canvases", "2", "--sizes", "256", "--holes", "2", "--steps", "1", "--each"])
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert [(row["size"], row["holes"]) for row in rows] == [(256, 2)]
    sketch_study.main([*common, "--edits", "8", "--steps", "2", "--strengths", "0", "1"])
    rows = json.loads((tmp_path / "j").read_text())["rows"]
    assert [(row["kind"], row["strength"]) for row in rows] == [(k, s) for k in ("colour", "edges") for s in (0.0, 1.0)]
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_pictures_of_the_help_pages(tmp_path):
    """Drawn by the shipped model, of the sizes that the pages have."""
    help_pages.main(["--out", str(tmp_path)])
    for name in ("LazyDecode/edit", "LazyModelLoader/objects", "LazySketchCondition/sketch"):
        with Image.open(tmp_path / f"{name}.png") as made, Image.open(help_pages.PAGES / f"{name}.png") as page:
            assert made.size == page.size
            assert len(made.getcolors(1 << 20) or []) > 1000, "something is drawn"
