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
from urllib.parse import urlparse
from urllib.request import url2pathname

from .missing import in_words

try:
    from tqdm import tqdm

    from lazy_core.manifest.edits import Manifest, read_manifest
    from lazy_core.manifest.fields import FIT, SAYS

    from .journal import Journal
    from .plan import packs_of, tasks_of
    from .stores import Remote
except ModuleNotFoundError as error:
    raise in_words(error) from None


def main(argv: list[str] | None = None) -> int:
    about = (__doc__ or "").partition(": ")
    parser = argparse.ArgumentParser(prog="python -m batch", description=about[2].partition("\n\n")[0])
    commands = parser.add_subparsers(required=True, metavar="run")
    run = commands.add_parser("run", help="make the edits of a manifest", description=about[2])
    run.add_argument("manifest", type=Path, help=".jsonl, .csv, .parquet, or a folder of pictures with masks")
    run.add_argument(
        "--output",
        default=None,
        help="folder of the results, or an address that fsspec knows (s3://…); default: a folder beside the manifest",
    )
    run.add_argument("--dry-run", action="store_true", help="say what is wrong with the manifest, and make nothing")
    run.add_argument("--force", action="store_true", help="write over files that no run made, or that somebody changed")
    run.add_argument("--json", action="store_true", help="print one line of JSON at the end, for programs")
    run.add_argument(
        "--server",
        action="append",
        default=[],
        help="a ComfyUI that makes the edits, http://host:8188; several times for several. Default: this process",
    )
    run.add_argument("--workflow", type=Path, default=None, help="with --server: your own workflow in the API's format")
    run.add_argument("--model", type=Path, default=None, help="a LazyDiffusion checkpoint; default: the shipped one")
    run.add_argument("--device", default=None, help="in this process: where the model runs (cpu, cuda)")
    run.add_argument("--threads", type=int, default=None, help="without --server: of the CPU, for each process")
    run.add_argument(
        "--ray",
        metavar="ADDRESS",
        default=None,
        help="a Ray cluster that makes the edits; auto: the one that runs here, or one for this run",
    )
    run.add_argument("--workers", default="1", help="with --ray: how many, N or LEAST:MOST; default 1")
    run.add_argument("--cpus", type=float, default=1, help="with --ray: of each worker, default 1")
    run.add_argument("--gpus", type=float, default=0, help="with --ray: of each worker, 0.5 for two on one; default 0")
    for name in ("prompt", "negative", "seed", "steps", "cfg", "denoise", "blend"):
        run.add_argument(f"--{name}", default=None, help=f"for rows without one: {SAYS[name]}")
    args = parser.parse_args(argv)
    return run_manifest(args)


def run_manifest(args: argparse.Namespace) -> int:
    try:
        if args.workflow and not args.server:
            raise ValueError("--workflow is for servers: say --server http://HOST:8188, too")
        if args.server and args.ray:
            raise ValueError("--server and --ray: expected one of them")
        if args.device and (args.ray or args.server):
            raise ValueError("--device is for this process: with --ray say --gpus, a server has its own")
        args.manifest = args.manifest.resolve()  # workers have other folders of their own
        manifest = read_manifest(args.manifest, defaults_of(args))
    except (OSError, ValueError) as error:
        return stopped(f"{args.manifest}: {error}", args)
    for problem in manifest.problems:
        print(f"{args.manifest.name}, {problem}", file=sys.stderr)
    if manifest.problems or args.dry_run:
        told = f"{counted(len(manifest.edits), 'edit')}, {counted(len(manifest.problems), 'problem')}"
        print(json.dumps({"edits": len(manifest.edits), "problems": manifest.problems}) if args.json else told)
        return 1 if manifest.problems else 0
    return make(manifest, args)


