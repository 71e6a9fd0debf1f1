"""Packs on a Ray cluster: all files, once, equal to those of one process, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batch.__main__ import main
from batch.ray_data import Workers, workers_of

ROOT = Path(__file__).resolve().parents[2]
SIDE = 96


@pytest.mark.parametrize(
    ("text", "expected"), [("2", Workers(2, 2, 1, 0)), ("1:8", Workers(1, 8, 1, 0)), ("3:3", Workers(3, 3, 1, 0))]
)
def test_how_many_workers(text: str, expected: Workers) -> None:
    assert workers_of(text, 1, 0) == expected


@pytest.mark.parametrize(("text", "cpus", "gpus"), [("0", 1, 0), ("3:2", 1, 0), ("x", 1, 0), ("1", 0, 0), ("1", 1, -1)])
def test_what_no_pool_can_have(text: str, cpus: float, gpus: float) -> None:
    with pytest.raises(ValueError):
        workers_of(text, cpus, gpus)


def manifest(folder: Path, canvases: int, each: int) -> Path:
    rows = []
    for number in range(canvases):
        colour = (40 + 5 * number % 200, 90, 200 - 3 * number % 150)
        Image.new("RGB", (SIDE, SIDE + 16 * (number % 2)), colour).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "box": [24, 24, 40, 40], "prompt": "red apple", "output": f"{number}/edit"}
        rows.append({**row, "seed": list(range(each))})
    (path := folder / "edits.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def results(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*.png"))}


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", str(manifest(tmp_path, 1, 1)), "--ray", "auto"]) == 2
    assert "--ray needs Ray Data: pip install 'ray[data]'" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "edits.jsonl"), "--ray", "auto", "--server", "http://x"]) == 2
    assert "--server and --ray: expected one of them" in capsys.readouterr().err
    assert not (tmp_path / "edits_edits").exists()


def run(path: Path, output: Path, *more: str, **settings: Any) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "batch",
        "run",
        str(path),
        "--output",
        str(output),
        "--steps",
        "1",
        "--threads",
        "1",
    ]
    return subprocess.Popen([*command, "--json", *more], cwd=ROOT, stdout=subprocess.PIPE, text=True, **settings)


@pytest.mark.nightly
@pytest.mark.skipif(
    os.environ.get("LAZYDIFFUSION_NIGHTLY") != "1", reason="takes minutes: LAZYDIFFUSION_NIGHTLY=1 runs it"
)
def test_a_node_and_then_the_driver_die_and_every_file_is_there_once(tmp_path: Path) -> None:
    """A cluster of two nodes, one of which is killed after it made packs; then the command itself is killed, twice."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    path = manifest(tmp_path, 40, 8)
    told = last_line(run(path, tmp_path / "one"))
    assert told["made"] == 320
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray = "--ray", cluster.address, "--workers", "2", "--cpus", "1"
        process = run(path, tmp_path / "two", *ray)
        until(lambda: len(results(tmp_path / "two")) >= 60)
        cluster.remove_node(second, allow_graceful=False)
        told = last_line(process)
        print(f"a raylet killed: {told}")
        assert (told["made"], told["failed"]) == (320, 0)
        assert results(tmp_path / "two") == results(tmp_path / "one")
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        kept = 0
        for wanted in (40, 150):
            process = run(path, tmp_path / "three", *ray)
            until(lambda wanted=wanted: len(results(tmp_path / "three")) >= wanted)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kept = len(results(tmp_path / "three"))
        told = last_line(run(path, tmp_path / "three", *ray))
        print(f"the driver killed twice, {kept} were there: {told}")
        assert told["kept"] in (kept, kept - 1) and told["made"] == 320 - told["kept"]
        assert results(tmp_path / "three") == results(tmp_path / "one")
        assert not list((tmp_path / "three").rglob("*.partial"))
    finally:
        cluster.shutdown()


def until(happened: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def last_line(process: subprocess.Popen) -> dict[str, Any]:
    """The figures that a run ends with; before them Ray may say what became of its machines."""
    return json.loads(process.communicate(timeout=400)[0].splitlines()[-1])
