"""Stand-ins for stock checkpoints: made of the host's own classes, trained, saved, loaded again, and edited with by
every policy.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from training import classifier

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("apple", "panda", "pizza", "rocket", "star", "fish", "tree", "robot")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight squares in two styles, and judges that saw them for a step."""
    folder = tmp_path_factory.mktemp("standins")
    sprites = torch.randint(
        0, 255, (2, len(WORDS), 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sprites[:, :, 3] = 255
    names = [{"code": word, "en": [word], "zh": [word]} for word in WORDS]
    save_file(
        {"sprites": sprites},
        folder / "sprites.safetensors",
        metadata={"names": json.dumps(names), "styles": '["3d", "flat"]'},
    )
    classifier.main(
        [
            "--data",
            str(folder / "sprites.safetensors"),
            "--out",
            str(folder / "judge.safetensors"),
            "--steps",
            "1",
            "--held-out",
            "8",
        ]
    )
    return folder


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LONG = pytest.mark.nightly


@pytest.mark.parametrize("family", ["sd3", pytest.param("flux-fill", marks=LONG), pytest.param("pixart", marks=LONG)])
def test_a_stand_in_is_trained_and_measured(family: str, data: Path, host: Path):
    model = data / family / "model.safetensors"
    settings = ["--data", str(data / "sprites.safetensors"), "--objects", "6", "--out", str(model.parent)]
    run(
        "benchmarks.standins",
        "--family",
        family,
        *settings,
        "--steps",
        "2",
        "--batch",
        "2",
        "--pool",
        "16",
        "--fresh",
        "0",
    )
    report = data / f"{family}.json"
    weights = load_file(model)
    norms = [name for name in weights if "norm" in name or ".ln_" in name]
    assert bool(norms) == (family != "pixart"), "PixArt has none with weights"
    assert all(weights[name].abs().max() > 0.5 for name in norms if weights[name].dim() == 1), (
        "attention that is not uniform"
    )
    told = [
        "--data",
        str(data / "sprites.safetensors"),
        "--judge",
        str(data / "judge.safetensors"),
        "--json",
        str(report),
    ]
    printed = run(
        "benchmarks.fidelity",
        str(model),
        *told,
        "--edits",
        "1",
        "--steps",
        "15",
        "--cfg",
        "2",
        "--picture",
        str(data / "p.png"),
    )
    assert f"'family': '{family}', 'objects': 6" in printed
    rows = {row["policy"]: row for row in json.loads(report.read_text())["rows"]}
    assert set(rows) == {"full", "balanced", "fast", "balanced, fp8", "fast, fp8", "stale", "crop"}
    assert rows["full"]["token_steps"] == 1.0 and rows["full"]["psnr"] is None
    assert rows["fast"]["token_steps"] < rows["balanced"]["token_steps"] < 1
    assert all(0 < rows[policy]["psnr"][0] <= 60 for policy in ("balanced", "fast, fp8", "stale", "crop"))
    assert (data / "p.png").stat().st_size > 1000
