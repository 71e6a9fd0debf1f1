"""`dev.py demo`: how it reads pictures and changes workflows, and the whole of it against the real server."""

from __future__ import annotations

import copy
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from devtools import demo, environment, places
from devtools.png import SIGNATURE, read_png, same_outside
from devtools.problem import Problem

ROOT = places.ROOT
WORKFLOWS = sorted(path.stem for path in demo.WORKFLOWS.glob("*.json"))


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def filtered_png(pixels: np.ndarray, kind: int) -> bytes:
    """[H, W, C] uint8 as a PNG all of whose rows use one filter (PNG specification, section 9.2)."""
    height, width, channels = pixels.shape
    now = pixels.astype(int)
    left, up, corner = (np.zeros_like(now) for _ in range(3))
    left[:, 1:], up[1:], corner[1:, 1:] = now[:, :-1], now[:-1], now[:-1, :-1]
    estimate = left + up - corner
    a, b, c = (abs(estimate - near) for near in (left, up, corner))
    paeth = np.where((a <= b) & (a <= c), left, np.where(b <= c, up, corner))
    rows = (now - [0 * now, left, up, (left + up) // 2, paeth][kind]) % 256
    raw = b"".join(bytes([kind]) + row.astype(np.uint8).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tEXt", b"prompt\0{}"), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return SIGNATURE + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )


@pytest.mark.parametrize("kind", range(5))
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_read_png_knows_every_filter(channels: int, kind: int):
    pixels = np.random.default_rng(kind).integers(0, 256, (17, 23, channels), dtype=np.uint8)
    data = filtered_png(pixels, kind)
    assert (np.asarray(Image.open(io.BytesIO(data))) == pixels.squeeze()).all()  # what the test writes is right
    picture = read_png(data)
    assert (picture.width, picture.height, picture.channels) == (23, 17, channels)
    assert picture.pixels == pixels.tobytes()


@pytest.mark.parametrize("data", [b"", b"<html>", png(np.zeros((4, 4), np.uint8))[:20]])
def test_read_png_refuses_other_data(data: bytes):
    with pytest.raises(Problem):
        read_png(data)


def test_same_outside_sees_one_changed_pixel():
    canvas = np.random.default_rng(1).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    mask = np.zeros_like(canvas)
    mask[2:5, 3:8] = 255
    inside, outside = canvas.copy(), canvas.copy()
    inside[3, 4] ^= 1
    outside[5, 8] ^= 1
    pictures = {
        name: read_png(png(pixels))
        for name, pixels in {"canvas": canvas, "mask": mask, "in": inside, "out": outside}.items()
    }
    assert same_outside(pictures["canvas"], pictures["in"], pictures["mask"])
    assert not same_outside(pictures["canvas"], pictures["out"], pictures["mask"])
    assert not same_outside(pictures["canvas"], read_png(png(canvas[:, 1:])), pictures["mask"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_changing_a_workflow_leaves_the_original(name: str):
    prompt = demo.load_workflow(name)
    before = copy.deepcopy(prompt)
    for changed in (demo.with_seed(prompt, 1), demo.on_all_tokens(prompt), demo.on_inverted_canvas(prompt)):
        assert changed != before
    assert prompt == before


def test_edits_follow_from_each_other():
    """`2_edit_after_edit` is at least four edits with different prompts, each on the result of the one before."""
    prompt = demo.load_workflow("2_edit_after_edit")
    edits = list(demo.edits_of(prompt))
    assert len(edits) >= 4
    assert [canvas for canvas, _, _ in edits[1:]] == [result for _, _, result in edits[:-1]]
    positives = {prompt[prompt[result[0]]["inputs"]["positive"][0]]["inputs"]["text"] for _, _, result in edits}
    assert len(positives) == len(edits)


@pytest.mark.parametrize(
    ("counts", "runs"), [([2, 3, 4, 4, 4, 4], 1), ([2, 3, 4, 5, 6, 7], 3), ([2, 3, 4, 3, 4, 3], 1)]
)
def test_encoder_runs_counts_the_edits_in_the_hole_alone(counts: list[int], runs: int):
    """`counts` are the server's counter after the warm-up, then after each edit: in the hole, on all tokens, in the
    hole, ...
    """
    common = {
        "hole_fraction": 0.1,
        "hole_tokens": 25,
        "all_tokens": 256,
        "steps": 20,
        "encode_ms": 5.0,
        "step_ms": 2.0,
        "total_ms": 40.0,
    }
    before, *edits = ({**common, "encoder_runs": count} for count in counts)
    assert demo.summary(before, edits[0::2], edits[1::2])["encoder_runs"] == runs


@pytest.mark.host
def test_demo_end_to_end(tmp_path: Path):
    """Pictures, figures and exit code; nothing appears in the user's home folder, and nothing of the server's is left
    behind.
    """
    if not environment.is_finished(places.environment_folder()):
        pytest.skip("no environment of dev.py's: run the tests with `python dev.py test`")
    user = tmp_path / "user"
    user.mkdir()
    servers = places.home() / "servers"
    before = set(servers.iterdir()) if servers.is_dir() else set()
    variables = os.environ | {"HOME": str(user), "USERPROFILE": str(user), "LAZYDIFFUSION_HOME": str(places.home())}
    variables.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(
        [sys.executable, str(ROOT / "dev.py"), "demo", "--json"], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["host_version"].count(".") == 2
    assert 0.05 < figures["hole_fraction"] < 0.15
    assert figures["hole_tokens"] < figures["all_tokens"] / 8
    assert figures["encoder_runs"] == 1
    assert figures["encode_ms"] > 0
    assert figures["step_ratio"] == pytest.approx(figures["full_step_ms"] / figures["step_ms"], rel=0.01)
    assert figures["step_ratio"] > 1
    assert figures["outside_identical"] is True
    names = ["canvas", "mask", "result", "edit_after_edit"]
    assert [Path(image).stem for image in figures["images"]] == names
    canvas, mask, result, strip = (np.asarray(Image.open(ROOT / image).convert("RGB")) for image in figures["images"])
    hole = mask.any(axis=-1)
    assert (canvas[~hole] == result[~hole]).all()
    assert (canvas[hole] != result[hole]).any()
    assert strip.shape[1] > 4 * strip.shape[0]
    assert list(user.iterdir()) == []
    assert set(servers.iterdir()) == before
