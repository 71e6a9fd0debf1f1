"""The archive of a release holds what users need, and that is enough for a ComfyUI to run an edit."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import pytest

from comfy_client import ComfyClient
from devtools import release
from devtools.places import PACK, ROOT
from devtools.problem import Problem
from devtools.server import Server

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="the archive is made of what git has: clone the repository"
)


def test_the_archive_runs_an_edit(tmp_path: Path, host: Path):
    path = release.make_archive(tmp_path / "out")
    assert path.stat().st_size < 60e6
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        archive.extractall(tmp_path)
    tops = {name.partition("/")[0] for name in names}
    assert {
        "__init__.py",
        "nodes",
        "lazy_core",
        "web",
        "locales",
        "workflows",
        "models",
        "LICENSE",
        "README.md",
        "pyproject.toml",
    } <= tops
    assert not tops & {"tests", "training", "benchmarks", "devtools", ".ci", "dev.py"}
    assert not [name for name in names if name.startswith("docs/") and not name.endswith(".md")]
    prompt = json.loads((ROOT / "tests" / "api" / "1_first_edit.json").read_text(encoding="utf-8"))
    with Server(host, tmp_path / "base", tmp_path / "log", pack=tmp_path / PACK, python=Path(sys.executable)) as server:
        result = ComfyClient(server).queue(prompt)
    assert result.error is None, result.error


def test_the_same_commit_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(release, "ignored", lambda text: ["models", "docs", "web", "workflows", "training", "tests"])
    one, two = (release.make_archive(tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_version_that_the_changelog_does_not_begin_with_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "pyproject.toml").write_text('version = "9.9"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1\n")
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(Problem, match=r"version 9\.9, the changelog begins with 0\.1"):
        release.check_version()
