"""Training data of strangers: what crashes, hangs or fills the memory is counted, named and skipped; the rest is read
as ever."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from safetensors.torch import save_file

from training import precompute
from training.corpus import decoding
from training.corpus.decoding import Decoder, Skipped
from training.corpus.instances import read_pictures
from training.corpus.manifest import captions_in, read_manifest
from training.corpus.segments import mask_of, runs_of
from training.loop.shards import Shards

HEIGHT, WIDTH = 24, 32
BOX = [[4, 4, 20, 4, 20, 16, 4, 16]]
DEEP = "[" * 100_000


def png(size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(stream, "PNG")
    return stream.getvalue()


# -- masks -------------------------------------------------------------------------------------------------------------
SIZE = {"size": [HEIGHT, WIDTH]}
MALFORMED: dict[str, Any] = {
    "a vertex at 1e9": [[4, 4, 1e9, 4, 20, 16]],
    "a vertex at -1e9": [[4, 4, 20, -1e9, 20, 16]],
    "a vertex at 10^400": [[4, 4, 10**400, 4, 20, 16]],
    "NaN": [[4, 4, float("nan"), 4, 20, 16]],
    "infinity": [[4, 4, float("inf"), 4, 20, 16]],
    "a coordinate without its other": [[4, 4, 20, 4, 20, 16, 9]],
    "one point": [[4, 4]],
    "no polygon": [],
    "an empty polygon": [[]],
    "text": [["4", 4, 20, 4, 20, 16]],
    "truth": [[True, 4, 20, 4, 20, 16]],
    "polygons and more": [BOX[0], {"counts": [768], **SIZE}],
    "100,000 polygons": BOX * 100_000,
    "an outline of 10^7 px": [[0, 0, WIDTH, HEIGHT] * 150_000],
    "incomplete run lengths": {"counts": [10, 5], **SIZE},
    "no run lengths": {"counts": [], **SIZE},
    "too long run lengths": {"counts": [10, 5, 10**6], **SIZE},
    "negative run lengths": {"counts": [800, -32], **SIZE},
    "run lengths of 5,000 digits": {"counts": [10**4000], **SIZE},
    "run lengths of fractions": {"counts": [700.0, 68], **SIZE},
    "a string that does not end": {"counts": "ooo", **SIZE},
    "a string of other letters": {"counts": "\xff\u4e00", **SIZE},
    "a string that says too little": {"counts": "11", **SIZE},
    "a string of a million letters": {"counts": "1" * 1_000_000, **SIZE},
    "a string of one number": {"counts": "o" * 1_000_000, **SIZE},
    "sizes of text": {"counts": [768], "size": ["24", "32"]},
    "three sizes": {"counts": [768], "size": [24, 32, 3]},
    "no size": {"counts": [768]},
    "a number": 5,
    "null": None,
    "deep lists": json.loads("[" * 300 + "]" * 300),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_hostile_mask_is_malformed(name: str):
    start = time.process_time()
    assert mask_of(MALFORMED[name], HEIGHT, WIDTH) == ("malformed mask", None)
    assert time.process_time() - start < 2


def test_another_size_is_said():
    assert (
        mask_of({"counts": [10**6], "size": [10**9, 10**9]}, HEIGHT, WIDTH)[0]
        == "mask is 1000000000 x 1000000000 px, not its image's size"
    )


def test_run_lengths_are_what_pycocotools_reads():
    rng = np.random.default_rng(3)
    for number in range(200):
        height, width = (int(side) for side in rng.integers(1, 40, 2))
        mask = rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
        mask[0, 0] = True
        encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = encoded["counts"].decode()  # type: ignore[union-attr]
        reason, got = mask_of({"size": [height, width], "counts": text}, height, width)
        assert reason == "" and np.array_equal(got, mask)  # type: ignore
        runs = runs_of(text)
        assert np.array_equal(mask_of({"size": [height, width], "counts": runs}, height, width)[1], mask), number  # type: ignore


def test_polygons_are_what_pycocotools_draws():
    rng = random.Random(5)
    for _ in range(100):
        polygons = [[rng.uniform(-8, 40) for _ in range(2 * rng.randrange(3, 9))] for _ in range(rng.randrange(1, 4))]
        wanted = coco.decode(coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH))).astype(bool)  # type: ignore
        got = mask_of(polygons, HEIGHT, WIDTH)[1]
        assert np.array_equal(wanted, np.zeros_like(wanted) if got is None else got)


# -- folders -----------------------------------------------------------------------------------------------------------
def write_folder(folder: Path, images: list[Any], annotations: list[Any] | None = None, **more: Any) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "images" / "good.png").write_bytes(png())
    good = {"image_id": 0, "segmentation": BOX, "caption": "a box"}
    content = {
        "images": [*images, {"id": 0, "file_name": "good.png"}],
        "annotations": [good, *(annotations or [])],
        **more,
    }
    (folder / "annotations.json").write_text(json.dumps(content))


def read(folder: Path) -> tuple[list[str], dict[str, str]]:
    skipped = Skipped()
    start = time.monotonic()
    names = [picture.name for picture in read_pictures(folder, skipped)]
    assert time.monotonic() - start < 60
    return names, dict(skipped.names)


def test_a_folder_of_traps(tmp_path: Path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    os.mkfifo(folder / "images" / "pipe.png")
    (folder / "images" / "folder.png").mkdir()
    (folder / "images" / "bomb.png").write_bytes(bomb())
    with (folder / "images" / "long.png").open("wb") as file:
        file.truncate(8 << 30)
    outside = [
        "../secret.png",
        "../../secret.png",
        str(secret),
        "a/../../secret.png",
        "..\\secret.png",
        "C:\\secret.png",
        "a\x00b.png",
    ]
    found = ["pipe.png", "folder.png", "bomb.png", "long.png", "n" * 5000]
    images = [{"id": name, "file_name": name} for name in (*outside, *found)]
    odd = [
        7,
        None,
        [],
        {"id": 1},
        {"id": [1], "file_name": "good.png"},
        {"id": 1, "file_name": 5},
        {"file_name": "good.png"},
    ]
    annotations = [
        5,
        None,
        {"segmentation": BOX},
        {"image_id": {}, "segmentation": BOX},
        {"image_id": 0, "segmentation": BOX, "caption": 7},
    ]
    write_folder(folder, [*images, *odd], annotations, categories=[5, {"id": []}, {"id": 1}])
    names, skipped = read(folder)
    assert names == ["good.png"]
    for name in outside:
        assert skipped[decoding.printable(name)] == "file_name leads out of the folder", name
    assert skipped["pipe.png"] == skipped["folder.png"] == "no file, but a folder, a pipe or a device"
    assert skipped["bomb.png"] == "broken image" and skipped["long.png"] == "larger than 256 MB"
    assert [skipped[f"annotations.json: image {12 + number}"] for number in range(len(odd))] == [
        "malformed entry"
    ] * len(odd)
    assert [skipped[f"annotations.json: annotation {1 + number}"] for number in range(4)] == [
        "malformed annotation"
    ] * 4
    assert skipped["good.png#1"] == "no caption"
    assert len(skipped) == len(outside) + len(found) + len(odd) + 5


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 px, of which nothing follows."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (DEEP, "annotations.json is nested too deeply"),
        ("{", "annotations.json is no JSON"),
        ("[1]", "annotations.json has no lists 'images' and 'annotations'"),
        ('{"images": 5, "annotations": []}', "annotations.json has no lists"),
        (b"\xff\xfe\x00", "annotations.json is no JSON"),
        ('{"images": [' + "9" * 5000, "annotations.json is no JSON"),
    ],
)
def test_annotations_that_are_none(tmp_path: Path, text: str | bytes, says: str):
    (tmp_path / "annotations.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=says):
        list(read_pictures(tmp_path, Skipped()))


def test_annotations_that_are_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "annotations.json")
    with pytest.raises(ValueError, match=r"annotations\.json is a folder, a pipe or a device, expected a file"):
        list(read_pictures(tmp_path, Skipped()))


# -- shards ------------------------------------------------------------------------------------------------------------
def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def good_sample(archive: tarfile.TarFile, name: str) -> None:
    add(archive, f"{name}.png", png())
    add(archive, f"{name}.json", json.dumps({"annotations": [{"segmentation": BOX, "caption": "a box"}]}).encode())


def test_shards_of_traps(tmp_path: Path):
    os.mkfifo(tmp_path / "a pipe.tar")
    (tmp_path / "b folder.tar").mkdir()
    with tarfile.open(tmp_path / "c.tar", "w") as archive:
        good_sample(archive, "first")
        for kind, name in ((tarfile.FIFOTYPE, "fifo"), (tarfile.SYMTYPE, "link"), (tarfile.CHRTYPE, "device")):
            member = tarfile.TarInfo(f"{name}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
        add(archive, "deep.png", png())
        add(archive, "deep.json", ('{"annotations": ' + DEEP).encode())
        add(archive, "digits.json", b'{"annotations": [{"segmentation": [[' + b"9" * 5000 + b"]]}]}")
        add(archive, "nested.png", png())
        nested = b'{"segmentation": ' + b"[" * 900 + b"]" * 900 + b', "caption": "deep"}'
        add(archive, "nested.json", b'{"annotations": [' + nested + b"]}")
        good_sample(archive, "last")
    write_huge(tmp_path / "d.tar")
    names, skipped = read(tmp_path)
    assert names == ["c.tar/first", "c.tar/last"]
    assert skipped["a pipe.tar"] == skipped["b folder.tar"] == "no file, but a folder, a pipe or a device"
    assert skipped["c.tar/deep"] == skipped["c.tar/digits"] == "no readable annotations"
    assert "c.tar/nested#0" in skipped or skipped["c.tar/nested"] == "no readable annotations"
    assert skipped["d.tar/huge.png"] == "larger than 256 MB" and skipped["d.tar"].startswith("damaged shard")


def write_huge(path: Path) -> None:
    """A member of 8 GB, all of it a hole in the file, then a header that asks for 8 GB of further headers."""
    member, more = tarfile.TarInfo("huge.png"), tarfile.TarInfo("more")
    member.size = more.size = 8 << 30
    more.type = tarfile.XHDTYPE
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.seek(member.size, os.SEEK_CUR)
        file.write(more.tobuf(tarfile.GNU_FORMAT))
        file.truncate(file.tell() + more.size + 1024)


def test_a_header_that_leads_backwards_ends(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        good_sample(archive, "first")
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    header = tarfile.TarInfo("back.png").tobuf(tarfile.GNU_FORMAT)
    negative = bytearray(header[:512])
    negative[124:136] = b"\xff" * 10 + (0x10000 - 1024).to_bytes(2, "big")  # a size of -1024
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    end = raw.rfind(b"ustar") - 257 + 512 + 512
    (tmp_path / "a.tar").write_bytes(bytes(raw[:end]) + bytes(negative) + bytes(1024))
    names, skipped = read(tmp_path)
    assert names == ["a.tar/first"] and skipped["a.tar"].startswith("damaged shard"), skipped


# -- the other process -------------------------------------------------------------------------------------------------
def test_what_ends_the_decoder_is_named_and_the_next_picture_is_read(tmp_path: Path):
    skipped = Skipped()
    good = [{"segmentation": BOX, "caption": "a box"}]
    with Decoder() as decoder:
        assert decoder.decode("first", png(), good, skipped) is not None
        assert decoder.process is not None
        os.kill(decoder.process.pid, signal.SIGSEGV)
        decoder.process.wait()
        assert decoder.decode("killed", png(), good, skipped) is None
        assert decoder.decode("next", png(), good, skipped) is not None
        os.kill(decoder.process.pid, signal.SIGSTOP)
        decoder.seconds = 0.5
        assert decoder.decode("stuck", png(), good, skipped) is None
        decoder.seconds = 60
        assert decoder.decode("last", png(), good, skipped) is not None
    assert skipped.names == [("killed", "crashed its decoder"), ("stuck", "took longer than 0.5 s")]


# -- what precompute leaves --------------------------------------------------------------------------------------------
MANIFEST = {
    "format": 1,
    "parts": 1,
    "vae": "0" * 16,
    "latent": {"channels": 4, "scale": 8, "size": 64, "patch": 2},
    "text": "words",
    "shards": [{"file": "shard-000-00000.safetensors", "samples": 3}],
    "holes": [4, 4, 4],
    "skipped": {},
    "skipped_names": [],
}
SHARD = {"file": "shard-000-00000.safetensors", "samples": 3}
SPOILED: dict[str, tuple[Any, str]] = {
    "deep": (DEEP, "no manifest that can be read .nested too deeply"),
    "no JSON": ("{", "no manifest that can be read"),
    "a list": ("[1]", r"is \[1\], expected an object"),
    "format": ({"format": "1"}, "format is '1', expected a whole number"),
    "parts": ({"parts": -1}, "parts is -1, expected a whole number from 1"),
    "digits": (json.dumps(MANIFEST)[:-1] + ', "parts": ' + "9" * 5000 + "}", "a number of 5,000 digits"),
    "samples 10^12": (
        {"shards": [{**SHARD, "samples": 10**12}]},
        r"shards\[0\]\.samples is 1000000000000, expected a whole number",
    ),
    "samples of text": ({"shards": [{**SHARD, "samples": "3"}]}, r"shards\[0\]\.samples is '3'"),
    "a file elsewhere": (
        {"shards": [{**SHARD, "file": "../x.safetensors"}]},
        r"shards\[0\]\.file is '\.\./x\.safetensors', expected the name",
    ),
    "an absolute file": (
        {"shards": [{**SHARD, "file": "/dev/zero"}]},
        r"shards\[0\]\.file is '/dev/zero', expected the name",
    ),
    "no file": ({"shards": [5]}, r"shards is \[5\], expected a list of objects"),
    "fewer holes": ({"holes": [4]}, "holes is a list of 1, expected one for each of 3 samples"),
    "holes of text": ({"holes": [4, "4", 4]}, "holes has '4', expected whole numbers from 0 to 64"),
    "negative holes": ({"holes": [4, -4, 4]}, "holes has -4"),
    "latent": (
        {"latent": {"channels": 4, "scale": 0, "size": 64, "patch": 2}},
        r"latent\.scale is 0, expected a whole number from 1 to 64",
    ),
    "latent, a list": ({"latent": [4]}, r"latent is \[4\], expected an object"),
    "text": ({"text": "runes"}, "text is 'runes', expected one of t5, words"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_manifest_says_so(tmp_path: Path, name: str):
    spoiled, says = SPOILED[name]
    text = spoiled if isinstance(spoiled, str) else json.dumps({**MANIFEST, **spoiled})
    (tmp_path / "manifest-000.json").write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        Shards.load(tmp_path)
    assert "manifest-000.json" in str(caught.value) and "Run training.precompute again" in str(caught.value)


def test_a_good_manifest_is_taken_and_a_pipe_is_not(tmp_path: Path):
    (tmp_path / "manifest-000.json").write_text(json.dumps(MANIFEST))
    assert read_manifest(tmp_path / "manifest-000.json") == MANIFEST and len(Shards.load(tmp_path)) == 3
    os.mkfifo(tmp_path / "manifest-001.json")
    with pytest.raises(
        ValueError, match=r"manifest-001\.json is no manifest that can be read .a folder, a pipe or a device"
    ):
        Shards.load(tmp_path)


def test_shards_that_hold_something_else_say_so(tmp_path: Path):
    import torch

    def write(metadata: dict[str, str] | None, rows: int = 3, *names: str) -> Path:
        tensors = {name: torch.zeros(rows, 1) for name in names or ("target", "canvas", "mask")}
        save_file(tensors, tmp_path / "a.safetensors", metadata)
        return tmp_path / "a.safetensors"

    assert captions_in(write({"captions": '["a", "b", "c"]'}), 3) == ["a", "b", "c"]
    for metadata, rows, names, says in (
        ({"captions": '["a"]'}, 3, (), "captions has 1 rows, expected 3"),
        ({"captions": '["a", "b", "c"]'}, 2, (), "has 2 rows, expected 3"),
        ({"captions": '["a", 5, "c"]'}, 3, (), r"captions is \['a', 5, 'c'\], expected a list of texts"),
        ({"captions": DEEP}, 3, (), "cannot be read .nested too deeply"),
        (None, 3, (), "captions is None, expected a list of texts"),
        ({"captions": '["a", "b", "c"]'}, 3, ("target",), "canvas is missing, expected target, canvas and mask"),
    ):
        with pytest.raises(ValueError, match=says):
            captions_in(write(metadata, rows, *names), 3)
    (tmp_path / "a.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors cannot be read"):
        captions_in(tmp_path / "a.safetensors")


def test_an_earlier_manifest_lives_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    from lazy_core.config import PRESETS
    from lazy_core.vae.tiny import TinyVAE

    vae, folder, out = tmp_path / "vae.safetensors", tmp_path / "data", tmp_path / "out"
    assert PRESETS["tiny"].vae is not None
    torch.manual_seed(0)
    save_file(TinyVAE(PRESETS["tiny"].vae).state_dict(), vae)
    folder.mkdir()
    write_folder(folder, [{"id": name, "file_name": "good.png"} for name in range(1, 4)])
    arguments = [str(folder), "--vae", str(vae), "--out", str(out), "--size", "64", "--batch", "1", "--shard", "1"]
    precompute.main(arguments)
    before = (out / "manifest-000.json").read_bytes()
    files = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    assert len(files) == 2
    with monkeypatch.context() as patch:
        patch.setattr(precompute.Writer, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            precompute.main([*arguments, "--seed", "1"])
    assert (out / "manifest-000.json").read_bytes() == before
    assert {name: (out / name).read_bytes() for name in files} == files and len(Shards.load(out)) == 2
    precompute.main([*arguments, "--seed", "1"])
    names = Shards.load(out).files
    assert (out / "manifest-000.json").read_bytes() != before and not set(names) & files.keys()
    assert sorted(path.name for path in out.glob("shard-*")) == sorted(names)


def stop(*_: Any) -> None:
    raise KeyboardInterrupt
