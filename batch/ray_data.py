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

    def __init__(self, model: str, device: str, threads: int):
        torch.set_num_threads(threads)
        self.executor = LocalExecutor(Path(model), device)

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Columns of packs, one of them at a time -> columns of results."""
        found: dict[str, list[Any]] = {"output": [], "content": [], "error": [], "warning": [], "seconds": []}
        for pack, missing in zip(rows["pack"], rows["missing"], strict=True):
            said: list[str] = []
            self.executor.warn = said.append
            for task, result, seconds in self.executor.run([pack], set(missing)):
                failed = isinstance(result, Exception)
                found["output"].append(task.edit.output)
                found["content"].append(b"" if failed else result)
                found["error"].append(f"{result}" or type(result).__name__ if failed else "")
                found["warning"].append("; ".join(said))
                said.clear()
                found["seconds"].append(seconds)
        return found


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
        tasks = {task.edit.output: task for pack in packs for task in pack.tasks if task.edit.output in missing}
        rows = [
            {"pack": pack, "missing": [task.edit.output for task in pack.tasks if task.edit.output in missing]}
            for pack in packs
        ]
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
        arguments = str(self.model), "cuda" if pool.gpus else "cpu", self.threads
        made = from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=arguments,
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
