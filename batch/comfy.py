"""The part of ComfyUI's HTTP API that batches need."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

Prompt = dict[str, dict[str, Any]]
GONE = (OSError, http.client.HTTPException, json.JSONDecodeError)
"""What a server that does not answer, or is going down, raises."""


class Refused(Exception):
    """ComfyUI refused or failed a prompt: another try would not help."""


class Comfy:
    """One server, by its address."""

    def __init__(self, address: str, timeout: float = 20):
        self.address = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
        self.timeout = timeout

    def request(self, path: str, data: bytes | None = None, kind: str = "application/json") -> bytes:
        """GET, or POST where there is `data` -> the body. Raises one of `GONE`."""
        request = urllib.request.Request(self.address + path, data, {"Content-Type": kind} if data is not None else {})
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return response.read()

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def upload(self, name: str, content: bytes) -> str:
        """Put a picture into the server's input folder -> the name that LoadImage takes."""
        border = uuid.uuid4().hex
        fields = {"subfolder": "lazydiffusion", "overwrite": "true"}
        body = b"".join(
            f'--{border}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
            for key, value in fields.items()
        )
        head = f'--{border}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        body += head.encode() + content + f"\r\n--{border}--\r\n".encode()
        stored = json.loads(self.request("/upload/image", body, f"multipart/form-data; boundary={border}"))
        return f"{stored['subfolder']}/{stored['name']}" if stored.get("subfolder") else stored["name"]

    def submit(self, prompt: Prompt, prompt_id: str) -> None:
        """Queue a prompt in the API's format. Raises Refused where ComfyUI does not take it."""
        body = json.dumps({"prompt": prompt, "prompt_id": prompt_id, "client_id": "lazydiffusion-batch"}).encode()
        try:
            self.request("/prompt", body)
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise
            raise Refused(f"ComfyUI refused the workflow: {refusal(error.read())}") from None

    def ended(self, prompt_id: str) -> dict[str, Any] | None:
        """A prompt's history entry, once it has ended."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def knows(self, prompt_id: str) -> bool:
        """Whether a prompt waits or runs."""
        return prompt_id in self.request("/queue").decode()

    def picture(self, entry: dict[str, Any], node: str) -> bytes:
        """The first picture that a node put out. Raises Refused for one that failed, or put out none."""
        if failed(entry):
            messages = dict(entry["status"].get("messages", []))
            said = messages.get("execution_error") or {}
            kind, text = said.get("node_type", "a node"), said.get("exception_message", "it was interrupted")
            raise Refused(f"{kind} failed: {' '.join(str(text).split())}")
        output = entry.get("outputs", {}).get(node, {})
        for file in [*output.get("images", []), *output.get("lazydiffusion_result", [])]:
            names = {key: file[key] for key in ("filename", "subfolder", "type")}
            return self.request(f"/view?{urllib.parse.urlencode(names)}")
        raise Refused(f"the workflow's node {node} put out no picture")


def failed(entry: dict[str, Any]) -> bool:
    """Whether a history entry is of a prompt that failed."""
    return entry.get("status", {}).get("status_str") == "error"


def refusal(body: bytes) -> str:
    """What ComfyUI says of a prompt that it does not take, in one line."""
    try:
        told = json.loads(body)
        nodes = [
            f"{node.get('class_type', number)}: {error.get('message', '')} {error.get('details', '')}".strip()
            for number, node in (told.get("node_errors") or {}).items()
            for error in node.get("errors", [])
        ]
        return "; ".join(nodes) or str(told["error"].get("message", told["error"]))
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:200].decode(errors="replace")
