"""Photographs as canvases: read out of packages by licence, one split each, cropped and composed; what removal is
measured by.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from sprites import sheet
from training import removal
from training.evaluate import edits_of, parse
from training.scenery import photographs as source
from training.scenery.archives import deb_files, rcc_files
from training.scenery.brushes import edge_masks
from training.scenery.draw import Draw
from training.scenery.photographs import (
    GCOMPRIS,
    LOMIRI,
    Photograph,
    PhotographSheet,
    in_jpeg_blocks,
    read_package,
    save,
)
from training.scenery.scenes import UNKNOWN, Recipe, compose
from training.scenery.surfaces import surfaces

COPYRIGHT = """Format: 1.0

Files: *
Copyright: the program's
License: GPL-3+

Files: 16.04/cat.jpg
Copyright: Somebody, 2018
License: CC-BY-4.0

Files: 16.04/dog.jpg
Copyright: Else
License: CC-BY-SA-4.0
"""


def jpeg(side: int = 260, seed: int = 0, kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side + 40, side)).save(buffer, kind)
    return buffer.getvalue()


def deb(path, files: dict[str, bytes]):
    """A Debian package of these files, as `ar` and `tar` make it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "data.tar.xz": data.getvalue()}
    parts = [
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        for name, body in members.items()
    ]
    path.write_bytes(b"!<arch>\n" + b"".join(parts))
    return path


