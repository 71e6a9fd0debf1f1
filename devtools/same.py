"""`python dev.py run -- python -m devtools.same COMMIT`: are the results of edits bit for bit those of an earlier
commit?

Each edit goes through the nodes of both trees inside ComfyUI: the shipped model with the lazy and the full VAE decoder,
several holes, a soft mask, a sketch, a batch; and a tiny model of each stock family that the host has, exact and fast.
Random weights and inputs are made here, so that the trees differ in the pack alone.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .places import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devtools.same", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument(
        "--hashes-of", type=Path, metavar="FOLDER", help="print the results' hashes of the pack in this folder, and end"
    )
    given = parser.parse_args()
    if given.hashes_of is not None:
        print(json.dumps(dict(edits(given.hashes_of.resolve()))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        earlier = Path(folder) / "pack"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(earlier), given.commit], cwd=ROOT, check=True
        )
        try:
            before, now = hashes(given.commit, earlier), hashes(given.commit, ROOT)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(earlier)], cwd=ROOT, check=True)
    changed = [name for name in now if before.get(name) != now[name]]
    for name in now:
        print(f"{name:32} {'same' if name not in changed else 'NEW' if name not in before else 'DIFFERENT'}")
    print(f"{len(now) - len(changed)} of {len(now)} results are bit for bit those of {given.commit}")
    return int(bool(changed))


def hashes(commit: str, folder: Path) -> dict[str, str]:
    """The edits of one tree, in a process of its own."""
    command = [sys.executable, "-m", "devtools.same", commit, "--hashes-of", str(folder)]
    environment = {**os.environ, "TQDM_DISABLE": "1"}
    ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(ran.stdout.splitlines()[-1])


def edits(folder: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256 of the results) of each edit by the pack in this folder."""
    sys.path.insert(0, str(ROOT / "tests"))
    import conftest  # first: it puts ComfyUI on the path  # noqa: F401

    # isort: split
    import comfy.options  # noqa: F401
    import torch
    from comfy.cli_args import args

    args.cpu = True
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(
        "pack_to_compare", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    pack = sys.modules["pack_to_compare"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
    from host_graphs import Lazy

    lazy = Lazy(pack)
    for name, results in [*own_edits(lazy), *stock_edits(lazy)]:
        yield (
            name,
            hashlib.sha256(b"".join(result.contiguous().float().numpy().tobytes() for result in results)).hexdigest(),
        )


def own_edits(lazy: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(name, image and latent) of edits by the shipped model."""
    import torch

    from stock_edits import canvas_and_holes

    image, holes = canvas_and_holes(256, 272)
    one = holes.clone()
    one[:, 100:] = 0
    soft, batch = one * 0.5, torch.cat([holes, one])
    soft[:, 30:50, 30:60] = 1
    context = lazy.encode(image, one)[0]
    for vae_decode in ("lazy", "full"):
        yield f"own, {vae_decode} VAE", lazy.decode(context, vae_decode=vae_decode, seed=1)
    for blend in ("none", "feather", "poisson"):
        yield f"own, blend {blend}", lazy.decode(context, blend=blend, seed=2)
    yield "own, half denoised", lazy.decode(context, denoise=0.5, seed=3)
    yield "own, two holes", lazy.decode(lazy.encode(image, holes)[0], seed=4)
    yield "own, soft mask", lazy.decode(lazy.encode(image, soft)[0], seed=5)
    yield "own, batch", lazy.decode(lazy.encode(torch.cat([image, image.flip(1)]), batch)[0], seed=6)
    sketch = lazy.call("LazySketchCondition", context=context, vae=lazy.vae, sketch=image.flip(2), strength=0.5).args[0]
    yield "own, sketch", lazy.decode(sketch, seed=7)


def stock_edits(lazy: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(name, image and latent) of edits by tiny stock models."""
    import pytest

    from stock_edits import canvas_and_holes
    from stock_models import STOCK, conditioning, make_stock, vae_of

    for name in STOCK:
        try:
            model = make_stock(name)
        except pytest.skip.Exception:
            continue
        vae, (image, mask) = vae_of(name), canvas_and_holes(288, 320)
        prompts = {"positive": conditioning(name, 1), "negative": conditioning(name, 2)}
        for reuse in ("exact", "fast"):
            context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse=reuse)
            yield f"{name}, {reuse}", lazy.decode(context, model=model, vae=vae, seed=7, steps=3, cfg=4.0, **prompts)


if __name__ == "__main__":
    sys.exit(main())
