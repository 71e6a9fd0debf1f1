"""Checkpoints as nobody of good will makes them: what is changed, and what is said of it. For tests in process and on
a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from lazy_core.checkpoint import CONFIG_KEY, TOKENIZER_KEY, WORDS_KEY
from lazy_core.config import PRESETS
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.text.tokenizer import SPECIAL

GB8 = 8 << 30
DEEP = "[" * 100_000
DIGITS = "9" * 5000


@dataclass
class Made:
    """A checkpoint in parts, to be spoiled and written."""

    tensors: dict[str, Any]
    data: bytes
    metadata: dict[str, str]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.metadata[CONFIG_KEY])

    def write(self, path: Path) -> None:
        header = json.dumps({"__metadata__": self.metadata, **self.tensors}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + self.data)
        ends = [entry["data_offsets"][1] for entry in self.tensors.values()]
        if max(ends, default=0) > len(self.data):
            os.truncate(path, 8 + len(header) + max(ends))  # a file with a hole: it takes no room on the disk


def good() -> Made:
    """A small model that loads, with words."""
    model = LazyDiffusion(PRESETS["tiny"])
    initialise(model, torch.Generator().manual_seed(0))
    raw = save({key: value.contiguous() for key, value in model.state_dict().items()})
    length = int.from_bytes(raw[:8], "little")
    words = json.dumps([*SPECIAL, "red", "apple"])
    return Made(
        json.loads(raw[8 : 8 + length]), raw[8 + length :], {CONFIG_KEY: model.config.to_json(), WORDS_KEY: words}
    )


Spoil = Callable[[Made], None]


def config(**values: Any) -> Spoil:
    """Fields of the config; `vae__blocks` is the VAE's."""

    def spoil(made: Made) -> None:
        content = made.config
        for name, value in values.items():
            part, _, field = name.rpartition("__")
            (content[part] if part else content)[field] = value
        made.metadata[CONFIG_KEY] = json.dumps(content)

    return spoil


def raw_config(text: str) -> Spoil:
    return lambda made: made.metadata.update({CONFIG_KEY: text})


def raw_field(name: str, text: str) -> Spoil:
    """A field whose value is written as it stands."""
    return lambda made: made.metadata.update(
        {CONFIG_KEY: json.dumps(made.config | {name: "HERE"}).replace('"HERE"', text)}
    )


def words(value: Any) -> Spoil:
    return lambda made: made.metadata.update({WORDS_KEY: value if isinstance(value, str) else json.dumps(value)})


def library(vocabulary: Any = None, **values: Any) -> Spoil:
    """A tokenizer as files before format 2 hold it."""

    def spoil(made: Made) -> None:
        known = (
            {word: number for number, word in enumerate([*SPECIAL, "red", "apple"])}
            if vocabulary is None
            else vocabulary
        )
        del made.metadata[WORDS_KEY]
        content = {
            "version": "1.0",
            "added_tokens": [],
            "model": {"type": "WordLevel", "vocab": known, "unk_token": "[UNK]"},
        }
        made.metadata[TOKENIZER_KEY] = json.dumps({**content, **values})

    return spoil


def tensor(name: str, **changes: Any) -> Spoil:
    return lambda made: made.tensors[name].update(changes)


def stranger(size: int) -> Spoil:
    def spoil(made: Made) -> None:
        end = len(made.data)
        made.tensors["stranger"] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}

    return spoil


def million(made: Made) -> None:
    end = len(made.data)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}
    made.tensors.update({f"t{number}": empty for number in range(1_000_000)})


def value(pattern: bytes) -> Spoil:
    """The first number of a float32 tensor."""

    def spoil(made: Made) -> None:
        start = made.tensors[WEIGHT]["data_offsets"][0]
        made.data = made.data[:start] + pattern + made.data[start + 4 :]

    return spoil


