"""The page's JavaScript without a page: node's own test runner (tests/web/), its types, its format."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from devtools import javascript
from devtools.problem import Problem

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "web" / "js").rglob("*.js"))
LONGEST = 250  # lines


def program(name: str, sentence: str) -> str:
    """Without it the tests skip, except where LAZYDIFFUSION_REQUIRE_NODE=1 says that there must be one (CI)."""
    found = shutil.which(name)
    if found:
        return found
    if os.environ.get("LAZYDIFFUSION_REQUIRE_NODE") == "1":
        pytest.fail(sentence)
    pytest.skip(sentence)


@pytest.fixture(scope="module")
def node() -> str:
    return program("node", "no node: install it (on Debian: apt install nodejs), version 20 or newer")


@pytest.fixture(scope="module")
def tools(node: str) -> Path:
    """biome, TypeScript and ComfyUI's types."""
    program("npm", "no npm: install it (on Debian: apt install npm)")
    try:
        return javascript.tools_folder()
    except Problem as problem:
        if os.environ.get("LAZYDIFFUSION_REQUIRE_NODE") == "1":
            raise
        pytest.skip(str(problem))


def test_paint_state_and_files(node: str) -> None:
    run = subprocess.run(
        [node, "--test", *map(str, sorted((ROOT / "tests" / "web").glob("*.test.js")))],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "# fail 0" in run.stdout
    assert int(run.stdout.split("# pass ")[1].split()[0]) >= 34


def test_types_are_right_by_comfyuis_own(tools: Path) -> None:
    assert javascript.check_types(tools) == ""


def test_modules_are_formatted_and_without_what_biome_warns_of(tools: Path) -> None:
    assert javascript.check_style(tools) == ""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_are_short(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= LONGEST
