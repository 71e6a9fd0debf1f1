"""Lazy Canvas in the real page, used as a person would: painted on with the mouse, typed into, clicked."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from webpage import WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Locator

ROOT = Path(__file__).resolve().parents[2]
Points = list[tuple[float, float]]
# The page moves a node that is clicked to the end of its list: canvases are counted by their nodes' ids.
ROOT_GRAPH = "(window.app?.rootGraph ?? window.app?.graph?.rootGraph ?? window.app?.graph)"
GRAPHS = f"[{ROOT_GRAPH}, ...({ROOT_GRAPH}?.subgraphs?.values() ?? [])]"
NODE = f"{GRAPHS}.flatMap(graph => graph?.findNodesByType('LazyCanvas') ?? []).sort((a, b) => a.id - b.id)[index]"
WAIT_MS = 120_000
# For the fixture `canvas`: a test in both renderers.
BOTH = pytest.mark.parametrize("canvas", [False, True], ids=["classic", "nodes_2"], indirect=True)
SQUARE = [(0.3, 0.3), (0.6, 0.3), (0.6, 0.6), (0.3, 0.6), (0.3, 0.45), (0.6, 0.45)]


def png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def quick_graph(width: int = 256, height: int = 256, canvases: int = 1) -> dict[str, Any]:
    """A workflow whose edit costs nothing: the canvas, inverted inside the mask."""
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for index in range(canvases):
        canvas, invert, result = (3 * index + offset for offset in (1, 2, 3))
        a, b, c = (len(links) + offset for offset in (1, 2, 3))
        links += [
            [a, canvas, 0, invert, 0, "IMAGE"],
            [b, invert, 0, result, 0, "IMAGE"],
            [c, canvas, 3, result, 1, "LAZY_EDIT"],
        ]
        outputs = [
            ("IMAGE", "IMAGE", [a]),
            ("MASK", "MASK", None),
            ("SKETCH", "IMAGE", None),
            ("EDIT", "LAZY_EDIT", [c]),
        ]
        taken = [("image", "IMAGE", b), ("edit", "LAZY_EDIT", c)]
        left = 900 * index
        nodes += [
            node(
                canvas, "LazyCanvas", (left, 0), (560, 720), [("image", "IMAGE", None), ("mask", "MASK", None)], outputs
            ),
            node(invert, "ImageInvert", (left + 600, 0), (200, 60), [("image", "IMAGE", a)], [("IMAGE", "IMAGE", [b])]),
            node(result, "LazyResult", (left + 600, 120), (200, 80), taken, [("IMAGE", "IMAGE", None)]),
        ]
        nodes[-3]["widgets_values"] = ["", "", "", width, height, "#305080"]
    last = {"last_node_id": len(nodes), "last_link_id": len(links)}
    view = {"ds": {"scale": 0.9, "offset": [120, 130]}}
    return {**last, "nodes": nodes, "links": links, "groups": [], "extra": view, "version": 0.4}


def node(
    number: int, kind: str, place: tuple[int, int], size: tuple[int, int], inputs: list[Any], outputs: list[Any]
) -> dict[str, Any]:
    """A node as the page saves it; inputs are (name, type, link), outputs (name, type, links)."""
    return {
        **{
            "id": number,
            "type": kind,
            "pos": list(place),
            "size": list(size),
            "flags": {},
            "order": number,
            "mode": 0,
            "properties": {},
        },
        "inputs": [{"name": name, "type": of, "link": link} for name, of, link in inputs],
        "outputs": [{"name": name, "type": of, "links": links} for name, of, links in outputs],
    }


def carried(page: Any, content: bytes, name: str, kind: str) -> Any:
    """A file as it is dragged over the page."""
    return page.evaluate_handle(
        """([text, name, type]) => { const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, {type}));
            return data; }""",
        [base64.b64encode(content).decode(), name, kind],
    )


@dataclass
class CanvasPage:
    """One canvas of the page: that of the workflow's `index`-th Lazy Canvas."""

    web: WebPage
    index: int = 0
    clicks: int = field(default=0)

    @property
    def page(self) -> Any:
        return self.web.page

    @property
    def root(self) -> Locator:
        return self.page.locator(f".lazy-root[data-canvas='{self.state()['id']}']")

    def part(self, name: str) -> Locator:
        return self.root.get_by_test_id(f"lazy-{name}")

    def load(self, graph: dict[str, Any], name: str | None = None) -> None:
        """Open a workflow in a tab of this name. (A template opened twice gets another name, which `open_template` does
        not expect.)
        """
        self.page.evaluate(
            "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name); }", [graph, name]
        )
        self.ready()

    def ready(self) -> None:
        self.page.wait_for_function(f"index => {NODE}?.properties.lazydiffusion?.id", arg=self.index)
        self.root.wait_for()
        self.page.wait_for_timeout(600)  # the page settles, and Nodes 2.0 mounts its elements

    def stage(self) -> tuple[float, float, float, float]:
        stage = self.root.locator(".lazy-stage")
        left, top, width, height = stage.evaluate(
            "e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }"
        )
        return left, top, width, height

    def stroke(self, points: Points, button: Any = "left") -> None:
        """Drag over points of the picture, 0..1 on both sides. Counts as one click."""
        left, top, width, height = self.stage()
        places = [(left + x * width, top + y * height) for x, y in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*place, steps=8)
        self.page.mouse.up(button=button)
        self.clicks += 1

    def click(self, name: str, index: int = 0) -> None:
        self.part(name).nth(index).click()
        self.clicks += 1

    def type(self, text: str) -> None:
        """Click into the prompt and type one sentence."""
        self.click("prompt")
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)

    def drop(self, content: bytes, name: str, kind: str = "image/png") -> None:
        self.part("frame").dispatch_event("drop", {"dataTransfer": carried(self.page, content, name, kind)})

    def widget(self, name: str) -> Any:
        return self.page.evaluate(
            f"([index, name]) => {NODE}.widgets.find(w => w.name === name).value", [self.index, name]
        )

    def wait_saved(self, name: str = "mask_file", other_than: str = "") -> str:
        """-> the file's name, once it is another one; none (an upload on its way) is not."""
        saved = f"([index, name, old]) => !['', old].includes({NODE}.widgets.find(w => w.name === name).value)"
        self.page.wait_for_function(saved, arg=[self.index, name, other_than], timeout=WAIT_MS)
        return self.widget(name)

    def wait_results(self, count: int = 1) -> None:
        self.part("result").nth(count - 1).wait_for(timeout=120_000 * (count + 1))

    def wait_no_results(self) -> None:
        """The page shows what changed in its next frame, not in the click."""
        self.part("result").first.wait_for(state="detached")

    def layer(self, name: str) -> np.ndarray:
        """Pixels [H, W, 4] of the layer base, mask or sketch."""
        url = self.root.locator(f".lazy-{name}").evaluate("e => e.toDataURL('image/png')")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))

    def stored(self, name: str) -> np.ndarray:
        """Pixels [H, W, 3] of a file "folder/name.png [input]" on the server."""
        return np.asarray(Image.open(io.BytesIO(self.stored_bytes(name))).convert("RGB"))

    def stored_bytes(self, name: str) -> bytes:
        path, kind = name.removesuffix("]").split(" [")
        folder, file = path.rsplit("/", 1)
        return self.page.request.get(
            f"{self.page.url.split('#')[0]}api/view?filename={file}&subfolder={folder}&type={kind}"
        ).body()

    def download(self, name: str) -> bytes:
        """What a button saves."""
        with self.page.expect_download() as download:
            self.part(name).click()
        return Path(download.value.path()).read_bytes()

    def wait_message(self, words: str) -> None:
        """Until these words are said: what is under way ("Opening…") is said before them."""
        self.part("message").filter(has_text=words).wait_for()

    def message_text(self) -> str:
        """What is said now, perhaps nothing."""
        return self.part("message").inner_text() if self.part("message").is_visible() else ""

    def generate(self) -> dict[str, Any]:
        """Press Ctrl+Enter -> what the page sends to be queued."""
        with self.page.expect_request("**/prompt") as asked:
            self.page.keyboard.press("Control+Enter")
        return dict(asked.value.post_data_json or {})

    def prompt(self) -> dict[str, Any]:
        return self.web.prompt()

    def state(self) -> dict[str, Any]:
        """What the workflow keeps of the canvas."""
        return json.loads(self.page.evaluate(f"index => JSON.stringify({NODE}.properties.lazydiffusion)", self.index))