def rcc(files: dict[str, bytes]) -> bytes:
    """A Qt resource file: the root folder, one folder `g`, and files in it, uncompressed."""
    names, data = b"", b""
    places: dict[str, tuple[int, int]] = {}
    for name in ("g", *files):
        places[name] = (len(names), len(data))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if name in files:
            data += struct.pack(">I", len(files[name])) + files[name]
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", places["g"][0], 2, len(files), 2)
    tree += b"".join(struct.pack(">IHHHI", places[name][0], 0, 0, 0, places[name][1]) for name in files)
    head = 20
    return (
        struct.pack(">4siiii", b"qres", 1, head, head + len(tree), head + len(tree) + len(data)) + tree + data + names
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve photographs of made-up texture, four of each split."""
    draw, path = torch.Generator().manual_seed(3), tmp_path_factory.mktemp("photographs") / "photographs.safetensors"
    licences = ["CC0", "CC0", "GPL-2+"]
    found = []
    for index in range(12):
        texture = F.interpolate(torch.rand(1, 3, 40, 50, generator=draw), size=(300, 380), mode="bilinear")[0]
        name = f"p/{source.VALIDATION[index // 3]}" if index % 3 == 1 else f"p/{index}"
        found.append(Photograph(name, (texture * 255).byte(), "p", licences[index % 3], "somebody"))
    save(path, found)
    return path


@pytest.fixture(scope="module")
def canvases(pictures):
    return sheet().with_photographs(pictures, "train")


def test_packages_are_read_and_split_by_licence(tmp_path):
    files = {
        "usr/share/doc/l/copyright": COPYRIGHT.encode(),
        "usr/share/backgrounds/cat.jpg": jpeg(seed=1),
        "usr/share/backgrounds/dog.jpg": jpeg(seed=2),
        "usr/share/backgrounds/tiny.jpg": jpeg(side=100),
    }
    found = {photograph.name: photograph for photograph in read_package(LOMIRI, deb(tmp_path / "l.deb", files))}
    assert {name: (one.licence, one.author, one.split) for name, one in found.items()} == {
        "lomiri-wallpapers-16.04/cat": ("CC-BY-4.0", "Somebody, 2018", "train"),
        "lomiri-wallpapers-16.04/dog": ("CC-BY-SA-4.0", "Else", "test"),
    }
    assert found["lomiri-wallpapers-16.04/cat"].pixels.shape == (3, 260, 300)


def test_pictures_inside_qt_resources_are_read(tmp_path):
    content = rcc({"a.webp": jpeg(seed=4, kind="WEBP"), "alphabets.webp": jpeg(kind="WEBP"), "note.txt": b"text"})
    assert [name for name, _ in rcc_files(content)] == ["g/a.webp", "g/alphabets.webp", "g/note.txt"]
    files = {
        "usr/share/doc/g/copyright": COPYRIGHT.encode(),
        "usr/share/gcompris-qt/rcc/erase.rcc": content,
        "x/other.rcc": content,
    }
    found = list(read_package(GCOMPRIS, deb(tmp_path / "g.deb", files)))
    assert [(one.name, one.licence, one.split) for one in found] == [("gcompris-qt-data/a", "GPL-3+", "test")]


def test_what_is_no_package_is_said(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="no Debian package"):
        list(deb_files(tmp_path / "x.deb"))
    with pytest.raises(ValueError, match="expected b'qres'"):
        list(rcc_files(b"RIFF" + bytes(40)))


def test_a_photograph_is_of_one_split_alone(pictures):
    splits = {split: PhotographSheet.load(pictures, split) for split in ("train", "validation", "test")}
    names = {split: {one["name"] for one in found.about} for split, found in splits.items()}
    assert [len(found) for found in names.values()] == [4, 4, 4]
    assert not names["train"] & names["test"] and not names["train"] & names["validation"]
    assert {one["licence"] for one in splits["train"].about} == {"CC0"}, "no weights are made from other licences"
    assert splits["train"].attribution == "4 photographs from p (CC0): somebody"


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(SystemExit, match=r"training\.prepare --photographs"):
        PhotographSheet.load(tmp_path / "photographs.safetensors", "train")


def test_crops_are_the_photograph_at_many_scales(pictures):
    photographs = PhotographSheet.load(pictures, "test")
    whole = photographs.crop(0, 1.0, [0.0, 0.0], 100)
    expected = F.interpolate(
        photographs.pixels[0][None, :, :, :300].float() / 255, (100, 100), mode="bilinear", antialias=True
    )[0]
    assert torch.equal(whole, expected.clamp(0, 1)), "at zoom 1 the shorter side is seen whole"
    enlarged = photographs.crop(0, 0.0, [1.0, 1.0], 100)
    corner = F.interpolate(
        photographs.pixels[0][None, :, 240:, 320:].float() / 255, (100, 100), mode="bilinear", antialias=True
    )[0]
    assert torch.equal(enlarged, corner.clamp(0, 1))
    first, second = (photographs.crops(Draw(torch.Generator().manual_seed(1)), 6, 64)[0] for _ in range(2))
    assert torch.equal(first, second) and first.min() >= 0 and first.max() <= 1


def test_jpeg_blocks_lose_fine_detail_and_keep_the_mean():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    blocked = in_jpeg_blocks(Draw(torch.Generator().manual_seed(0)), image)
    assert 0.002 < (blocked - image).abs().mean() < 0.1
    means = [x.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).mean((3, 5)) for x in (blocked, image)]
    assert (means[0] - means[1]).abs().max() < 0.01


def test_scenes_without_photographs_stay_the_same_bits(canvases):
    before, now = (
        compose(sheet(), 8, 64, torch.Generator().manual_seed(4)),
        compose(canvases, 8, 64, torch.Generator().manual_seed(4)),
    )
    assert torch.equal(before.image, now.image) and torch.equal(before.mask, now.mask)


def test_scenes_on_photographs(canvases):
    recipe = Recipe(photographs=1.0, outward=0.5)
    scenes = compose(canvases, 96, 64, torch.Generator().manual_seed(4), recipe)
    outside = scenes.mask < 0.5
    assert torch.equal(scenes.image * outside, scenes.empty * outside), "outside the mask nothing was put"
    bare = scenes.seen == UNKNOWN
    assert bare.sum() > 30 and (~bare).sum() > 20
    removed = scenes.label == len(canvases)
    assert 30 < removed.sum() < 70 and torch.equal(scenes.image[removed], scenes.empty[removed])
    touching = (
        (scenes.mask[:, 0, 0].mean(1) == 1)
        | (scenes.mask[:, 0, -1].mean(1) == 1)
        | (scenes.mask[:, 0, :, 0].mean(1) == 1)
    )
    assert touching.sum() > 15, "holes along whole sides"
    shares = [
        float(compose(canvases, 64, 64, torch.Generator().manual_seed(5), Recipe(photographs=p, drawn=0)).image.std())
        for p in (0.0, 1.0)
    ]
    assert shares[0] != shares[1]


def test_bare_photographs_are_of_the_first_style(canvases):
    scenes = compose(canvases, 64, 64, torch.Generator().manual_seed(6), replace(Recipe(), photographs=1.0, far=0.0))
    nothing = (
        (scenes.empty.flatten(1).unsqueeze(0) - scenes.empty.flatten(1).unsqueeze(1)).abs().sum(-1)
    )  # different canvases each
    assert (nothing + torch.eye(64)).min() > 0
    assert (scenes.style[scenes.seen == UNKNOWN] == 0).float().mean() > 0.9, (
        "others are hidden by the hole now and then"
    )
    assert (scenes.style[scenes.seen != UNKNOWN] != 0).any()


def test_where_nothing_is_to_be_seen_the_style_read_is_the_first():
    """Holes of the whole canvas hide all others; the pictures stay as they were."""
    recipe = Recipe(everything=0.5)
    scenes, read = (
        compose(sheet(), 64, 64, torch.Generator().manual_seed(7), replace(recipe, read_nothing=r))
        for r in (False, True)
    )
    assert torch.equal(scenes.image, read.image)
    hidden = scenes.mask.mean((1, 2, 3)) == 1
    assert hidden.sum() > 20 and (scenes.style[hidden] > 0).any() and (read.style[hidden] == 0).all()
    shown = scenes.seen != UNKNOWN
    assert torch.equal(scenes.style[shown], read.style[shown])


def test_a_recipe_with_photographs_needs_them():
    with pytest.raises(ValueError, match="needs a sheet with photographs"):
        compose(sheet(), 4, 64, torch.Generator().manual_seed(0), Recipe(photographs=1.0))


def test_masks_along_the_sides():
    masks = edge_masks(Draw(torch.Generator().manual_seed(0)), 200, 64)[:, 0]
    sides = (
        torch.stack([masks[:, :, 0].mean(1), masks[:, :, -1].mean(1), masks[:, 0].mean(1), masks[:, -1].mean(1)], 1)
        == 1
    )
    assert sides.any(1).all() and set(sides.sum(1).tolist()) == {1, 2, 4}
    assert (
        masks.mean((1, 2)).max() < 0.9
        and masks.mean((1, 2)).min() > 0.05
        and set(masks.unique().tolist()) == {0.0, 1.0}
    )


def test_surfaces_are_pictures_and_differ():
    made = surfaces(Draw(torch.Generator().manual_seed(0)), 12, 64)
    assert made.shape == (12, 3, 64, 64) and made.min() >= 0 and made.max() <= 1 and bool(torch.isfinite(made).all())
    assert (made.flatten(1).std(1) > 0.005).float().mean() > 0.8


def test_evaluation_on_held_out_photographs(pictures):
    args = parse(["--canvas", "photographs", "--edits", "40"])
    scenes = edits_of(sheet().with_photographs(pictures, "test"), args, 40, args.seed)
    assert (
        len(scenes.label) == 40
        and (scenes.label < 16).all()
        and not scenes.unseen.any()
        and scenes.mask.mean((1, 2, 3)).max() < 0.6
    )
    assert 10 < (scenes.seen == UNKNOWN).sum() < 32
    assert parse(["--canvas", "512"]).canvas == 512


def test_removal_is_measured_by_what_was_there(pictures):
    photographs = PhotographSheet.load(pictures, "test")
    image, mask = removal.edits(Draw(torch.Generator().manual_seed(0)), sheet().sprites, photographs, 6, 0.0)
    perfect, flat = (
        removal.measure("real", image, image, mask),
        removal.measure("grey", image * (1 - mask) + 0.5 * mask, image, mask),
    )
    assert perfect["psnr"][0] == 60 and perfect["seam"] == 1 and 0.5 < perfect["energy"] < 2
    assert flat["psnr"][0] < 20 and flat["energy"] == 0 and flat["seam"] > 1
    _, strips = removal.edits(Draw(torch.Generator().manual_seed(0)), sheet().sprites, photographs, 6, 0.25)
    assert strips.mean((1, 2, 3)).tolist() == pytest.approx([51 / 256] * 6)