def stopped(sentence: str, args: argparse.Namespace) -> int:
    """Say why nothing could begin -> the exit status."""
    print(json.dumps({"error": sentence}) if args.json else sentence, file=sys.stdout if args.json else sys.stderr)
    return 2


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


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
    begun, path = time.monotonic(), args.manifest.resolve()
    beside, address = path.with_name(f"{path.stem}_edits"), args.output or ""
    if address.startswith("file://"):
        address = url2pathname(urlparse(address).path)
    remote = "://" in address
    folder = beside if remote else Path(address or beside)
    sources = {
        file.resolve()
        for edit in manifest.edits
        for file in (edit.image, edit.mask, edit.sketch)
        if isinstance(file, Path)
    }
    if own := [edit.output for edit in manifest.edits if not remote and (folder / edit.output).resolve() in sources]:
        return stopped(f"{own[0]} would be written over a picture of the manifest: choose another --output", args)
    try:
        executor = executor_of(args)
        journal = Journal(folder, Remote(address), address) if remote else Journal(folder)
    except ModuleNotFoundError as error:
        raise in_words(error) from None
    except (OSError, ValueError, RuntimeError, sqlite3.Error) as error:
        return stopped(f"{folder}: {error}" if isinstance(error, sqlite3.Error) else str(error), args)
    tasks = tasks_of(manifest.edits, executor.made_by)
    states = {task.edit.output: journal.state(task.edit.output, task.key) for task in tasks}
    others = {state: [name for name, each in states.items() if each == state] for state in ("foreign", "changed")}
    if others["foreign"] and not args.force:
        journal.close()
        more = f" and {len(others['foreign']) - 1} more" * (len(others["foreign"]) > 1)
        return stopped(f"{folder / others['foreign'][0]}{more} is of no run here: --force writes over it", args)
    if others["changed"] and not args.force:
        for name in others["changed"]:
            print(f"{name} was changed since it was made, and is kept: --force makes it anew", file=sys.stderr)
    again = ("missing", "foreign", "changed") if args.force else ("missing",)
    missing = {name for name, state in states.items() if state in again}
    todo = [pack for pack in packs_of(tasks) if any(task.edit.output in missing for task in pack.tasks)]
    failed: dict[str, str] = {}
    made, interrupted, broken = 0, False, ""
    with tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="edit", disable=args.json) as bar:
        executor.warn = lambda sentence: bar.write(sentence, file=sys.stderr)
        try:
            for task, result, seconds in executor.run(todo, missing):
                try:
                    if isinstance(result, Exception):
                        raise result
                    journal.add(task.edit.output, task.key, result, seconds)
                    made += 1
                except Exception as error:
                    failed[task.edit.output] = str(error) or type(error).__name__
                bar.update()
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:  # what makes the edits came down, not one of them
            broken = str(error) or type(error).__name__
        finally:
            journal.close()
            executor.close()
    for name, sentence in failed.items():
        print(f"{name}: {sentence}", file=sys.stderr)
    if broken:
        print(f"stopped: {broken}. Run it again to go on.", file=sys.stderr)
    figures: dict[str, Any] = {"edits": len(tasks), "made": made, "kept": len(tasks) - len(missing)}
    figures |= {"failed": len(failed), "seconds": round(time.monotonic() - begun, 1), "failures": failed}
    where = args.output if remote else folder
    told = f"{made} made, {figures['kept']} were there, {len(failed)} failed, in {figures['seconds']} s: {where}"
    if interrupted:
        told = f"stopped: {told}. Run it again to go on."
    print(json.dumps(figures, ensure_ascii=False) if args.json else told)
    return 130 if interrupted else 1 if failed or broken else 0


def executor_of(args: argparse.Namespace) -> Any:
    """What makes the edits. Its imports take seconds: a dry run has none of them."""
    if args.server:
        from .servers import ServerExecutor

        return ServerExecutor(args.server, args.workflow, args.model.name if args.model else None)
    from .local import MODEL, LocalExecutor

    if args.ray:
        from .ray_data import RayExecutor, workers_of

        try:
            workers = workers_of(args.workers, args.cpus, args.gpus)
        except ValueError:
            raise ValueError(f"--workers is '{args.workers}', expected how many, or LEAST:MOST") from None
        return RayExecutor(args.ray, args.model or MODEL, workers, args.threads)
    return LocalExecutor(args.model or MODEL, args.device or "cpu", args.threads)


if __name__ == "__main__":
    raise SystemExit(main())
