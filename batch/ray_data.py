"""Packs on a Ray cluster: a pool of workers, each with the model, fed and brought back to life by Ray Data.

Rows are made once, calls at least once: a worker that dies leaves its pack to another one, and what comes twice is the
same. Packs travel as paths; what comes back is PNG.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lazy_core.checkpoint import fingerprint

from .local import LocalExecutor, made_by
from .plan import Pack, Task

ROOT = Path(__file__).parent.parent
MISSING = "--ray needs Ray Data: pip install 'ray[data]', with ComfyUI's Python"


@dataclass(frozen=True)
class Workers:
    """How many there are, at least and at most, and what each of them takes."""

    least: int = 1
    most: int = 1
    cpus: float = 1
    gpus: float = 0


class Worker:
    """One process of the pool. Ray makes it where it has room."""

    def __init__(self, model: str, identity: str, device: str, threads: int, attempts: Any):
        torch.set_num_threads(threads)
        self.attempts, self.problem = attempts, ""
        try:
            self.executor = LocalExecutor(Path(model), device)
            if self.executor.editor.identity != identity:
                self.problem = f"{model} on one of the machines is another file than here: copy it to all of them"
        except Exception as error:  # said of each edit: a worker that cannot begin would end the whole run
            self.problem = f"{error}" or type(error).__name__

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Columns of packs, one of them at a time -> columns of results."""
        found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for number, pack, missing in zip(rows["number"], rows["pack"], rows["missing"], strict=True):
            for values in self.results(int(number), pack, set(missing)):
                for name, value in zip(COLUMNS, values, strict=True):
                    found[name].append(value)
        return found

    def results(self, number: int, pack: Pack, missing: set[str]) -> Iterator[tuple[Any, ...]]:
        problem = self.problem
        if not problem and self.begun(number) > ATTEMPTS:
            problem = f"its worker died {ATTEMPTS} times: it may not fit the machine's memory"
        if problem:
            for task in pack.tasks:
                if task.edit.output in missing:
                    yield task.edit.output, b"", problem, "", 0.0
            return
        said: list[str] = []
        self.executor.warn = said.append
        for task, result, seconds in self.executor.run([pack], missing):
            failed = isinstance(result, Exception)
            problem = (f"{result}" or type(result).__name__) if failed else ""
            yield task.edit.output, b"" if failed else result, problem, "; ".join(said), seconds
            said.clear()

    def begun(self, number: int) -> int:
        """How often a pack was begun; 1 where nobody knows, as the machine that counted is gone."""
        import ray

        try:
            return ray.get(self.attempts.begin.remote(number), timeout=COUNTED)
        except ray.exceptions.RayError:
            return 1


COLUMNS = ("output", "content", "error", "warning", "seconds")
COUNTED = 20  # seconds for an answer from who counts
ATTEMPTS = 3  # for a pack: what kills its worker so often is given up, where Ray would try for ever


class Attempts:
    """Counts how often each pack was begun: it outlives the workers."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """One more -> how many."""
        self.counts[number] = self.counts.get(number, 0) + 1
        return self.counts[number]


class RayExecutor:
    """Makes packs on the cluster at `address`; "auto": the one that this machine belongs to, or one of its own. Raises
    RuntimeError where Ray is not there, ConnectionError where the cluster is not.
    """

    def __init__(self, address: str, model: Path, workers: Workers, threads: int | None = None):
        self.ray = started(address)
        self.model, self.workers, self.identity = model.resolve(), workers, fingerprint(model)
        self.threads = threads or max(round(workers.cpus), 1)
        self.warn: Callable[[str], None] = print

    @property
    def made_by(self) -> str:
        """What results depend on beside the edits: the same as in one process."""
        return made_by(self.identity)

    def run(self, packs: list[Pack], missing: set[str]) -> Iterator[tuple[Task, bytes | Exception, float]]:
        """Make packs wherever there is a worker -> the results that are missing, as they come, and their seconds."""
        if not packs:
            return
        there = self.ray.cluster_resources()
        for name, wanted in (("CPU", self.workers.cpus), ("GPU", self.workers.gpus)):
            if wanted > there.get(name, 0):
                self.warn(f"no worker fits the cluster as it is ({there.get(name, 0):g} {name}): waiting for a machine")
        tasks = {task.edit.output: task for pack in packs for task in pack.tasks if task.edit.output in missing}
        rows = [
            {"number": number, "pack": pack, "missing": [each.edit.output for each in pack.tasks]}
            for number, pack in enumerate(packs)
        ]
        for row in rows:
            row["missing"] = [name for name in row["missing"] if name in tasks]
        for row in self.results(rows):
            task = tasks.pop(row["output"], None)
            if task is None:
                continue
            if row["warning"]:
                self.warn(row["warning"])
            yield task, RuntimeError(row["error"]) if row["error"] else row["content"], row["seconds"]
        for task in tasks.values():
            yield task, RuntimeError("no worker gave an answer"), 0.0

    def results(self, rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        settings = DataContext.get_current()
        settings.enable_progress_bars = False
        pool, wanted = self.workers, {"num_gpus": self.workers.gpus} if self.workers.gpus else {}
        attempts = self.ray.remote(num_cpus=0, max_restarts=-1)(Attempts).remote()
        device = "cuda" if pool.gpus else "cpu"
        made = from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=(str(self.model), self.identity, device, self.threads, attempts),
            compute=ActorPoolStrategy(min_size=pool.least, max_size=pool.most),
            num_cpus=pool.cpus,
            batch_size=1,
            **wanted,
        )
        yield from made.iter_rows()

    def close(self) -> None:
        """Leave the cluster; one of our own ends."""
        self.ray.shutdown()


def started(address: str) -> Any:
    """Join a cluster, or begin one -> the module `ray`. Our code travels with it; the model's file does not."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RuntimeError(f"{MISSING} ({error})") from error
    ours = {"py_modules": [str(ROOT / "batch"), str(ROOT / "lazy_core")]}
    settings = {"runtime_env": ours, "log_to_driver": False, "logging_level": "warning"}
    try:
        ray.init(address=address, **settings)
    except ConnectionError:
        if address != "auto":
            raise
        ray.init(address="local", include_dashboard=False, **settings)
    return ray


def workers_of(text: str, cpus: float, gpus: float) -> Workers:
    """`N`, or `LEAST:MOST` where Ray may choose. Raises ValueError."""
    least, _, most = text.partition(":")
    found = Workers(int(least), int(most or least), cpus, gpus)
    if not 1 <= found.least <= found.most or cpus <= 0 or gpus < 0:
        raise ValueError
    return found
