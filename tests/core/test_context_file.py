"""A CONTEXT in a file: what comes back is what was saved, and everything else is refused in a sentence."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from devtools import fuzz
from lazy_core.checks.errors import CheckpointError
from lazy_core.context import Context, Origin, Sketch, StockTerms, View
from lazy_core.context_file import DIGEST_KEY, digest, read_context, to_bytes
from lazy_core.context_notes import FORMAT, NOTES_KEY, notes_of
from lazy_core.geometry import Grid
from lazy_core.tokens import HoleTokens

GRID = Grid(40, 56, 8, 2)  # 3 x 4 tokens, padded at both ends
ROWS, COUNT, WIDTH, MASKED = 3, 2, 5, 2000


def context(**changes: Any) -> Context:
    """Two images of which the first has two holes."""
    torch.manual_seed(0)
    index, valid = torch.tensor([[0, 1], [5, 0], [3, 7]]), torch.tensor([[True, True], [True, False], [True, True]])
    hole = HoleTokens(index, valid, GRID.tokens, torch.tensor([0, 0, 1]))
    image = torch.randint(0, 256, (2, 3, 40, 56)) / 255
    known = {
        "view": View(Grid(32, 32, 8, 2), torch.tensor([[0, 1], [3, 0], [2, 3]]), torch.tensor([[2, 2]] * 3)),
        "sketch": Sketch(torch.randn(ROWS, COUNT, 16), 0.4, torch.rand(2, 40, 56) > 0.5, True),
        "edges": torch.rand(ROWS, COUNT, 256),
        "negative_offset": torch.randn(ROWS, WIDTH),
        "weight": torch.rand(2, 40, 56),
        "strength": torch.rand(ROWS, COUNT),
        "alpha": torch.rand(2, 1, 40, 56),
        "texture": torch.rand(MASKED, 4),
        "origin": Origin("a LoRA", torch.rand(7)),
    }
    latent, tokens = torch.randn(2, 4, *GRID.latent_size), torch.randn(ROWS, COUNT, WIDTH)
    mask = torch.zeros(2 * 40 * 56, dtype=torch.bool)
    mask[torch.randperm(len(mask))[:MASKED]] = True
    return Context("model", GRID, image, mask.view(2, 40, 56), latent, hole, tokens, **{**known, **changes})


def plain() -> Context:
    nothing = dict.fromkeys(("view", "sketch", "edges", "negative_offset", "weight", "strength", "alpha", "texture"))
    return context(**nothing)


def stock() -> Context:
    hole = HoleTokens(torch.tensor([[0, 1], [5, 6]]), torch.ones(2, 2, dtype=torch.bool), GRID.tokens)
    terms = StockTerms("fast", "fp8", torch.randn(2, 4, *GRID.latent_size), "near")
    return plain().with_(stock=terms, hole=hole, tokens=torch.zeros(2, 2, 0))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if is_dataclass(one) and not isinstance(one, type):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name))
            for field in fields(one)
            if field.name != "loaded"
        )
    return one == other


def saved(made: Context, tmp_path: Path) -> Path:
    (path := tmp_path / "a.safetensors").write_bytes(to_bytes(made))
    return path


def changed(path: Path, change: Any, sign: bool = True) -> None:
    """Change notes and tensors of a file; its SHA-256 is made anew, as an attacker would."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        metadata = dict(file.metadata())
    notes, parts = json.loads(metadata[NOTES_KEY]), load_file(path)
    change(notes, parts)
    metadata[NOTES_KEY] = json.dumps(notes)
    if sign:
        metadata[DIGEST_KEY] = digest(metadata[NOTES_KEY], parts)
    save_file(parts, path, metadata)


def seen_smaller() -> Context:
    """A canvas of which the model sees half a side: tokens of 32 px, whose lines are 16 px."""
    made = context(**dict.fromkeys(("sketch", "weight", "alpha", "texture")))
    return made.with_(
        grid=Grid(80, 112, 8, 2, 2),
        image=torch.randint(0, 256, (2, 3, 80, 112)) / 255,
        mask=torch.rand(2, 80, 112) > 0.5,
        view=View(Grid(64, 64, 8, 2, 2), torch.tensor([[0, 1], [3, 0], [2, 3]])),
    )


@pytest.mark.parametrize("make", [context, plain, stock, seen_smaller])
def test_what_is_saved_comes_back_bit_for_bit(make: Any, tmp_path: Path):
    made = make()
    found = read_context(saved(made, tmp_path))
    assert same(made, found)
    assert found.origin is not None and found.origin.loaded


@pytest.mark.parametrize(("make", "number"), [(plain, 1), (seen_smaller, FORMAT)])
def test_files_that_an_older_pack_can_read_say_so(make: Any, number: int):
    """Format 2 alone holds canvases that are seen smaller."""
    assert notes_of(make())["format"] == number
    assert FORMAT == 2


def test_a_picture_that_came_as_bytes_is_kept_as_bytes(tmp_path: Path):
    exact, floats = plain(), plain().with_(image=torch.rand(2, 3, 40, 56))
    assert len(to_bytes(floats)) - len(to_bytes(exact)) > 2.9 * exact.image.numel()
    assert same(floats, read_context(saved(floats, tmp_path)))


def test_a_context_of_unknown_origin_is_not_saved():
    with pytest.raises(ValueError, match="does not say what it was made with"):
        to_bytes(context(origin=None))


def put(where: str, name: str, value: Any) -> Any:
    return lambda notes, parts: (notes if where == "notes" else parts).update({name: value})


