"""Rows of a run as JSON, as a table with its ratios, and as pictures."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One figure: `hole` is the masked share of the canvas, `tokens` what a step computes in all, `ms` the median of
    `runs`.

    `utilisation` is the step's FLOP/s against those of a large matrix product on the same machine in the same run.
    """

    stage: str
    method: str
    preset: str
    device: str
    size: int
    hole: float
    batch: int
    ms: float
    peak_bytes: int | None
    kind: str = "compact"
    tokens: int = 0
    runs: tuple[float, ...] = ()
    weights: str = "random"
    utilisation: float | None = None


def machine(device: torch.device, dtype: torch.dtype, ceiling: float) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "matrix_product_flops": round(ceiling),
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(path: Path, machine: dict[str, Any], rows: list[Row], summary: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"machine": machine, "rows": [asdict(row) for row in rows], "summary": summary}, indent=1) + "\n"
    )


def table(rows: list[Row]) -> str:
    lines = [
        f"{'preset':13}{'stage':12}{'method':8}{'size':>6}{'hole':>8} "
        f" {'kind':10}{'batch':>5}{'tokens':>8}{'ms':>11}{'of ceiling':>12}"
    ]
    for row in rows:
        share = "" if row.utilisation is None else f"{100 * row.utilisation:.0f} %"
        lines.append(
            f"{row.preset:13}{row.stage:12}{row.method:8}{row.size:>6}{100 * row.hole:>6.1f} % "
            f" {row.kind:10}{row.batch:>5}{row.tokens or '':>8}{row.ms:>11.1f}{share:>12}"
        )
    return "\n".join(lines)


def pictures(rows: list[Row], folder: Path) -> list[Path]:
    """Step time against hole size, stages of an edit stacked, and (CUDA) memory against hole size, where there are rows
    for them.
    """
    drawn = [
        draw_against_hole(rows, folder / "step_time.png", "ms", "ms per step"),
        draw_stages(rows, folder / "stages.png"),
    ]
    if any(row.peak_bytes for row in rows):
        drawn.append(draw_against_hole(rows, folder / "memory.png", "peak_bytes", "peak bytes of a step"))
    return [path for path in drawn if path]


def draw_against_hole(rows: list[Row], path: Path, value: str, label: str) -> Path | None:
    from matplotlib.figure import Figure

    steps = [row for row in rows if row.stage == "step" and row.batch == 1 and row.kind == "compact"]
    shown = sorted(
        {
            (row.preset, row.size)
            for row in steps
            if sum(r.preset == row.preset and r.size == row.size for r in steps) > 2
        }
    )
    if not shown:
        return None
    figure = Figure(figsize=(5 * len(shown), 4), layout="constrained")
    for axes, (preset, size) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for method, colour in (("lazy", "tab:blue"), ("image", "tab:orange"), ("crop", "tab:green")):
            points = sorted(
                (100 * row.hole, getattr(row, value))
                for row in steps
                if (row.preset, row.size, row.method) == (preset, size, method)
            )
            if method != "lazy" and len({hole for hole, _ in points}) == 1:
                axes.axhline(points[0][1], linestyle="--", label=method, color=colour)
            elif points:
                axes.plot(*zip(*points, strict=True), marker="o", label=method, color=colour)
        axes.set(
            xlabel="hole, % of the canvas", ylabel=label, title=f"{preset}, {size} px", xlim=(0, None), ylim=(0, None)
        )
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def draw_stages(rows: list[Row], path: Path) -> Path | None:
    from matplotlib.figure import Figure

    parts = [row for row in rows if row.stage in ("vae_encode", "encode", "steps", "vae_decode") and row.batch == 1]
    if not parts:
        return None
    shown = sorted({(row.preset, row.size, row.hole) for row in parts})
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for axes, (preset, size, hole) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        below = dict.fromkeys(("lazy", "crop", "image"), 0.0)
        for stage in ("vae_encode", "encode", "steps", "vae_decode"):
            heights = {
                row.method: row.ms
                for row in parts
                if (row.preset, row.size, row.hole, row.stage) == (preset, size, hole, stage)
            }
            axes.bar(below.keys(), [heights.get(name, 0) for name in below], bottom=list(below.values()), label=stage)
            below = {name: total + heights.get(name, 0) for name, total in below.items()}
        axes.set(ylabel="ms", title=f"{preset}, {size} px, {100 * hole:.0f} % hole")
        axes.legend()
    figure.savefig(path, dpi=110)
    return path
