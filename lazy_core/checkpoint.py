"""One `.safetensors` file: weights, config and word list in its metadata."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .checks import plain_json
from .checks.errors import AGAIN, CheckpointError, shown
from .checks.keys import assign, compare
from .config import LazyConfig
from .model import LazyDiffusion
from .networks.layers import Build
from .pixart import from_pixart as from_pixart
from .text.tokenizer import Tokenizer

CONFIG_KEY, WORDS_KEY = "lazydiffusion.config", "lazydiffusion.words"
STYLES_KEY, FIRST_STYLES = "lazydiffusion.styles", ("3d", "flat", "ink")  # names, and those of files without them
TOKENIZER_KEY = "lazydiffusion.tokenizer"  # of format 1: a JSON of the library's, of which the vocabulary is read
HEADER = 8 << 20  # bytes of a file's header; pixart-xl's has a hundred thousand
DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
PART = 1 << 24  # values that are looked at together for NaN


@dataclass(frozen=True)
class Checkpoint:
    """A file's contents; `identity` is a hash that tells models apart."""

    config: LazyConfig
    weights: dict[str, Tensor]
    tokenizer: Tokenizer | None
    identity: str
    metadata: dict[str, str]

    @property
    def notes(self) -> dict[str, str]:
        """What `save_checkpoint` was given beside the model: licence, provenance, ..."""
        own = ("format", CONFIG_KEY, WORDS_KEY, TOKENIZER_KEY)
        return {key: value for key, value in self.metadata.items() if key not in own}

    @property
    def styles(self) -> tuple[str, ...]:
        """Return the names of the drawing styles that the model tells apart, in its order; none where it knows one
        style alone.
        """
        return styles_in(self.metadata, self.config, "the checkpoint")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Weights below `prefix`, without it."""
        return {key[len(prefix) :]: value for key, value in self.weights.items() if key.startswith(prefix)}


def style_number(styles: tuple[str, ...], name: str) -> int | None:
    """Return the place of `name` in `styles`, None for "auto". Raises ValueError for a style that is not there."""
    if name == "auto":
        return None
    if name not in styles:
        raise ValueError(
            f"style is '{name}', but this model knows {', '.join(styles) or 'no styles'}. Choose one of these, or auto."
        )
    return styles.index(name)


def save_checkpoint(
    path: Path, model: LazyDiffusion, tokenizer: Tokenizer | None = None, dtype: torch.dtype | None = None, **notes: str
) -> None:
    """Write `model` (in `dtype`, if given) with its config, its words and `notes` (licence, provenance) as metadata."""
    weights = {
        key: value.detach().to(dtype or value.dtype).contiguous().cpu() for key, value in model.state_dict().items()
    }
    metadata = {"format": "pt", CONFIG_KEY: model.config.to_json(), **notes}
    if tokenizer is not None:
        metadata[WORDS_KEY] = tokenizer.to_json()
    save_file(weights, path, metadata=metadata)


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint of ours: nothing is built, and no tensor read, before config, words and shapes agree.

    Raises CheckpointError, and nothing else: what the file is instead, and what to do.
    """
    path = Path(path)
    name = path.name
    with opened(path) as file:
        metadata = file.metadata() or {}
        config = config_in(metadata, name)
        tokenizer = tokenizer_in(metadata, config, name)
        styles_in(metadata, config, name)
        expected = expected_shapes(config)
        check_tensors(file, expected, name)
        weights = {key: finite(file.get_tensor(key), key, name) for key in expected}
        return Checkpoint(config, weights, tokenizer, fingerprint(path), metadata)


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """Open a `.safetensors` file. Raises CheckpointError for one that cannot be read, there or while it is open."""
    name = path.name
    try:
        check_file(path)
        with safe_open(str(path), "pt") as file:
            yield file
    except SafetensorError as error:
        sentence = f"{name} is damaged or no safetensors file ({error}). {AGAIN}"
        raise CheckpointError(name, "file", str(error), "a safetensors file", sentence=sentence) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        sentence = f"{name} cannot be read ({reason})."
        raise CheckpointError(name, "file", reason, "a file that can be read", sentence=sentence) from error


