"""The archive that users get: `python dev.py run -- python -m devtools.release`; prints its size.

All that git tracks but what `.comfyignore` names, as `comfy node publish` packs it, under the folder's name in
`custom_nodes`. Made of what is committed, with the dates of that commit: the same commit gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
import tarfile
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path

from .places import PACK, ROOT, output
from .problem import Problem

IGNORE = ".comfyignore"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.release", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--out", type=Path, default=None, help="folder; default: output/release")
    args = parser.parse_args(argv)
    path = make_archive(args.out or output("release"))
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        files = archive.infolist()
    print(
        f"{path}: {len(data) / 1e6:.1f} MB, {len(files)} files, {sum(file.file_size for file in files) / 1e6:.1f} MB"
        " unpacked"
    )
    print(f"sha256 {hashlib.sha256(data).hexdigest()}")
    for file in sorted(files, key=lambda file: -file.compress_size)[:5]:
        print(f"  {file.compress_size / 1e6:6.1f} MB  {file.filename.partition('/')[2]}")
    return 0


def make_archive(folder: Path) -> Path:
    """-> the archive of the commit that is checked out. Raises Problem where the changelog does not begin with its
    version.
    """
    version = check_version()
    left_out = ignored((ROOT / IGNORE).read_text(encoding="utf-8"))
    date = time.gmtime(int(git("log", "-1", "--format=%ct")))[:6]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PACK}-{version}.zip"
    tree = io.BytesIO(git("archive", "--format=tar", "HEAD"))
    with (
        tarfile.open(fileobj=tree) as files,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
    ):
        for file in sorted(files.getmembers(), key=lambda file: file.name):
            content = files.extractfile(file) if file.isfile() else None
            if content is not None and not is_ignored(file.name, left_out):
                archive.writestr(zipfile.ZipInfo(f"{PACK}/{file.name}", date), content.read(), zipfile.ZIP_DEFLATED, 9)
    return path


def check_version() -> str:
    """-> the version in pyproject.toml, which is the newest in the changelog. Raises Problem."""
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if version is None or newest is None or version[1] != newest[1]:
        versions = [found and found[1] for found in (version, newest)]
        raise Problem(
            f"pyproject.toml has version {versions[0]}, the changelog begins with {versions[1]}: make them one."
        )
    return version[1]


def ignored(text: str) -> list[str]:
    """Files, folders and patterns that `.comfyignore` names, each by its path from the root."""
    return [line.strip().rstrip("/") for line in text.splitlines() if line.strip() and not line.startswith("#")]


def is_ignored(name: str, left_out: list[str]) -> bool:
    return any(fnmatch(name, pattern) or name.startswith(pattern + "/") for pattern in left_out)


def git(*arguments: str) -> bytes:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True)
    if done.returncode:
        raise Problem(f"git {arguments[0]} failed here: {done.stderr.decode(errors='replace').strip()}.")
    return done.stdout


if __name__ == "__main__":
    raise SystemExit(main())