CHANGES = {
    "a newer format": (put("notes", "format", 3), "context format 3 is newer than this pack's 2: update"),
    "a grid of a thousand million": (put("notes", "grid", [10**9, 8, 8, 2]), "grid is .*, expected height, width"),
    "tokens of 64 pixels by 64": (
        put("notes", "grid", [40, 56, 512, 2]),
        "grid is .*downscale, if any .at most 64 each",
    ),
    "a canvas seen 65 times smaller": (put("notes", "grid", [40, 56, 8, 2, 65]), "grid is .*at most 64 each"),
    "a grid of six numbers": (put("notes", "grid", [40, 56, 8, 2, 1, 1]), "grid is .*, expected height, width"),
    "more tokens in a hole than there are": (put("notes", "count", 13), "count is 13, expected at most 12"),
    "a token twice": (put("parts", "index", torch.tensor([[1, 1], [5, 0], [3, 7]])), "index is a token twice"),
    "rows below nothing": (put("notes", "rows", -1), "rows is -1, expected a whole number"),
    "more rows than tensors": (put("notes", "rows", 10**6), r"tensor \w+.* is \w+ \(3"),
    "an unknown field": (put("notes", "x", 1), "fields is .*'x'.*, expected those of a saved CONTEXT"),
    "an unknown reuse": (put("notes", "reuse", "never"), "reuse is 'never', expected one of fast, balanced, exact"),
    "a tensor too many": (put("parts", "x", torch.zeros(1)), "tensor x is unknown"),
    "another shape": (put("parts", "mask", torch.zeros(1, 2, dtype=torch.uint8)), r"tensor mask is U8 \(1, 2\)"),
    "other numbers": (put("parts", "tokens", torch.zeros(3, 2, 5).double()), "tensor tokens is F64"),
    "a token beyond the grid": (put("parts", "index", torch.full((3, 2), 12)), "index is from 12 to 12.*0 to 11"),
    "a token before it": (put("parts", "view.index", torch.full((3, 2), -1)), "view.index is from -1 to -1"),
    "an image that is not there": (put("parts", "owner", torch.tensor([0, 0, 2])), "owner is from 0 to 2"),
    "no number": (put("parts", "latent", torch.full((2, 4, 6, 8), torch.nan)), "latent is NaN or infinite"),
    "a texture of another hole": (put("parts", "texture", torch.zeros(3, 4)), "texture is 3 colours, expected 2000"),
    "a missing tensor": (lambda notes, parts: parts.pop("latent"), "tensor latent is missing"),
    "a sketch without tokens": (lambda notes, parts: parts.pop("sketch.tokens"), "tensor sketch.tokens is missing"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_stranger_may_have_changed_is_refused_by_name(name: str, tmp_path: Path):
    change, sentence = CHANGES[name]
    changed(path := saved(context(), tmp_path), change)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors.*{sentence}"):
        read_context(path)


def test_every_flipped_byte_is_noticed(tmp_path: Path):
    """But for those in the header that nobody reads."""
    good, refused = to_bytes(plain()), 0
    rng = random.Random(0)
    for place in [*range(0, 400, 7), *(rng.randrange(len(good)) for _ in range(200))]:
        data = bytearray(good)
        data[place] ^= 1 << rng.randrange(8)
        (path := tmp_path / "a.safetensors").write_bytes(data)
        try:
            assert same(plain(), read_context(path))
        except CheckpointError:
            refused += 1
    assert refused > 240


def test_random_damage_is_refused_as_documented(tmp_path: Path):
    good = saved(context(), tmp_path).read_bytes()
    for seed in range(150):
        rng = random.Random(seed)
        path = tmp_path / "a.safetensors"
        path.write_bytes(good)
        if seed % 2:
            path.write_bytes(fuzz.flipped(good, rng))
        else:

            def damage(notes: dict[str, Any], parts: dict[str, Tensor], rng: random.Random = rng) -> None:
                new = fuzz.damaged(notes, rng)
                notes.clear()
                notes.update(new if isinstance(new, dict) else {"odd": new})

            try:
                changed(path, damage)
            except (ValueError, UnicodeEncodeError):
                continue  # no file can hold it
        with contextlib.suppress(CheckpointError):
            read_context(path)


def test_other_files_are_told_apart(tmp_path: Path):
    save_file({"x": torch.zeros(1)}, path := tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors is no saved CONTEXT.*Save Context"):
        read_context(path)
    with pytest.raises(CheckpointError, match=r"gone.safetensors cannot be read"):
        read_context(tmp_path / "gone.safetensors")
    (tmp_path / "short.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"short.safetensors is damaged or no safetensors file"):
        read_context(tmp_path / "short.safetensors")


def test_vaes_are_told_apart_but_not_by_their_type_of_number():
    torch.manual_seed(0)
    weights = [torch.randn(64, 32) * scale for scale in (0.01, 0.3, 4.0)]

    def origin(parts: list[Tensor]) -> Origin:
        return Origin("", torch.tensor([float(part.float().abs().mean()) for part in parts]))

    made = origin(weights)
    assert made.same_vae(origin([part.bfloat16() for part in weights]))
    assert made.same_vae(origin([part.half() for part in weights]))
    assert not made.same_vae(origin([*weights[:2], weights[2] * 1.01]))
    assert not made.same_vae(origin(weights[:2]))


def test_a_context_of_format_1_goes_on_loading():
    """Saved by the first version that could, with the model that shipped then."""
    path = Path(__file__).resolve().parents[1] / "data" / "upgrade" / "context_1.safetensors"
    found = read_context(path)
    assert (found.grid.height, found.grid.width, found.hole.count, found.hole.total) == (64, 64, 4, 16)
    assert found.origin is not None and len(found.origin.vae) > 10
    assert found.image.shape == (1, 3, 64, 64) and int(found.mask.sum()) == 32 * 32
