"""Does a ComfyUI take the pack? `python dev.py run -- python -m devtools.smoke [FOLDER ...]`, once for each ComfyUI's
folder.

ComfyUI goes on, and its `--quick-test-for-ci` ends with 0, where a pack cannot be imported: here that is a failure, and
so is a node that it does not offer, or one that it offers without a name.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

from .host import check_host, pinned_folder
from .problem import Problem
from .server import Server

NODES = (
    "LazyModelLoader",
    "LazyMaskDilate",
    "LazyEncodeContext",
    "LazySketchCondition",
    "LazyDecode",
    "LazyCanvas",
    "LazyResult",
    "LazySaveContext",
    "LazyLoadContext",
    "LazyBatchEdits",
    "LazyDecodeBatch",
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.smoke", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("hosts", nargs="*", type=Path, help="folders with ComfyUI's main.py; none: the pinned one")
    failed = 0
    for host in parser.parse_args(argv).hosts or [pinned_folder()]:
        try:
            version = smoke(host.absolute())
            print(
                f"{host}: ComfyUI {version} on Python {platform.python_version()}: the pack's {len(NODES)} nodes are"
                " there."
            )
        except Problem as problem:
            failed += 1
            print(f"{host}: {problem}", file=sys.stderr)
    return 1 if failed else 0


def smoke(host: Path) -> str:
    """-> the host's version. Raises Problem where the pack, or a node of it, is not there."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with Server(
            check_host(host), base, base / "server.log", python=Path(sys.executable)
        ) as server:  # reads IMPORT FAILED in its log
            offered = server.client.object_info()
            version = server.client.version()
    if missing := [name for name in NODES if not offered.get(name, {}).get("display_name")]:
        raise Problem(f"ComfyUI {version} started, but lacks {', '.join(missing)}.")
    return version


if __name__ == "__main__":
    raise SystemExit(main())