def check_file(path: Path) -> None:
    """Raises CheckpointError for what is no file, and for a header that is not read: of a million tensors, or of
    none."""
    if path.suffix != ".safetensors":
        kind = path.suffix or "file without ending"
        sentence = f"{path.name} is a {kind}, expected .safetensors: pickled checkpoints are never loaded."
        raise CheckpointError(path.name, "file", kind, ".safetensors", sentence=sentence)
    if not stat.S_ISREG(path.stat().st_mode):
        raise CheckpointError(path.name, "file", "a folder, a pipe or a device", "a file", "Choose another one.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if HEADER < length <= path.stat().st_size:
        raise CheckpointError(path.name, "header", f"{length:,} bytes long", f"at most {HEADER:,}")


def config_in(metadata: dict[str, str], name: str) -> LazyConfig:
    """Return the config in a file's metadata. Raises CheckpointError."""
    if CONFIG_KEY in metadata:
        return LazyConfig.from_json(metadata[CONFIG_KEY], name)
    sentence = (
        f"{name} is no LazyDiffusion checkpoint: its metadata has no '{CONFIG_KEY}'. "
        "Choose the model that ships with the pack, or one made by its training."
    )
    raise CheckpointError(name, CONFIG_KEY, "missing", "a config", sentence=sentence)


def tokenizer_in(metadata: dict[str, str], config: LazyConfig, name: str) -> Tokenizer | None:
    """Return the tokenizer in a file's metadata; None for a model without a text encoder. Raises CheckpointError."""
    if config.text is None:
        return None
    if WORDS_KEY in metadata:
        return Tokenizer.from_json(metadata[WORDS_KEY], config.text, name, WORDS_KEY)
    if TOKENIZER_KEY in metadata:
        return Tokenizer.from_library_json(metadata[TOKENIZER_KEY], config.text, name, TOKENIZER_KEY)
    return None


def styles_in(metadata: dict[str, str], config: LazyConfig, name: str) -> tuple[str, ...]:
    """Return the names of the styles; those of files without names are `FIRST_STYLES`, or counted. Raises
    CheckpointError.
    """
    if STYLES_KEY not in metadata:
        return (
            FIRST_STYLES
            if config.styles == len(FIRST_STYLES)
            else tuple(f"style {i + 1}" for i in range(config.styles))
        )
    try:
        names = plain_json.parse(metadata[STYLES_KEY], limit=1 << 12)
    except ValueError as error:
        raise CheckpointError(name, STYLES_KEY, str(error), "a JSON list of names") from error
    if (
        not isinstance(names, list)
        or len(names) != config.styles
        or not all(isinstance(n, str) and 0 < len(n) <= 40 for n in names)
    ):
        raise CheckpointError(name, STYLES_KEY, shown(names), f"a list of {config.styles} names")
    return tuple(names)


def expected_shapes(config: LazyConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a model, which is built on `meta` for it: without memory."""
    return {key: tuple(value.shape) for key, value in LazyDiffusion(config, Build(device="meta")).state_dict().items()}


def check_tensors(file: Any, expected: dict[str, tuple[int, ...]], name: str) -> None:
    """Names first, then shapes and kinds of numbers, by the header alone. Raises CheckpointError."""
    keys = set(file.keys())
    slices = {key: file.get_slice(key) for key in expected if key in keys}
    shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
    compare(expected, {**dict.fromkeys(keys - expected.keys(), ()), **shapes}, name)
    for key, each in slices.items():
        if each.get_dtype() not in DTYPES:
            raise CheckpointError(name, key, f"of {each.get_dtype()}", f"numbers of one of {', '.join(DTYPES)}")


def finite(value: Tensor, key: str, name: str) -> Tensor:
    """`value`. Raises CheckpointError where a number of it is none, or none in float32."""
    quick = value if value.dtype in (torch.float16, torch.bfloat16, torch.float32) else value.float()
    if not value.numel() or all(bool(torch.isfinite(end)) for end in torch.aminmax(quick)):  # NaN comes through
        return value
    if bad := sum(int((~torch.isfinite(part.float())).sum()) for part in value.reshape(-1).split(PART)):
        raise CheckpointError(name, key, f"NaN or infinite in {bad:,} of {value.numel():,} values", "numbers")
    return value


def fingerprint(path: Path, chunk: int = 1 << 22) -> str:
    """Hash of the whole file: a fine-tuning may have changed a single tensor of it."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(chunk):
            digest.update(part)
    return digest.hexdigest()


def load_model(
    path: Path | str, dtype: torch.dtype | None = torch.float32, build: Build | None = None
) -> tuple[LazyDiffusion, Checkpoint]:
    """Build on `meta`, assign the file's weights in `dtype` (None keeps the file's). Raises CheckpointError."""
    checkpoint = read_checkpoint(path)
    given = build or Build()
    model = LazyDiffusion(checkpoint.config, Build(given.ops, dtype, "meta", given.attention))
    assign(model, checkpoint.weights, Path(path).name, dtype)
    return model.eval(), checkpoint