WEIGHT = "transformer.decoder.x_embedder.bias"
LIBRARY_ATTACKS: dict[str, dict[str, Any]] = {
    "post-processor names an undeclared token": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[EVIL]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "padding of 10^12": {
        "padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0, "pad_token": "[PAD]"}
    },
    "padding of 10^8": {
        "padding": {"strategy": {"Fixed": 10**8}, "direction": "Right", "pad_id": 0, "pad_token": "[PAD]"}
    },
    "Prepend of 2 MB": {"normalizer": {"type": "Prepend", "prepend": "a" * 2_000_000}},
    "split that backtracks": {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    },
    "added tokens beyond the vocabulary": {"added_tokens": [{"id": 10**9, "content": "red", "special": True}]},
}
"""Nothing of these is read: the file loads, and prompts give what they gave."""

REFUSED: dict[str, tuple[Spoil, str]] = {
    "depth 10^9": (
        config(depth=10**9),
        r"depth is 1000000000, expected a whole number from 1 to 128\. Download or copy it again",
    ),
    "depth 128, with blocks of two": (
        config(depth=128),
        r"does not fit its config: \d+ missing \(transformer\.decoder\.blocks\.",
    ),
    "vae.blocks 10^18": (
        config(vae__blocks=10**18),
        r"vae\.blocks is 1000000000000000000, expected a whole number from 1 to 64",
    ),
    "width 30,000": (config(width=30_000), r"\d+ of another shape \(\S+ is \(.*\), expected \(.*30000"),
    "vocabulary 10^12": (
        config(text__vocabulary=10**12),
        r"text\.vocabulary is 1000000000000, expected a whole number from 3 to 1,000,000",
    ),
    "vocabulary 900,000": (
        config(text__vocabulary=900_000),
        r"text\.token\.weight is \(64, 32\), expected \(900000, 32\)",
    ),
    "heads 0": (config(heads=0), r"heads is 0, expected a whole number from 1 to 1,024"),
    "heads 5": (config(heads=5), r"width is 48, expected a multiple of heads, 5"),
    "text.heads 3": (config(text__heads=3), r"text\.width is 32, expected a multiple of text\.heads, 3"),
    "width 50": (config(width=50, heads=5), r"width is 50, expected a multiple of 4, for positions of two axes"),
    "caption of another width": (config(caption_width=64), r"text\.width is 32, expected caption_width, 64"),
    "micro-conditioning": (
        config(width=64, micro_conditioning=True),
        r"width is 64, expected a multiple of 3, as micro_conditioning is",
    ),
    "negative width": (config(width=-48), r"width is -48, expected a whole number from 4 to 65,536"),
    "negative length": (config(text__length=-16), r"text\.length is -16, expected a whole number from 2 to 1,024"),
    "negative channels": (config(vae__channels=-8), r"vae\.channels is -8, expected a whole number from 2 to 4,096"),
    "latent of another VAE": (
        config(latent_channels=5),
        r"vae\.latent_channels is 4 at 1/8 size, expected .* 5 at 1/8",
    ),
    "window 0": (config(window=0), r"window is 0, expected a whole number from 1 to 4,096, or null"),
    "prediction": (config(prediction="magic"), r"prediction is 'magic', expected one of epsilon, flow_x0"),
    "prediction, a list": (config(prediction=[]), r"prediction is \[\], expected one of epsilon, flow_x0"),
    "positions": (config(positions="x" * 1000), r"positions is 'x{50,60}…, expected one of pixart, unit"),
    "a number as text": (config(width="48"), r"width is '48', expected a whole number"),
    "a fraction": (config(width=48.0), r"width is 48\.0, expected a whole number"),
    "true as a number": (config(heads=True), r"heads is True, expected a whole number"),
    "a number as truth": (config(edges=1), r"edges is 1, expected true or false"),
    "shift 0": (config(shift=0), r"shift is 0, expected a number from 0\.001 to 1000"),
    "shift NaN": (raw_field("shift", "NaN"), r"malformed config in its metadata \(NaN instead of a number\)"),
    "shift Infinity": (
        raw_field("shift", "-Infinity"),
        r"malformed config in its metadata \(-Infinity instead of a number\)",
    ),
    "shift 1e999": (raw_field("shift", "1e999"), r"malformed config in its metadata \(the number 1e999\)"),
    "5,000 digits": (raw_field("width", DIGITS), r"malformed config in its metadata \(a number of 5,000 digits\)"),
    "5,000 digits of a fraction": (
        raw_field("shift", "0." + DIGITS),
        r"malformed config in its metadata \(the number 0\.9{18}…\)",
    ),
    "deep JSON": (raw_config(DEEP), r"malformed config in its metadata \(nested too deeply\)"),
    "deep field": (raw_field("latent_rgb", "[" * 400 + "]" * 400), r"latent_rgb is .*, expected rows of three numbers"),
    "half a config": (raw_config('{"width": '), r"malformed config .* Download or copy it again"),
    "a config of 2 MB": (
        raw_config(" " * (2 << 20)),
        r"malformed config in its metadata \(longer than 1,048,576 bytes\)",
    ),
    "a list": (raw_config("[1]"), r"config is \[1\], expected an object of fields"),
    "null": (raw_config("null"), r"config is None, expected an object of fields"),
    "vae is a list": (config(vae=[1]), r"vae is \[1\], expected an object of fields, or null"),
    "unknown field": (
        config(wings=2),
        r"config field wings is unknown, expected a field .* update ComfyUI-LazyDiffusion",
    ),
    "unknown field of the text": (config(text__wings=2), r"config field text\.wings is unknown"),
    "colours of other channels": (
        config(latent_rgb=[[0, 0, 0]]),
        r"latent_rgb is 1 rows, expected one for each of 4 latent channels",
    ),
    "colours of two": (config(latent_rgb=[[0, 0]] * 4), r"latent_rgb is \[\[0, 0\].*expected rows of three numbers"),
    "format -5": (config(format=-5), r"format is -5, expected a whole number from 1 to 2"),
    "format 1.5": (config(format=1.5), r"format is 1\.5, expected a whole number from 1 to 2"),
    "format 99": (config(format=99), r"checkpoint format 99 is newer than this pack's 2: update"),
    "ids beyond the vocabulary": (
        words([*SPECIAL, *map(str, range(62))]),
        r"lazydiffusion\.words is 65 words, expected at most .*64",
    ),
    "words of numbers": (
        words([*SPECIAL, 7]),
        r"lazydiffusion\.words is 7, expected a list of words of 1 to 200 letters",
    ),
    "a word twice": (
        words([*SPECIAL, "red", "red"]),
        r"lazydiffusion\.words is a list with a word twice, expected each word once",
    ),
    "no special tokens": (
        words(["red", "apple", "blue"]),
        r"begins with \['red', 'apple', 'blue'\], expected \[PAD\], \[UNK\], \[START\] first",
    ),
    "deep words": (words(DEEP), r"lazydiffusion\.words is no JSON that can be read \(nested too deeply\)"),
    "words, an object": (words({"red": 1}), r"lazydiffusion\.words is an object, expected a list of words"),
    "library ids beyond": (
        library({**{w: i for i, w in enumerate(SPECIAL)}, "red": 10**9}),
        r"model\.vocab is 1000000000, expected ids from 0 to 3",
    ),
    "library ids negative": (
        library({**{w: i for i, w in enumerate(SPECIAL)}, "red": -1}),
        r"model\.vocab is -1, expected ids from 0 to 3",
    ),
    "library ids of text": (
        library({**{w: i for i, w in enumerate(SPECIAL)}, "red": "3"}),
        r"model\.vocab is '3', expected ids from 0 to 3",
    ),
    "library without vocabulary": (
        library(model={"type": "BPE"}),
        r"model\.vocab is None, expected words with their ids",
    ),
    "a million tensors": (million, r"header is \d\d,\d{3},\d{3} bytes long, expected at most 8,388,608"),
    "8 GB of an unknown name": (stranger(GB8), r"1 unexpected \(stranger\)"),
    "whole numbers": (tensor(WEIGHT, dtype="I32"), rf"{WEIGHT} is of I32, expected numbers of one of F64"),
    "another shape": (tensor(WEIGHT, shape=[48, 1]), rf"{WEIGHT} is \(48, 1\), expected \(48,\)"),
    "NaN": (value(b"\x00\x00\xc0\x7f"), rf"{WEIGHT} is NaN or infinite in 1 of 48 values, expected numbers"),
    "infinity": (value(b"\x00\x00\x80\xff"), rf"{WEIGHT} is NaN or infinite in 1 of 48 values, expected numbers"),
}
"""What is spoiled, and what is said: `CheckpointError`s that name file, key, what came and what was expected."""
