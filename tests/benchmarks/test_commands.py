"""The benchmark measures what it says: holes, ratios, counted operations, and the format of its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import beside
from benchmarks.__main__ import Bench, case_of
from benchmarks.holes import KINDS, hole
from benchmarks.report import pictures, write
from benchmarks.stages import METHODS, Case, Stages
from benchmarks.timing import Timed, in_turn, line, ratio

CPU = torch.device("cpu")
FIELDS = {"stage", "method", "preset", "device", "size", "hole", "batch", "ms", "peak_bytes"}


@pytest.fixture(scope="module")
def stages() -> Stages:
    return Stages("tiny", CPU, torch.float32, guided=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 1.0])
def test_holes_cover_their_share(kind: str, share: float):
    mask = hole(kind, share, 512)
    assert mask.shape == (512, 512)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(share, rel=0.05)


def test_methods_compute_the_tokens_that_they_say(stages: Stages):
    """256 px: 256 tokens; a quarter of them for the crop; the hole's for lazy."""
    case = case_of(256, 0.1)
    assert [stages.tokens(method, case) for method in METHODS] == [
        [36],
        [256],
        [64],
    ]  # 81 px touch 6 tokens a side here
    two = Case(256, torch.stack([hole("compact", 0.1, 256), hole("compact", 0.3, 256)]), 0.2, "compact")
    assert len(stages.tokens("lazy", two)) == 2


@pytest.mark.parametrize("method", METHODS)
def test_a_steps_operations_are_those_that_run(stages: Stages, method: str):
    case = case_of(256, 0.1)
    work = stages.step(method, case)
    # The counter does not know the CPU's flash kernel
    with (
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        work()
    assert stages.step_flops(method, case) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_edits_of_every_method_run(stages: Stages):
    """Each computes what its name says: pictures of the canvas's size, or of the crop's, and latents of these."""
    case, config = case_of(64, 0.2), stages.config
    for method in METHODS:
        side = 32 if method == "crop" else 64
        picture, latent = (
            (1, 3, side, side),
            (1, config.latent_channels, side // config.latent_scale, side // config.latent_scale),
        )
        works = (*stages.edit(method, case, 2), *stages.vae(method, case))
        results: list[Any] = [work() for work in works]
        assert [tuple(result.shape) for result in results] == [picture, picture, latent, picture]
        assert all(bool(result.isfinite().all()) for result in results[:3])


def test_methods_take_turns():
    order: list[str] = []
    works = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = in_turn(works, CPU, 3)
    assert order == ["a", "b"] * 4
    assert all(len(timed.runs) == 3 for timed in times.values())


def test_ratio_is_the_median_of_pairs():
    assert ratio(Timed((10, 30, 80), None), Timed((5, 10, 10), None)) == 3


def test_line_through_points():
    assert line([1, 2, 3], [5, 7, 9]) == pytest.approx((3, 2, 1))


def test_what_is_beside_the_networks_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert beside.main(["--sizes", "64", "--holes", "10", "--rounds", "1", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["stage"] for row in rows] == [
        "copy",
        "key",
        "encode",
        "encode_next",
        "decode_none",
        "decode_feather",
        "decode_poisson",
    ]
    assert all(row["ms"] > 0 and row["size"] == 64 for row in rows)
    assert "decode_poisson" in capsys.readouterr().out


def test_rows_summary_and_pictures(tmp_path: Path):
    bench = Bench(CPU, torch.float32)
    bench.steps("tiny", 128, (0.05, 0.25, 1.0), rounds=2, guided=True)
    bench.batches("tiny", 128)
    bench.edits("tiny", 64, rounds=1)
    write(tmp_path / "bench.json", bench.machine, bench.rows, bench.summary)
    read = json.loads((tmp_path / "bench.json").read_text())
    assert read["machine"]["matrix_product_flops"] > 0
    assert all(row.keys() >= FIELDS and row["ms"] > 0 for row in read["rows"])
    assert {row["stage"] for row in read["rows"]} >= {
        "step",
        "encode",
        "edit_cold",
        "edit_warm",
        "vae_encode",
        "vae_decode",
    }
    assert {row["method"] for row in read["rows"]} == set(METHODS)
    assert all("x faster" in text or "R2" in text or "throughput" in text for text in read["summary"])
    assert [path.name for path in pictures(bench.rows, tmp_path)] == ["step_time.png", "stages.png"]
    assert all(path.stat().st_size > 5000 for path in tmp_path.glob("*.png"))
