"""A short run of devtools.fuzz, and that it can fail."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from devtools import fuzz
from devtools.guided import CORPUS, Drawn


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_random_damage_loads_or_is_refused_as_documented(target: str):
    assert fuzz.run((target,), seed=0, seconds=60, most=20) == []


def test_damage_is_done_to_a_case_and_to_no_later_one():
    before = repr(fuzz.ODD)
    value = {"a": [1, 2, {"b": "c"}], "d": {}}
    made = [repr(fuzz.damaged(value, random.Random(seed))) for seed in range(3000)]
    assert repr(fuzz.ODD) == before
    assert made == [repr(fuzz.damaged(value, random.Random(seed))) for seed in range(3000)]


def test_an_undocumented_error_is_found(monkeypatch: pytest.MonkeyPatch):
    def broken(self: Any, rng: random.Random) -> None:
        raise KeyError(rng.random())

    monkeypatch.setattr(fuzz.Cases, "prompt", broken)
    failures = fuzz.run(("prompt",), seed=7, seconds=60, most=2)
    assert [failure.partition(": ")[0] for failure in failures] == ["--only prompt --seed 7", "--only prompt --seed 8"]


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_inputs_that_reached_new_lines_once_load_or_are_refused(target: str, tmp_path: Path):
    """The corpus of `devtools.fuzz --guided`, and whatever it found."""
    files = sorted((CORPUS / target).iterdir())
    assert files
    cases = fuzz.Cases(tmp_path)
    try:
        for file in files:
            begin = time.process_time()
            getattr(cases, target)(Drawn(file.read_bytes()))
            assert time.process_time() - begin < fuzz.SECONDS, file.name
    finally:
        cases.decoder.stop()


def test_equal_bytes_draw_an_equal_case():
    one, two = Drawn(b"some bytes"), Drawn(b"some bytes")
    for rng in (one, two):
        assert 0 <= rng.random() < 1
    assert [one.randrange(10**6) for _ in range(5)] == [two.randrange(10**6) for _ in range(5)]
    assert Drawn(b"").choice("ab") == "a"
