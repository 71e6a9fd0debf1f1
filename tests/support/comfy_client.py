"""A client of a running ComfyUI for tests: HTTP as dev.py does it, and the websocket's events as the web page sees
them.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import websocket
from PIL import Image

from devtools.client import Client, Prompt, PromptError, failure_of
from devtools.server import Server

__all__ = ["ComfyClient", "Prompt", "PromptError", "Result"]

LAST_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Result:
    """What became of one prompt. `outputs` are the nodes' ui outputs by node id; `error` is None after success."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]
    error: dict[str, Any] | None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list, repr=False)
    previews: list[bytes] = field(default_factory=list, repr=False)

    @property
    def executed(self) -> list[str]:
        """Ids of the nodes that ran, in order; cached ones are not among them."""
        cached = {node for name, data in self.events if name == "execution_cached" for node in data["nodes"]}
        nodes = [data["node"] for name, data in self.events if name == "executing" and data["node"]]
        return [node for node in nodes if node not in cached]


class ComfyClient(Client):
    """`client.queue(prompt)` queues an API-format prompt and waits. A prompt that ComfyUI refuses raises
    PromptError.
    """

    def __init__(self, server: Server):
        super().__init__(server.client.address, server.check_alive)
        self.server = server

    @property
    def log(self) -> str:
        """All that the server has printed."""
        return self.server.log()

    def queue(
        self, prompt: Prompt, timeout: float = 300, on_event: Callable[[str, dict[str, Any]], None] | None = None
    ) -> Result:
        """-> the Result, also of a prompt that failed or was interrupted. `on_event(name, data)` sees each event as it
        comes.
        """
        socket = websocket.create_connection(
            f"{self.address.replace('http', 'ws', 1)}/ws?clientId={self.client_id}", timeout=timeout
        )
        try:
            prompt_id = self.submit(prompt)
            events, previews = listen(socket, prompt_id, time.monotonic() + timeout, on_event)
        finally:
            socket.close()
        entry = self.wait(prompt_id)
        return Result(prompt_id, entry["outputs"], failure_of(entry), events, previews)

    def images(self, result: Result, node: str) -> list[np.ndarray]:
        """The pictures that a SaveImage or PreviewImage node wrote: each [H, W, 3] uint8."""
        files = [self.view(image) for image in result.outputs[node]["images"]]
        return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]

    def upload_array(self, name: str, pixels: np.ndarray) -> str:
        """[H, W, 3] or [H, W] uint8 -> the name that LoadImage or LoadImageMask takes."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return self.upload_image(name, buffer.getvalue())


def listen(
    socket: websocket.WebSocket, prompt_id: str, deadline: float, on_event: Callable[[str, dict[str, Any]], None] | None
) -> tuple[list[tuple[str, dict[str, Any]]], list[bytes]]:
    """Collect one prompt's events and preview pictures until its end. Raises TimeoutError."""
    events: list[tuple[str, dict[str, Any]]] = []
    previews: list[bytes] = []
    while time.monotonic() < deadline:
        message = socket.recv()
        if isinstance(message, bytes):
            previews.append(message[8:])  # 4 bytes of event type, 4 of picture format
            continue
        event = json.loads(message)
        name, data = event["type"], event["data"] or {}
        if data.get("prompt_id") != prompt_id:
            continue
        events.append((name, data))
        if on_event:
            on_event(name, data)
        if name in LAST_EVENTS:
            return events, previews
    raise TimeoutError(
        f"ComfyUI did not finish prompt {prompt_id} in time; its last events: {[name for name, _ in events[-5:]]}"
    )
