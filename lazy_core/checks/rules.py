"""What values a config may have: checked before anything is built from it, whoever made the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import AGAIN, CheckpointError, shown
from .plain_json import parse

MOST = 1 << 20  # bytes of a config
UPDATE = "It was made by another version of the pack: update ComfyUI-LazyDiffusion, or " + AGAIN[0].lower() + AGAIN[1:]


@dataclass(frozen=True)
class Rule:
    """`fits` tells whether a value may stand there, `says` what may."""

    fits: Callable[[Any], bool]
    says: str


def integer(low: int, high: int) -> Rule:
    """Make a rule for whole numbers from `low` to `high`."""
    return Rule(lambda value: type(value) is int and low <= value <= high, f"a whole number from {low:,} to {high:,}")


def number(low: float, high: float) -> Rule:
    """Make a rule for finite numbers from `low` to `high`."""

    def fits(value: Any) -> bool:
        return type(value) in (int, float) and math.isfinite(value) and low <= value <= high

    return Rule(fits, f"a number from {low:g} to {high:g}")


def choice(*names: str) -> Rule:
    """Make a rule for one of some words."""
    return Rule(lambda value: type(value) is str and value in names, "one of " + ", ".join(names))


def or_none(rule: Rule) -> Rule:
    """Make a rule that also takes null."""
    return Rule(lambda value: value is None or rule.fits(value), f"{rule.says}, or null")


def _is_rgb(value: Any) -> bool:
    factor = number(-100, 100)
    rows = isinstance(value, (list, tuple)) and all(isinstance(row, (list, tuple)) and len(row) == 3 for row in value)
    return rows and all(factor.fits(each) for row in value for each in row)


TRUTH = Rule(lambda value: type(value) is bool, "true or false")
WIDTH, DEPTH, HEADS = integer(4, 1 << 16), integer(1, 128), integer(1, 1024)

VAE = {"latent_channels": integer(1, 1024), "channels": integer(2, 4096), "blocks": integer(1, 64)}
TEXT = {
    "width": WIDTH,
    "depth": integer(0, 128),
    "heads": HEADS,
    "vocabulary": integer(3, 1_000_000),
    "length": integer(2, 1024),
}
MODEL = {
    "latent_channels": integer(1, 1024),
    "patch_size": integer(1, 64),
    "width": WIDTH,
    "depth": DEPTH,
    "heads": HEADS,
    "mlp_ratio": number(0.01, 64),
    "caption_width": integer(1, 1 << 16),
    "encoder_width": WIDTH,
    "encoder_depth": DEPTH,
    "encoder_heads": HEADS,
    "prediction": choice("epsilon", "flow_x0"),
    "learn_sigma": TRUTH,
    "micro_conditioning": TRUTH,
    "positions": choice("pixart", "unit"),
    "latent_scale": integer(1, 64),
    "window": or_none(integer(1, 4096)),
    "edges": TRUTH,
    "fill": TRUTH,
    "styles": integer(0, 1024),
    "matte": integer(0, 256),
    "style_depth": integer(0, 128),
    "style_guidance": number(-100, 100),
    "style_emphasis": number(-100, 100),
    "style_decisive": TRUTH,
    "shift": number(0.001, 1000),
    "steps": integer(1, 10_000),
    "latent_rgb": or_none(Rule(_is_rgb, "rows of three numbers from -100 to 100, one for each latent channel")),
    "preset": Rule(lambda value: type(value) is str and len(value) <= 200, "a name of at most 200 letters"),
}
PARTS = {"vae": VAE, "text": TEXT}


def read_values(text: str, newest: int, file: str) -> dict[str, Any]:
    """A config's JSON as values that all fit: of known fields, in their ranges. Raises CheckpointError."""
    try:
        values = parse(text, MOST)
    except ValueError as error:
        raise CheckpointError(
            file,
            "config",
            str(error),
            "JSON",
            sentence=f"{file} has a malformed config in its metadata ({error}). {AGAIN}",
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(file, "config", shown(values), "an object of fields")
    version = values.pop("format", 1)
    if type(version) is not int or version < 1:
        raise CheckpointError(file, "format", shown(version), f"a whole number from 1 to {newest}")
    if version > newest:
        newer = f"{file}: checkpoint format {version} is newer than this pack's {newest}: update ComfyUI-LazyDiffusion."
        raise CheckpointError(file, "format", str(version), f"at most {newest}", sentence=newer)
    for name, rules in PARTS.items():
        if values.get(name) is not None:
            fit(values[name], rules, f"{name}.", file)
    fit({name: value for name, value in values.items() if name not in PARTS}, MODEL, "", file)
    return values


def fit(values: Any, rules: Mapping[str, Rule], where: str, file: str) -> None:
    """Raises CheckpointError for a field of `where` that is unknown, or whose value breaks its rule."""
    if not isinstance(values, dict):
        raise CheckpointError(file, where.rstrip("."), shown(values), "an object of fields, or null")
    for name, value in values.items():
        if name not in rules:
            raise CheckpointError(
                file, f"config field {where}{shown(name)[1:-1]}", "unknown", "a field of this pack's models", UPDATE
            )
        if not rules[name].fits(value):
            raise CheckpointError(file, f"{where}{name}", shown(value), rules[name].says)


def agree(config: Any, file: str) -> None:
    """Raises CheckpointError where two fields of a LazyConfig contradict each other."""
    for part, name, heads in (
        (config, "width", "heads"),
        (config, "encoder_width", "encoder_heads"),
        (config.text, "width", "heads"),
    ):
        if part is not None and getattr(part, name) % getattr(part, heads):
            where = "text." if part is config.text else ""
            raise CheckpointError(
                file, where + name, str(getattr(part, name)), f"a multiple of {where}{heads}, {getattr(part, heads)}"
            )
    for name in ("width", "encoder_width"):
        if getattr(config, name) % 4:
            raise CheckpointError(file, name, str(getattr(config, name)), "a multiple of 4, for positions of two axes")
    if config.micro_conditioning and config.width % 3:
        raise CheckpointError(file, "width", str(config.width), "a multiple of 3, as micro_conditioning is true")
    if config.latent_rgb is not None and len(config.latent_rgb) != config.latent_channels:
        rows = f"{len(config.latent_rgb)} rows"
        raise CheckpointError(file, "latent_rgb", rows, f"one for each of {config.latent_channels} latent channels")
    if config.vae is not None and (config.vae.latent_channels, 8) != (config.latent_channels, config.latent_scale):
        got = f"{config.vae.latent_channels} at 1/8 size"
        wanted = f"the model's latent_channels at 1/latent_scale, {config.latent_channels} at 1/{config.latent_scale}"
        raise CheckpointError(file, "vae.latent_channels", got, wanted)
    if config.text is not None and config.text.width != config.caption_width:
        raise CheckpointError(file, "text.width", str(config.text.width), f"caption_width, {config.caption_width}")
