"""Coverage-guided fuzzing of the targets of devtools.fuzz: atheris chooses the bytes that a case is drawn from.

It is fetched into a folder of its own, not into the environment: nothing else needs it. Inputs that reached new lines
lie in tests/data/fuzz/TARGET, where a run begins and the suite reads them again; what failed is left there, too, under
libFuzzer's names (`crash-…`, `timeout-…`).
"""

from __future__ import annotations

import importlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .environment import made_once, pip, tell
from .fuzz import MEMORY, SECONDS, Cases
from .places import ROOT, home

ATHERIS = "atheris==3.0.0"
CORPUS = ROOT / "tests" / "data" / "fuzz"
WATCHED = ["lazy_core", "training.corpus", "batch"]
LARGEST = 1024  # bytes of an input
SEEDS = 6  # random inputs of 16 to 512 bytes that a run begins with, beside the corpus


def tools_folder() -> Path:
    """The folder with atheris, made if need be."""

    def make(folder: Path) -> None:
        tell(f"Getting {ATHERIS} into {folder}.")
        pip(Path(sys.executable), ["install", "--target", str(folder), ATHERIS], home() / "install.log")

    return made_once(home() / f"{ATHERIS.replace('==', '-')}-py{sys.version_info[0]}{sys.version_info[1]}", make)


def run_guided(targets: Sequence[str], seconds: float, seed: int, keep: bool = False) -> int:
    """Each target in a process of its own for its part of the time -> exit status, 1 where something was found.

    `keep` adds the inputs that reached new lines to the corpus.
    """
    tools, found = tools_folder(), 0
    for name in targets:
        corpus = CORPUS / name
        corpus.mkdir(parents=True, exist_ok=True)
        begin, before = time.monotonic(), set(corpus.iterdir())
        options = [
            f"-max_total_time={max(1, round(seconds / len(targets)))}",
            f"-timeout={SECONDS:.0f}",
            f"-rss_limit_mb={(MEMORY >> 20) + 1024}",  # 1 GB is what PyTorch and the targets take before they begin
            f"-max_len={LARGEST}",
            "-len_control=0",
            f"-artifact_prefix={corpus}/",
            f"-seed={seed + 1}",
            "-verbosity=1",
        ]
        with tempfile.TemporaryDirectory() as new:
            for number in range(SEEDS):
                Path(new, f"seed {number}").write_bytes(random.Random(f"{seed} {number}").randbytes(16 << number))
            command = [sys.executable, "-m", "devtools.guided", name, str(tools), new, str(corpus), *options]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            for path in Path(new).iterdir() if keep else ():
                if " " not in path.name:  # not a seed: an input that reached a new line, under its own hash
                    shutil.copyfile(path, corpus / path.name)
        artefacts = sorted(path.name for path in set(corpus.iterdir()) - before if "-" in path.name)
        lines = [line for line in done.stderr.splitlines() if line.startswith(("Done", "#"))]
        failed = done.returncode != 0 or bool(artefacts)
        found += failed
        print(
            f"{name}: {lines[-1] if lines else 'no run'}; {time.monotonic() - begin:.0f} s;"
            f" {', '.join(artefacts) or 'nothing found'}",
            flush=True,
        )
        if failed:
            print(done.stderr[-3000:], file=sys.stderr)
    return 1 if found else 0


class Drawn(random.Random):
    """Draws from `data` instead of a seed, and zeros once that is used up: equal bytes give an equal case."""

    def __init__(self, data: bytes):
        super().__init__(0)
        self.data, self.position = data, 0

    def getrandbits(self, k: int) -> int:
        size = -(-k // 8)
        part = self.data[self.position : self.position + size].ljust(size, b"\0")
        self.position += size
        return int.from_bytes(part, "little") >> (8 * size - k)

    def random(self) -> float:
        return self.getrandbits(16) / 2**16


def target(name: str, cases: Cases) -> Callable[[bytes], Any]:
    """One target as libFuzzer calls it."""
    return lambda data: getattr(cases, name)(Drawn(data))


def main(argv: list[str]) -> None:
    """In the process of one target: its name, the tools' folder, then libFuzzer's arguments."""
    name, tools, *arguments = argv
    sys.path.append(tools)
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=WATCHED):
        import lazy_core.checkpoint
        import lazy_core.context_file
        import lazy_core.text.tokenizer  # noqa: F401
        import training.corpus.decoding
        import training.corpus.instances
        import training.corpus.manifest
        import training.corpus.segments  # noqa: F401
    with tempfile.TemporaryDirectory() as folder:
        one = target(name, Cases(Path(folder)))
        one(b"")  # the first tensor takes PyTorch a second, and is nobody's fault
        atheris.Setup([sys.argv[0], *arguments], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
