"""What `training.precompute` leaves beside its files, and the files themselves, checked before anything is trained on
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lazy_core.checks.errors import shown
from lazy_core.checks.plain_json import parse
from lazy_core.checks.rules import Rule, choice, integer

from .decoding import regular

MOST = 1 << 30  # bytes of a manifest
SAMPLES = 1_000_000  # of a file
AGAIN = "Run training.precompute again."
FILE_NAME = Rule(
    lambda name: (
        isinstance(name, str) and name == Path(name).name and "\\" not in name and name.endswith(".safetensors")
    ),
    "the name of a .safetensors file in the same folder",
)
FIELDS = {
    "format": integer(1, 1_000_000),
    "parts": integer(1, 100_000),
    "vae": Rule(lambda value: isinstance(value, str) and len(value) <= 200, "a VAE's fingerprint"),
    "text": choice("t5", "words"),
    "latent": Rule(lambda value: isinstance(value, dict), "an object of sizes"),
    "shards": Rule(
        lambda value: isinstance(value, list) and all(isinstance(e, dict) for e in value), "a list of objects"
    ),
    "holes": Rule(lambda value: isinstance(value, list), "a list of numbers"),
}
LATENT = {"channels": integer(1, 1024), "scale": integer(1, 64), "size": integer(8, 1 << 16), "patch": integer(1, 64)}
SHARD = {"file": FILE_NAME, "samples": integer(1, SAMPLES)}


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose values are what they should be. Raises ValueError: which file, which key, got, expected."""
    try:
        if not regular(path):
            raise ValueError("a folder, a pipe or a device")
        value = parse(path.read_bytes(), MOST)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} is no manifest that can be read ({error}). {AGAIN}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is {shown(value)}, expected an object. {AGAIN}")
    fit(value, FIELDS, path, "")
    fit(value["latent"], LATENT, path, "latent.")
    for number, shard in enumerate(value["shards"]):
        fit(shard, SHARD, path, f"shards[{number}].")
    check_holes(value, path)
    return value


def fit(values: dict[str, Any], rules: dict[str, Rule], path: Path, where: str) -> None:
    for name, rule in rules.items():
        if not rule.fits(values.get(name)):
            raise ValueError(f"{path}: {where}{name} is {shown(values.get(name))}, expected {rule.says}. {AGAIN}")


def check_holes(value: dict[str, Any], path: Path) -> None:
    samples = sum(shard["samples"] for shard in value["shards"])
    if len(value["holes"]) != samples:
        raise ValueError(
            f"{path}: holes is a list of {len(value['holes']):,}, expected one for each of {samples:,} samples. {AGAIN}"
        )
    side = -(-value["latent"]["size"] // value["latent"]["scale"])
    odd = [hole for hole in value["holes"] if type(hole) is not int or not 0 <= hole <= side * side]
    if odd:
        raise ValueError(
            f"{path}: holes has {shown(odd[0])}, expected whole numbers from 0 to {side * side:,}. {AGAIN}"
        )


def captions_in(path: Path, samples: int | None = None) -> list[str]:
    """The captions of a file, `samples` of them. Raises ValueError for a file that is damaged or holds something
    else."""
    try:
        if not regular(path):
            raise ValueError("a folder, a pipe or a device")
        with safe_open(str(path), "pt") as file:
            captions = parse((file.metadata() or {}).get("captions", "null"), MOST)
            rows = {name: file.get_slice(name).get_shape()[:1] for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}). {AGAIN}") from error
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"{path}: captions is {shown(captions)}, expected a list of texts. {AGAIN}")
    count = len(captions) if samples is None else samples
    wrong = {name: shape for name, shape in {**rows, "captions": [len(captions)]}.items() if shape != [count]}
    if missing := {"target", "canvas", "mask"} - rows.keys():
        raise ValueError(f"{path}: {sorted(missing)[0]} is missing, expected target, canvas and mask. {AGAIN}")
    if wrong:
        name, shape = next(iter(wrong.items()))
        raise ValueError(f"{path}: {name} has {shape[0] if shape else 'no'} rows, expected {count:,}. {AGAIN}")
    return captions
