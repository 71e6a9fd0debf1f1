"""Re-edits of the shipped model through a running ComfyUI, from the request to the saved picture: everything that a
user waits for.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import websocket

from devtools.client import Client, Prompt
from devtools.demo import figures_of, load_workflow, on_all_tokens, only, with_seed
from devtools.host import find_host
from devtools.places import output
from devtools.server import throwaway
from lazy_core.checkpoint import load_model, save_checkpoint
from lazy_core.model import LazyDiffusion

from .timing import Timed

PROMPTS = ("panda", "pizza", "rocket", "crown", "red apple", "cactus", "penguin", "robot")


PLAIN = "plain.safetensors"
CANVAS = 256  # px a side in the workflow that is measured
STEPS = 20  # as everywhere in these figures; the workflow itself takes fewer


def warm_edits(rounds: dict[int, int]) -> dict[int, tuple[dict[str, Timed], float, int]]:
    """`rounds` to measure by canvas side in px -> times of an edit in the hole and on all tokens, the hole's share of
    the canvas, steps.

    New prompt and seed each time; canvas, mask and brush grow together.
    """
    with throwaway(find_host(Path(sys.executable)), "bench", output("bench") / "server.log") as server:
        save_plain(server.base / "models" / "lazydiffusion" / PLAIN)
        return {size: measured(server.client, count, size // CANVAS) for size, count in rounds.items()}


def measured(client: Client, rounds: int, scale: int) -> tuple[dict[str, Timed], float, int]:
    lazy = enlarged(load_workflow("1_first_edit"), scale)
    lazy[only(lazy, "LazyDecode")]["inputs"]["steps"] = STEPS
    prompts = {"lazy": lazy, "image": on_all_tokens(lazy)}
    prompts["image"][only(lazy, "LazyModelLoader")]["inputs"]["model_name"] = PLAIN
    times: dict[str, list[float]] = {name: [] for name in prompts}
    share, steps, listener = 0.0, 0, Listener(client)
    for index in range(rounds + 1):  # the first of each is the warm-up: it loads the model and encodes the canvas
        for name, prompt in prompts.items():
            changed = with_prompt(with_seed(prompt, index), PROMPTS[index % len(PROMPTS)])
            elapsed, outputs = listener.run(changed)
            if index:
                times[name].append(elapsed)
            told = figures_of(changed, outputs)
            if name == "lazy":
                share, steps = told["hole_fraction"], told["steps"]
    return {name: Timed(tuple(runs), None) for name, runs in times.items()}, share, steps


def save_plain(path: Path) -> None:
    """Write the shipped model without its matte: it sees a hole of any size as large as it is."""
    model, checkpoint = load_model(Path(__file__).parent.parent / "models" / "fluent-small.safetensors")
    plain = LazyDiffusion(replace(model.config, matte=0))
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if ".matte." not in key})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, plain, checkpoint.tokenizer)


LENGTHS = ("width", "height", "x", "y", "pixels")


def enlarged(prompt: Prompt, scale: int) -> Prompt:
    """The workflow with every length in pixels times `scale`."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        node["inputs"] |= {
            name: scale * value for name, value in node["inputs"].items() if name in LENGTHS and isinstance(value, int)
        }
    return changed


def with_prompt(prompt: Prompt, text: str) -> Prompt:
    """The workflow with another positive prompt; `with_seed` copied it already."""
    positive = prompt[only(prompt, "LazyDecode")]["inputs"]["positive"][0]
    prompt[positive]["inputs"]["text"] = text
    return prompt


class Listener:
    """Waits for edits as the page does, on the server's web socket: asking again and again would slow down what is
    measured.
    """

    def __init__(self, client: Client):
        self.client = client
        address = client.address.replace("http", "ws", 1)
        self.socket = websocket.create_connection(f"{address}/ws?clientId={client.client_id}", timeout=600)

    def run(self, prompt: Prompt) -> tuple[float, dict]:
        """-> milliseconds from the request to the last node's end, the outputs. Raises RuntimeError when the edit
        failed.
        """
        begin = time.perf_counter()
        prompt_id = self.client.submit(prompt)
        while True:
            message = self.socket.recv()
            told: dict[str, Any] = json.loads(message) if isinstance(message, str) else {}  # bytes: a preview
            if told.get("data", {}).get("prompt_id") != prompt_id:
                continue
            if told["type"] in ("execution_error", "execution_interrupted"):
                raise RuntimeError(f"an edit failed: {told['data']}")
            if told["type"] == "execution_success":
                break
        elapsed = 1000 * (time.perf_counter() - begin)
        return elapsed, self.client.wait(prompt_id)["outputs"]
