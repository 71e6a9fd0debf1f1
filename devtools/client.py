"""A small client of ComfyUI's HTTP API."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

from .problem import Problem

Prompt = dict[str, dict[str, Any]]


class PromptError(Problem):
    """ComfyUI refused or failed a prompt; `details` is its own JSON about it."""

    def __init__(self, sentence: str, details: dict[str, Any]):
        super().__init__(sentence)
        self.details = details


class Client:
    """Talks to one server; `check_alive` raises when the server process has ended."""

    def __init__(self, address: str, check_alive: Callable[[], None] = lambda: None):
        self.address, self.check_alive = address, check_alive
        self.client_id = uuid.uuid4().hex
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({})
        )  # a proxy cannot reach this machine's loopback

    def request(
        self, path: str, data: bytes | None = None, content_type: str = "application/json", timeout: float = 60
    ) -> bytes:
        """GET, or POST when there is `data` -> the body. Raises OSError (urllib's)."""
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": content_type} if data is not None else {}
        )
        with self.opener.open(request, timeout=timeout) as response:
            return response.read()

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, path: str, body: Any) -> Any:
        answer = self.request(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def version(self) -> str:
        return self.get("/system_stats")["system"]["comfyui_version"]

    def object_info(self, node: str = "") -> dict[str, Any]:
        return self.get("/object_info" + (f"/{node}" if node else ""))

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def upload_image(self, name: str, png: bytes, folder: str = "") -> str:
        """Put a picture into the server's input folder, or a folder in it -> its name there."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type:'
            " image/png\r\n\r\n"
        )
        fields = "".join(
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}'
            for key, value in (("overwrite", "true"), ("subfolder", folder))
        )
        tail = f"{fields}\r\n--{boundary}--\r\n"
        body = head.encode() + png + tail.encode()
        return json.loads(self.request("/upload/image", body, f"multipart/form-data; boundary={boundary}"))["name"]

    def view(self, image: dict[str, str]) -> bytes:
        """The file of one entry of a SaveImage node's output."""
        return self.request("/view?" + urllib.parse.urlencode(image))

    def submit(self, prompt: Prompt) -> str:
        """Queue a prompt in API format -> its id. Raises PromptError when ComfyUI refuses it."""
        try:
            return self.post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            details = json.loads(text) if text.startswith("{") else {"error": {"message": text}}
            raise PromptError(f"ComfyUI refused the workflow: {refusal(details)}.", details) from None

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def wait(self, prompt_id: str, timeout: float = 600) -> dict[str, Any]:
        """-> the prompt's history entry, whatever became of it. Raises Problem when the server ends or time runs
        out.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.check_alive()
            if entry := self.history(prompt_id):
                return entry
            time.sleep(0.05)
        raise Problem(f"ComfyUI did not finish a workflow within {timeout:.0f} seconds.")

    def run(self, prompt: Prompt, timeout: float = 600) -> dict[str, dict[str, Any]]:
        """Queue, wait -> the `ui` outputs by node. Raises PromptError when a node fails."""
        entry = self.wait(self.submit(prompt), timeout)
        failure = failure_of(entry)
        if failure is not None:
            raise PromptError(
                f"{failure.get('node_type', 'A node')} failed: {one_line(failure.get('exception_message', '?'))}.",
                failure,
            )
        return entry["outputs"]


def failure_of(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The `execution_error` or `execution_interrupted` message of a history entry, if there is one."""
    messages = dict(entry["status"]["messages"])
    if entry["status"]["status_str"] != "error":
        return None
    return messages.get("execution_error") or messages.get("execution_interrupted") or {}


def refusal(details: dict[str, Any]) -> str:
    """What ComfyUI says of a refused prompt, with the first node's own complaint."""
    for node in (details.get("node_errors") or {}).values():
        for error in node["errors"]:
            return one_line(f"{node['class_type']}: {error['message']} ({error['details']})")
    error = details.get("error")
    return one_line(error["message"] if isinstance(error, dict) else str(error))


def one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
