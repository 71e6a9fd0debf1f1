"""`python dev.py bench [--quick] [--json FILE]`: Lazy, RegenerateImage and RegenerateCrop side by side, on one device,
in one run.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from lazy_core.networks.static_inputs import bucket

from .holes import KINDS, hole
from .report import Row, machine, pictures, table, write
from .stages import METHODS, Case, Stages
from .timing import Timed, Work, ceiling, in_turn, line, ratio

SHARES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
STEPS = 20


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    bench = Bench(torch.device(args.device), getattr(torch, args.dtype))
    print(f"{bench.machine['device']}, {args.dtype}, matrix product {bench.ceiling / 1e9:.0f} GFLOP/s", flush=True)
    if args.quick:
        bench.quick(args.server)
    else:
        bench.everything(args.preset, args.sizes, args.server)
    print("\n".join([table(bench.rows), "", *bench.summary]))
    drawn = pictures(bench.rows, args.out)
    print(*drawn, sep="\n")
    if args.json:
        write(args.json, bench.machine, bench.rows, bench.summary)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python dev.py bench", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument(
        "--quick", action="store_true", help="the figures that matter most; within three minutes on two CPU cores"
    )
    parser.add_argument("--json", type=Path, help="write all rows to this file")
    parser.add_argument("--out", type=Path, default=Path("output/bench"), help="folder for the pictures")
    parser.add_argument("--preset", nargs="+", default=["fluent-small", "pixart-xl"])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[512, 1024, 2048], help="px; pixart-xl on a CPU: 1024 alone"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        default="bfloat16" if torch.cuda.is_available() else "float32",
        choices=["float32", "bfloat16", "float16"],
    )
    parser.add_argument("--no-server", dest="server", action="store_false", help="leave out the edits through ComfyUI")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


class Bench:
    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.ceiling = ceiling(device, dtype)
        self.machine = machine(device, dtype, self.ceiling)
        self.rows: list[Row] = []
        self.summary: list[str] = []
        self.cpu = device.type == "cpu"

    def quick(self, server: bool) -> None:
        """On a CPU `pixart-xl` runs without guidance: its ratio is the same, and one step on all tokens takes half a
        minute as it is.
        """
        if server:
            self.server_edits(rounds=5)
        self.edits("fluent-small", 256, rounds=3)
        self.steps("pixart-xl", 1024, (0.01, 0.1, 1.0), rounds=2, guided=not self.cpu)

    def everything(self, presets: list[str], sizes: list[int], server: bool) -> None:
        if server:
            self.server_edits(rounds=10)
        for preset in presets:
            large = preset == "pixart-xl"
            for size in (1024,) if large and self.cpu else sizes:
                if not self.cpu:
                    self.random_holes(preset, size)
                self.steps(preset, size, SHARES, rounds=3 if large and self.cpu else 7, guided=not (large and self.cpu))
                if not (large and self.cpu):
                    self.shapes(preset, size)
                    self.batches(preset, size)
                if preset == "fluent-small":
                    self.edits(preset, size, rounds=5)
                elif not self.cpu:
                    self.sampling(preset, size)

    # -- what is measured
    # -----------------------------------------------------------------------------------------------
    def steps(self, preset: str, size: int, shares: tuple[float, ...], rounds: int, guided: bool) -> None:
        """A decoder step against the hole's size; `image` is the step on all tokens, `crop` that on a quarter of
        them.
        """
        stages = stages_of(preset, self.device, self.dtype, guided)
        cases = {f"lazy {share}": ("lazy", case_of(size, share)) for share in shares if share < 1}
        cases["image"] = ("image", case_of(size, 1.0))
        if not (self.cpu and preset == "pixart-xl" and len(shares) < 6):
            cases["crop"] = ("crop", case_of(size, 1.0))
        works = {name: stages.step(method, case) for name, (method, case) in cases.items()}
        # A full step of pixart-xl on a CPU takes half a minute: the smaller ones warm it up, too.
        warmup = [name for name in works if name != "image"] if self.cpu and preset == "pixart-xl" else None
        times = in_turn(works, self.device, rounds, warmup)
        for name, (method, case) in cases.items():
            self.add("step", method, preset, case, times[name], stages)
        ratios = {share: ratio(times["image"], times[f"lazy {share}"]) for share in shares if share < 1}
        self.summary.append(
            f"{preset}, {size} px: a step is "
            + ", ".join(f"{value:.1f}x faster at {100 * share:.0f} %" for share, value in ratios.items())
            + (" (with guidance)" if guided else " (without guidance)")
        )
        points = [
            (stages.tokens(method, case)[0], times[name].ms)
            for name, (method, case) in cases.items()
            if method != "crop"
        ]
        intercept, slope, r2 = line(*map(list, zip(*points, strict=True)))
        share = 100 * intercept / times["image"].ms
        self.summary.append(
            f"{preset}, {size} px: ms = {intercept:.1f} + {slope:.4f} x tokens, R2 {r2:.4f}; the intercept is"
            f" {share:.1f} % of a full step"
        )

    def shapes(self, preset: str, size: int) -> None:
        """The same share of the canvas as one square, as two distant ones, and as a band."""
        stages = stages_of(preset, self.device, self.dtype, True)
        cases = {kind: case_of(size, 0.1, kind) for kind in KINDS}
        times = in_turn({kind: stages.step("lazy", case) for kind, case in cases.items()}, self.device, 7)
        for kind, case in cases.items():
            self.add("step shape", "lazy", preset, case, times[kind], stages)

    def batches(self, preset: str, size: int) -> None:
        """Different holes in one batch, against one after the other."""
        stages = stages_of(preset, self.device, self.dtype, True)
        for batch in (4, 8):
            shares = [0.03 + 0.02 * index for index in range(batch)]
            together = Case(
                size,
                torch.stack([hole("compact", share, size, 8 * i) for i, share in enumerate(shares)]),
                0.1,
                "compact",
            )
            alone, count = [stages.step("lazy", case_of(size, share)) for share in shares], 1 if self.cpu else STEPS
            works = {
                "together": in_sequence([stages.step("lazy", together)], count),
                "alone": in_sequence(alone, count),
            }
            times = in_turn(works, self.device, 5)
            times = {
                name: Timed(tuple(ms / count for ms in timed.runs), timed.peak_bytes) for name, timed in times.items()
            }
            self.add("step batch", "lazy", preset, together, times["together"], stages)
            gain = ratio(times["alone"], times["together"])
            self.summary.append(
                f"{preset}, {size} px: {batch} different holes in one batch, {gain:.2f}x the throughput of one at a"
                " time"
            )

    def random_holes(self, preset: str, size: int, count: int = 50) -> None:
        """Steps on holes of random sizes, 1 to 100 %: once there was one of each bucket, none should be captured any
        more.
        """
        stages = stages_of(preset, self.device, self.dtype, True)
        total = stages.grid(size).tokens
        for n in {(bucket(n), n == bucket(n)): n for n in range(max(total // 100, 1), total + 1)}.values():
            stages.step_on([n], size)()
        before, draw = stages.graphs.captures, torch.Generator().manual_seed(0)
        sizes = (total * (torch.rand(count, generator=draw) * math.log(100)).exp() / 100).ceil().long().tolist()
        for n in sizes:
            stages.step_on([n], size)()
        captured = stages.graphs.captures - before
        self.summary.append(
            f"{preset}, {size} px: {len(set(sizes))} sizes in {count} random holes after {before} graphs in all:"
            f" {captured} captured anew"
        )

    def sampling(self, preset: str, size: int) -> None:
        """What a preset without VAE and text encoder does of an edit of 10 %: the encoder's pass and all steps in a
        row.
        """
        stages, case = stages_of(preset, self.device, self.dtype, True), case_of(size, 0.1)
        steps = {method: in_sequence([stages.step(method, case)], STEPS) for method in ("lazy", "image")}
        works = {"encode": stages.context(case), **steps, "cold": in_sequence([stages.context(case), steps["lazy"]], 1)}
        times = in_turn(works, self.device, 5)
        for stage, method in (
            ("encode", "encode"),
            ("sampling_warm", "lazy"),
            ("sampling_cold", "cold"),
            ("sampling_warm", "image"),
        ):
            self.add(stage, "image" if method == "image" else "lazy", preset, case, times[method], stages)
        cold, warm = (ratio(times["image"], times[name]) for name in ("cold", "lazy"))
        self.summary.append(
            f"{preset}, {size} px, 10 %, without VAE and text: {STEPS} steps are {warm:.1f}x faster than on all tokens,"
            f" with the encoder's pass {cold:.1f}x ({times['cold'].ms:.0f} against {times['image'].ms:.0f} ms)"
        )

    def edits(self, preset: str, size: int, rounds: int) -> None:
        """Cold and warm edits of a 10 % hole by the three methods, and their stages."""
        stages, case = stages_of(preset, self.device, self.dtype, True), case_of(size, 0.1)
        works: dict[str, Work] = {}
        for method in METHODS:
            works[f"edit_cold {method}"], works[f"edit_warm {method}"] = stages.edit(method, case, STEPS)
            works[f"vae_encode {method}"], works[f"vae_decode {method}"] = stages.vae(method, case)
            works[f"step {method}"] = stages.step(method, case)
        works["encode lazy"], works["edit_next lazy"] = stages.context(case), stages.next_edit(case, STEPS)
        times = in_turn(works, self.device, rounds)
        for name, timed in times.items():
            stage, method = name.split()
            self.add(stage, method, preset, case, timed, stages)
            if stage == "step":
                whole = Timed(tuple(STEPS * ms for ms in timed.runs), timed.peak_bytes)
                self.add("steps", method, preset, case, whole, stages)
        for kind, before in (("cold", "cold"), ("next", "cold"), ("warm", "warm")):
            values = [
                ratio(times[f"edit_{before} {method}"], times[f"edit_{kind} lazy"]) for method in ("image", "crop")
            ]
            self.summary.append(
                f"{preset}, {size} px, 10 %: a {kind} edit of {STEPS} steps is {values[0]:.1f}x faster than"
                f" RegenerateImage, {values[1]:.1f}x than RegenerateCrop"
            )

    def server_edits(self, rounds: int) -> None:
        """The shipped model through a real server, always on that server's device."""
        from .server import warm_edits  # needs the host, which machines that only measure steps may lack

        for size, (times, share, steps) in warm_edits({256: rounds, 512: max(3, rounds // 2)}).items():
            for method, timed in times.items():
                kind, hole_share = ("compact", share) if method == "lazy" else ("full", 1.0)
                self.rows.append(
                    Row(
                        "server_warm",
                        method,
                        "fluent-small",
                        self.device.type,
                        size,
                        hole_share,
                        1,
                        timed.ms,
                        None,
                        kind,
                        0,
                        timed.runs,
                        "shipped",
                    )
                )
            gain, lazy, full = ratio(times["image"], times["lazy"]), times["lazy"].ms, times["image"].ms
            self.summary.append(
                f"fluent-small through the server, {size} px, {steps} steps: a warm re-edit of a {100 * share:.1f} %"
                f" hole is {gain:.1f}x faster than on all tokens ({lazy:.0f} against {full:.0f} ms)"
            )

    def add(self, stage: str, method: str, preset: str, case: Case, timed: Timed, stages: Stages) -> None:
        step = stage.startswith("step") and stage != "steps"
        self.rows.append(
            Row(
                stage,
                method,
                preset,
                self.device.type,
                case.side,
                float(case.holes.mean()) if method == "lazy" or not step else 1.0,
                case.batch,
                round(timed.ms, 4),
                timed.peak_bytes,
                case.kind,
                sum(stages.tokens(method, case)) if step else 0,
                tuple(round(ms, 4) for ms in timed.runs),
                utilisation=(
                    round(stages.step_flops(method, case) / (timed.ms / 1000) / self.ceiling, 4) if step else None
                ),
            )
        )


@lru_cache(maxsize=1)
def stages_of(preset: str, device: torch.device, dtype: torch.dtype, guided: bool) -> Stages:
    """A preset's weights are made once for all figures that follow each other; only the latest are kept."""
    return Stages(preset, device, dtype, guided)


def case_of(size: int, share: float, kind: str = "compact") -> Case:
    return Case(size, hole(kind, share, size)[None], share, kind)


def in_sequence(works: Sequence[Work], count: int) -> Work:
    """One work after the other, each `count` times in a row."""

    def run() -> None:
        for work in works:
            for _ in range(count):
                work()

    return run


if __name__ == "__main__":
    raise SystemExit(main())
