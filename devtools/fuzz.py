"""Random damage to what strangers may bring: `python dev.py run -- python -m devtools.fuzz [--seconds 60] [--seed 0]
[--only NAME]`.

With `--guided` atheris looks for inputs that reach new lines, target by target, from the inputs in tests/data/fuzz on
(devtools/guided.py); without, cases follow from the seed alone.

Checkpoints (bytes and config), words, annotations, shards of pictures, manifests and prompts are changed at random,
by structure and by byte. Each case has to load, or to be refused with the error that is documented; it fails on any
other exception, after 5 seconds, and where the process has grown by more than 2 GB. A failing case prints its target
and seed, and `--only TARGET --seed SEED` makes it again.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import random
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS, MEMORY = 5.0, 2 << 30
ODD: tuple[Any, ...] = (
    *(
        0,
        -1,
        1,
        2**31,
        2**63,
        -(2**63),
        10**30,
        0.5,
        -0.0,
        1e308,
        True,
        False,
        None,
        "",
        "x",
        "\x00",
        "\ud800",
        "9" * 100,
        [],
        {},
    ),
    *([0] * 1000, {"a": {"a": {}}}, float("nan"), float("inf"), [[[[]]]], "../../x", "/dev/zero", "é" * 500),
)


def damaged(value: Any, rng: random.Random) -> Any:
    """`value`, JSON, with one to three places changed: replaced, removed, doubled or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 4)):
        value = damage(value, rng)
    return value


