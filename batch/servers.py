"""Edits on ComfyUI servers, two in flight on each: what one cannot make another one makes."""

from __future__ import annotations

import hashlib
import io
import math
import queue
import threading
import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from lazy_core.manifest.pictures import Canvas, opened, pixels, png_of, read_canvas

from .comfy import GONE, Comfy, Refused, failed
from .plan import Pack, Task
from .workflows import HOLE, PICTURE, SKETCH, filled, load_workflow, own_workflow

IN_FLIGHT = 2  # of each server: it never waits for the next edit, and little is lost with it
PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds before a server that does not answer is asked again; then it is given up
POLL, LOOK = 0.1, 1  # seconds between questions for a result, and whether the server still knows of it
MODEL = "fluent-small.safetensors"
Result = tuple[Task, bytes | Exception, float]


class Gone(Exception):
    """A server does not answer any more."""


class ServerExecutor:
    """Makes edits on the servers at `addresses`, by our own workflow or the user's. Raises ValueError for a file of
    another kind.
    """

    def __init__(self, addresses: list[str], workflow: Path | None = None, model: str | None = None):
        self.servers = [Comfy(address) for address in addresses]
        self.own = workflow is None
        self.workflow = own_workflow(model or MODEL) if workflow is None else load_workflow(workflow)
        self.pauses, self.gone = PAUSES, set[str]()
        self.uploaded: dict[str, dict[str, str]] = {server.address: {} for server in self.servers}
        self.warn: Callable[[str], None] = print
        reached = [self.reached(server) for server in self.servers]
        if not any(reached):
            raise ConnectionError("; ".join(sorted(self.gone)))

    def reached(self, server: Comfy) -> bool:
        """Whether a server is there; why not is kept."""
        problem = silence(server)
        if problem is not None:
            self.gone.add(problem)
        return problem is None

    @property
    def made_by(self) -> str:
        """What results depend on beside the edits."""
        return f"lazydiffusion server {self.workflow}"

    def run(self, packs: list[Pack], missing: set[str]) -> Iterator[Result]:
        """Make what is missing, on all servers -> results as they come, and how many seconds each took."""
        tasks: queue.Queue[Task] = queue.Queue()
        results: queue.Queue[Result | None] = queue.Queue()
        waiting = [task for pack in packs for task in pack.tasks if task.edit.output in missing]
        for task in waiting:
            tasks.put(task)
        workers = [
            threading.Thread(target=self.work, args=(server, tasks, results), daemon=True)
            for server in self.servers
            for _ in range(IN_FLIGHT)
        ]
        for worker in workers:
            worker.start()
        left = {task.edit.output: task for task in waiting}
        stopped = 0
        while left and stopped < len(workers):
            result = results.get()
            if result is None:
                stopped += 1
                continue
            left.pop(result[0].edit.output)
            yield result
        for task in left.values():
            yield task, ConnectionError(f"no server is left that answers ({'; '.join(sorted(self.gone))})"), 0.0

    def close(self) -> None:
        """Nothing stays open."""

    def work(self, server: Comfy, tasks: queue.Queue[Task], results: queue.Queue[Result | None]) -> None:
        """Make task after task on a server, until it is given up."""
        while True:
            task = tasks.get()
            begin = time.monotonic()
            try:
                content: bytes | Exception = self.make(server, task)
            except Gone as error:
                self.gone.add(str(error))
                tasks.put(task)  # another one's
                results.put(None)
                return
            except Exception as error:  # whatever it is, it is this edit's, and the run goes on
                content = error
            results.put((task, content, time.monotonic() - begin))

    def make(self, server: Comfy, task: Task) -> bytes:
        """The PNG of an edit. Raises Refused, Gone, or what reading its pictures raises."""
        canvas = read_canvas(task.edit)
        if canvas.warning is not None:
            self.warn(f"{task.edit.output}: {canvas.warning}")
        for pause in (*self.pauses, None):
            try:
                return self.tried(server, task, canvas)
            except urllib.error.HTTPError as error:
                if error.code < 500 or (pause is None and silence(server) is None):
                    raise Refused(f"{server.address} answered {error.code} {error.reason}") from error
                problem: Exception = error
            except GONE as error:
                problem = error
            self.uploaded[server.address].clear()  # it may come back without what it had
            if pause is not None:
                time.sleep(pause)
        raise Gone(f"{server.address} does not answer: {problem}")

    def tried(self, server: Comfy, task: Task, canvas: Canvas) -> bytes:
        """One try. An edit has one prompt id for ever: what the server has made of it already is not made again."""
        prompt_id = str(uuid.uuid5(uuid.NAMESPACE_OID, task.key))
        if (entry := server.ended(prompt_id)) is not None and failed(entry):
            prompt_id = str(uuid.uuid4())  # of an earlier run, and what was wrong then may be mended
        _, shown = filled(self.workflow, task.edit, dict.fromkeys((PICTURE, HOLE, SKETCH), ""), self.own)
        looked, submitted = -math.inf, False
        while (entry := server.ended(prompt_id)) is None:
            if time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                if not server.knows(prompt_id) and server.ended(prompt_id) is None:  # new, or lost with a restart
                    files = self.upload(server, task, canvas, again=submitted)
                    server.submit(filled(self.workflow, task.edit, files, self.own)[0], prompt_id)
                    submitted = True
            time.sleep(POLL)
        content = server.picture(entry, shown)
        with Image.open(io.BytesIO(content)) as picture:
            result = pixels(picture.convert("RGB"))
        # The user's workflow may have made another size of it.
        return png_of(result, canvas, task.edit) if result.shape == canvas.image.shape else content

    def upload(self, server: Comfy, task: Task, canvas: Canvas, again: bool) -> dict[str, str]:
        """Put an edit's pictures into the server's input folder, by names made of their content -> those names. What
        this run put there is not sent again, unless the server lost what it was asked (`again`).
        """
        files = {PICTURE: png(task.edit.image)}
        mask = (canvas.mask * 255).round().byte().numpy()
        buffer = io.BytesIO()
        Image.fromarray(mask).convert("RGB").save(buffer, "PNG", compress_level=1)
        files[HOLE] = buffer.getvalue()
        if task.edit.sketch is not None:
            files[SKETCH] = png(task.edit.sketch)
        names, known = {}, self.uploaded[server.address]
        for name, content in files.items():
            digest = hashlib.sha256(content).hexdigest()[:32]
            stored = None if again else known.get(digest)
            names[name] = known[digest] = stored or server.upload(f"{digest}.png", content)
        return names


def silence(server: Comfy) -> str | None:
    """Why a server does not answer as ComfyUI does; None: it does, and an error is the edit's, not the server's end."""
    try:
        server.get("/queue")
    except urllib.error.HTTPError as error:
        return f"{server.address} is no ComfyUI: it answered {error.code} {error.reason}"
    except (*GONE, ValueError) as error:
        return f"{server.address} does not answer: {getattr(error, 'reason', None) or error}"
    return None


def png(path: Path) -> bytes:
    """A picture as PNG without transparency, of which LoadImage would make a mask."""
    buffer = io.BytesIO()
    opened(path).convert("RGB").save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
