"""`python -m batch run MANIFEST`: makes all edits of a manifest; started again, only those that are missing.

A manifest is JSON Lines, CSV, Parquet or a folder of pictures with masks (docs/batch.md). Results go to a folder with a
journal: killed at any point and started again, exactly the missing edits are made, and finished files are checked.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .journal import Journal
from .manifest import FIT, SAYS, Manifest, read_manifest
from .plan import packs_of, tasks_of


def main(argv: list[str] | None = None) -> int:
    about = (__doc__ or "").partition(": ")
    parser = argparse.ArgumentParser(prog="python -m batch", description=about[2].partition("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="run")
    run = commands.add_parser("run", help="make the edits of a manifest", description=about[2])
    run.add_argument("manifest", type=Path, help=".jsonl, .csv, .parquet, or a folder of pictures with masks")
    run.add_argument("--output", type=Path, default=None, help="folder of the results; default: beside the manifest")
    run.add_argument("--dry-run", action="store_true", help="say what is wrong with the manifest, and make nothing")
    run.add_argument("--json", action="store_true", help="print one line of JSON at the end, for programs")
    run.add_argument(
        "--server",
        action="append",
        default=[],
        help="a ComfyUI that makes the edits, http://host:8188; several times for several. Default: this process",
    )
    run.add_argument("--workflow", type=Path, default=None, help="with --server: your own workflow in the API's format")
    run.add_argument("--model", type=Path, default=None, help="a LazyDiffusion checkpoint; default: the shipped one")
    run.add_argument("--device", default="cpu", help="without --server: where the model runs (cpu, cuda)")
    for name in ("prompt", "negative", "seed", "steps", "cfg", "denoise", "blend"):
        run.add_argument(f"--{name}", default=None, help=f"for rows without one: {SAYS[name]}")
    args = parser.parse_args(argv)
    return run_manifest(args)


def run_manifest(args: argparse.Namespace) -> int:
    try:
        manifest = read_manifest(args.manifest, defaults_of(args))
    except (OSError, ValueError) as error:
        print(f"{args.manifest}: {error}", file=sys.stderr)
        return 2
    for problem in manifest.problems:
        print(f"{args.manifest.name}, {problem}", file=sys.stderr)
    if manifest.problems or args.dry_run:
        told = f"{len(manifest.edits)} edits, {len(manifest.problems)} problems"
        print(json.dumps({"edits": len(manifest.edits), "problems": manifest.problems}) if args.json else told)
        return 1 if manifest.problems else 0
    return make(manifest, args)


def defaults_of(args: argparse.Namespace) -> dict[str, Any]:
    """What the command says for all rows. Raises ValueError."""
    given = {name: getattr(args, name) for name in ("prompt", "negative", "seed", "steps", "cfg", "denoise", "blend")}
    for name, value in given.items():
        if value is not None:
            try:
                FIT[name](value)
            except (TypeError, ValueError, KeyError) as error:
                raise ValueError(f"--{name} is {value!r}, expected {SAYS[name]}") from error
    return {name: value for name, value in given.items() if value is not None}


def make(manifest: Manifest, args: argparse.Namespace) -> int:
    """Make what is missing, tell what became of it -> the exit status."""
    begun = time.monotonic()
    path = args.manifest.resolve()
    folder = args.output or path.with_name(f"{path.stem}_edits")
    try:
        executor = executor_of(args)
        journal = Journal(folder)
    except (OSError, ValueError, RuntimeError, sqlite3.Error) as error:
        print(error, file=sys.stderr)
        return 2
    tasks = tasks_of(manifest.edits, executor.made_by)
    missing = {task.edit.output for task in tasks if not journal.has(task.edit.output, task.key)}
    todo = [pack for pack in packs_of(tasks) if any(task.edit.output in missing for task in pack.tasks)]
    failed: list[str] = []
    try:
        with tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="edit", disable=args.json) as bar:
            for task, result, seconds in executor.run(todo, missing):
                try:
                    if isinstance(result, Exception):
                        raise result
                    journal.add(task.edit.output, task.key, result, seconds)
                except Exception as error:
                    failed.append(f"{task.edit.output}: {str(error) or type(error).__name__}")
                bar.update()
    finally:
        journal.close()
    for sentence in failed:
        print(sentence, file=sys.stderr)
    made = len(missing) - len(failed)
    figures: dict[str, float] = {"edits": len(tasks), "made": made, "kept": len(tasks) - len(missing)}
    figures |= {"failed": len(failed), "seconds": round(time.monotonic() - begun, 1)}
    told = f"{made} made, {figures['kept']} were there, {len(failed)} failed, in {figures['seconds']} s: {folder}"
    print(json.dumps(figures) if args.json else told)
    return 1 if failed else 0


def executor_of(args: argparse.Namespace) -> Any:
    """What makes the edits. Its imports take seconds: a dry run has none of them."""
    if args.server:
        from .servers import ServerExecutor

        return ServerExecutor(args.server, args.workflow, args.model.name if args.model else None)
    from .local import MODEL, LocalExecutor

    return LocalExecutor(args.model or MODEL, args.device)


if __name__ == "__main__":
    raise SystemExit(main())
