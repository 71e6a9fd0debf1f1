"""The canvas's JavaScript without a page, by node's own test runner (tests/web/)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "web" / "js").rglob("*.js"))
LONGEST = 250  # lines


@pytest.fixture(scope="module")
def node() -> str:
    program = shutil.which("node")
    if program is None:
        pytest.skip("no node: install it (on Debian: apt install nodejs), version 20 or newer")
    return program


def test_paint_state_and_files(node: str) -> None:
    run = subprocess.run([node, "--test", "tests/web/"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "# fail 0" in run.stdout
    assert int(run.stdout.split("# pass ")[1].split()[0]) >= 30


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_are_short(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= LONGEST