def damage(value: Any, rng: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        kind = rng.random()
        if kind < 0.1:
            del value[key]
        elif kind < 0.2 and isinstance(value, dict):
            value[str(rng.choice(ODD))] = value.pop(key)
        elif kind < 0.2:
            value.insert(key, copy.deepcopy(value[key]))  # type: ignore
        else:
            value[key] = damage(value[key], rng)
        return value
    if type(value) in (int, float) and rng.random() < 0.5:
        return value * rng.choice((-1, 2, 1000, 10**12)) + rng.choice((-1, 0, 1))  # type: ignore
    return copy.deepcopy(rng.choice(ODD))  # or the next damage would be done to all later cases


def flipped(data: bytes, rng: random.Random) -> bytes:
    """`data` with some bytes changed, cut off, or taken twice."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    start = rng.randrange(len(changed) + 1)
    return bytes(changed[:start] + changed[start:] * rng.choice((0, 1, 1, 1, 2)))


class Cases:
    """One method for each target: makes a case with `rng` in `folder` and reads it. Raises whatever is not
    documented.
    """

    def __init__(self, folder: Path):
        from training.corpus.decoding import Decoder

        self.folder, self.decoder = folder, Decoder()
        self.good, self.entry = (
            small_checkpoint(folder),
            {"segmentation": [[4, 4, 20, 4, 20, 16, 4, 16]], "caption": ["a box", "box"]},
        )
        self.runs = {"size": [24, 32], "counts": "X2;0:0:0:0:0e3"}
        self.saved, self.parts = small_context()

    def read(self, data: bytes) -> None:
        from lazy_core.checkpoint import load_model
        from lazy_core.checks.errors import CheckpointError

        (path := self.folder / "case.safetensors").write_bytes(data)
        try:
            _, checkpoint = load_model(path)
        except CheckpointError:
            return
        if checkpoint.tokenizer is not None:
            checkpoint.tokenizer.prompt([("a red apple", 1.0)])

    def checkpoint_bytes(self, rng: random.Random) -> None:
        self.read(
            flipped(self.good[: rng.choice((200, 2000, len(self.good)))], rng)
            + self.good[len(self.good) // 2 :] * rng.randrange(2)
        )

    def header(self, rng: random.Random) -> None:
        self.read(with_header(self.good, lambda header: damaged(header, rng)))

    def config(self, rng: random.Random) -> None:
        def change(header: dict[str, Any]) -> dict[str, Any]:
            notes = header["__metadata__"]
            notes["lazydiffusion.config"] = json.dumps(damaged(json.loads(notes["lazydiffusion.config"]), rng))
            return header

        self.read(with_header(self.good, change))

    def words(self, rng: random.Random) -> None:
        def change(header: dict[str, Any]) -> dict[str, Any]:
            notes = header["__metadata__"]
            words = json.loads(notes.pop("lazydiffusion.words"))
            old = {"model": {"type": "WordLevel", "vocab": {word: number for number, word in enumerate(words)}}}
            name, value = rng.choice((("words", words), ("tokenizer", old)))
            notes[f"lazydiffusion.{name}"] = json.dumps(damaged(value, rng))
            return header

        self.read(with_header(self.good, change))

    def prompt(self, rng: random.Random) -> None:
        from lazy_core.text.tokenizer import build_tokenizer

        letters = ["red", "苹", " ", ",", "\u0301", *(chr(rng.randrange(0x110000)) for _ in range(20))]
        prompt = build_tokenizer(["red", "苹"], rng.choice((2, 16))).prompt(
            [("".join(rng.choices(letters, k=rng.randrange(500))), 1.0)]
        )
        assert 1 <= len(prompt.chunks) <= 8 and len({len(chunk) for chunk in prompt.chunks}) == 1

    def mask(self, rng: random.Random) -> None:
        from training.corpus.segments import mask_of

        reason, mask = mask_of(damaged(rng.choice((self.entry["segmentation"], self.runs)), rng), 24, 32)
        assert (mask is None) == bool(reason)

    def annotations(self, rng: random.Random) -> None:
        from training.corpus.instances import of_folder
        from training.corpus.segments import mask_of

        content = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, **self.entry}],
            "categories": [{"id": 1, "name": "a"}],
        }
        text = json.dumps(damaged(content, rng)).encode()
        (self.folder / "annotations.json").write_bytes(flipped(text, rng) if rng.random() < 0.2 else text)
        try:
            for _, _, entries in of_folder(self.folder, skipped()):
                assert all(len(mask_of(entry.get("segmentation"), 24, 32)) == 2 for entry in entries)
        except ValueError as error:
            if "annotations.json" not in str(error):
                raise

    def shard(self, rng: random.Random) -> None:
        from training.corpus.instances import of_shard

        (path := self.folder / "case.tar").write_bytes(
            flipped(tar_of({"annotations": [damaged(self.entry, rng)]}), rng)
        )
        lost = skipped()
        for name, data, entries in of_shard(path, lost):
            self.decoder.decode(name, data, entries, lost)
        if any(reason.startswith(("crashed", "took")) for _, reason in lost.names):
            raise AssertionError(f"the decoder was lost: {lost.names}")

    def manifest(self, rng: random.Random) -> None:
        from training.corpus.manifest import read_manifest

        latent = {"channels": 4, "scale": 8, "size": 64, "patch": 2}
        good = {
            "format": 1,
            "parts": 1,
            "vae": "0",
            "latent": latent,
            "text": "words",
            "shards": [{"file": "a.safetensors", "samples": 2}],
        }
        text = json.dumps(damaged({**good, "holes": [4, 4]}, rng)).encode()
        (path := self.folder / "manifest-000.json").write_bytes(flipped(text, rng) if rng.random() < 0.2 else text)
        try:
            read_manifest(path)
        except ValueError as error:
            if "manifest-000.json" not in str(error):
                raise

    def context(self, rng: random.Random) -> None:
        """A saved CONTEXT, signed anew half of the time, as who changes it on purpose would."""
        from lazy_core.checks.errors import CheckpointError
        from lazy_core.context_file import DIGEST_KEY, digest, read_context
        from lazy_core.context_notes import NOTES_KEY

        def change(header: dict[str, Any]) -> dict[str, Any]:
            notes = header["__metadata__"]
            notes[NOTES_KEY] = json.dumps(damaged(json.loads(notes[NOTES_KEY]), rng))
            notes[DIGEST_KEY] = digest(notes[NOTES_KEY], self.parts)
            return damaged(header, rng) if rng.random() < 0.2 else header

        data = flipped(self.saved, rng) if rng.random() < 0.5 else with_header(self.saved, change)
        (path := self.folder / "case.safetensors").write_bytes(data)
        try:
            read_context(path)
        except CheckpointError:
            return

    def edits(self, rng: random.Random) -> None:
        """A manifest of `python -m batch`: whatever is wrong is a sentence of it."""
        from lazy_core.manifest.edits import read_manifest

        row = {"image": "a.png", "box": [0, 0, 4, 4], "prompt": ["x", "y"], "seed": 1, "output": "b/c", "cfg": 2.5}
        text = "\n".join(json.dumps(damaged(row, rng)) for _ in range(3)).encode()
        (path := self.folder / "case.jsonl").write_bytes(flipped(text, rng) if rng.random() < 0.3 else text)
        try:
            read_manifest(path, {})
        except ValueError as error:
            if "case.jsonl" not in str(error):
                raise


TARGETS = ("checkpoint_bytes", "header", "config", "words", "prompt", "mask", "annotations", "shard", "manifest")
TARGETS += ("context", "edits")


def skipped() -> Any:
    from training.corpus.decoding import Skipped

    return Skipped()


def small_checkpoint(folder: Path) -> bytes:
    import torch

    from lazy_core.checkpoint import save_checkpoint
    from lazy_core.config import PRESETS
    from lazy_core.model import LazyDiffusion, initialise
    from lazy_core.text.tokenizer import build_tokenizer

    model = LazyDiffusion(PRESETS["tiny"])
    initialise(model, torch.Generator().manual_seed(0))
    save_checkpoint(folder / "good.safetensors", model, build_tokenizer(["red", "apple"], 16))
    return (folder / "good.safetensors").read_bytes()


def small_context() -> tuple[bytes, dict[str, Any]]:
    """The file of a CONTEXT of 2 x 2 tokens, and its tensors."""
    import torch

    from lazy_core.context import Context, Origin
    from lazy_core.context_file import parts_of, to_bytes
    from lazy_core.geometry import Grid
    from lazy_core.tokens import HoleTokens

    grid, hole = Grid(16, 16, 4, 2), HoleTokens(torch.tensor([[0, 3]]), torch.ones(1, 2, dtype=torch.bool), 4)
    latent, tokens = torch.zeros(1, 4, 4, 4), torch.zeros(1, 2, 3)
    mask, origin = torch.ones(1, 16, 16, dtype=torch.bool), Origin("", torch.ones(2))
    made = Context("a", grid, torch.zeros(1, 3, 16, 16), mask, latent, hole, tokens, origin=origin)
    return to_bytes(made), parts_of(made)


def with_header(file: bytes, change: Callable[[Any], Any]) -> bytes:
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(change(json.loads(file[8 : 8 + length]))).encode()
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


def tar_of(annotations: Any) -> bytes:
    from PIL import Image

    stream, png = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 24), (9, 99, 200)).save(png, "PNG")
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in (("a.png", png.getvalue()), ("a.json", json.dumps(annotations).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def resident() -> int:
    """Bytes of main memory that this process has."""
    import psutil

    return psutil.Process().memory_info().rss


def run(targets: tuple[str, ...], seed: int, seconds: float, most: int | None = None) -> list[str]:
    """Cases until `seconds` are over, at most so many of each target -> what failed. Prints figures."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        cases, before, end, number, slowest = Cases(Path(folder)), resident(), time.monotonic() + seconds, 0, 0.0
        try:
            while time.monotonic() < end and (most is None or number < most * len(targets)):
                name, its = targets[number % len(targets)], seed + number // len(targets)
                start = time.process_time()
                try:
                    getattr(cases, name)(random.Random(f"{name} {its}"))
                except Exception as error:
                    failures.append(f"--only {name} --seed {its}: {type(error).__name__}: {str(error)[:200]}")
                took, number = time.process_time() - start, number + 1
                slowest = max(slowest, took)
                if took > SECONDS or resident() - before > MEMORY:
                    failures.append(f"--only {name} --seed {its}: {took:.1f} s, {(resident() - before) >> 20} MB")
        finally:
            cases.decoder.stop()
        print(
            f"{number} cases, {len(failures)} failures; slowest {slowest:.2f} s of CPU, {(resident() - before) >> 20}"
            " MB more than at first"
        )
    return failures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TARGETS)
    parser.add_argument(
        "--guided", action="store_true", help="coverage-guided, with atheris, which is fetched the first time"
    )
    parser.add_argument(
        "--keep", action="store_true", help="with --guided: add inputs that reached new lines to tests/data/fuzz"
    )
    args = parser.parse_args(argv)
    if args.guided:
        from .guided import run_guided

        return run_guided((args.only,) if args.only else TARGETS, args.seconds, args.seed, args.keep)
    failures = run((args.only,) if args.only else TARGETS, args.seed, args.seconds)
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
