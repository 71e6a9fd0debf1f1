"""A short run of devtools.fuzz, and that it can fail."""

from __future__ import annotations

import random
from typing import Any

import pytest

from devtools import fuzz


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_random_damage_loads_or_is_refused_as_documented(target: str):
    assert fuzz.run((target,), seed=0, seconds=60, most=20) == []


def test_an_undocumented_error_is_found(monkeypatch: pytest.MonkeyPatch):
    def broken(self: Any, rng: random.Random) -> None:
        raise KeyError(rng.random())

    monkeypatch.setattr(fuzz.Cases, "prompt", broken)
    failures = fuzz.run(("prompt",), seed=7, seconds=60, most=2)
    assert [failure.partition(": ")[0] for failure in failures] == ["--only prompt --seed 7", "--only prompt --seed 8"]
