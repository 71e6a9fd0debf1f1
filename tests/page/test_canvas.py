"""Lazy Canvas in ComfyUI's own page: five edits in a row, and the ways in which a canvas in a page loses what was
painted.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from canvas_page import BOTH, SQUARE, CanvasPage, carried, node, png, quick_graph
from comfy_client import ComfyClient
from devtools import frontend
from devtools.server import Server
from templates import graph_of
from webpage import TEMPLATES_DIALOG, WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.browser

DATA = Path(__file__).resolve().parents[1] / "data"
MOST_CLICKS = 4


@pytest.fixture(scope="module")
def noise_without_the_pack(browser: Browser, start_quiet_server: ComfyClient) -> set[str]:
    """Errors and failed requests of the page itself, while it opens a workflow, runs it and is loaded anew."""
    with WebPage.open(browser, start_quiet_server) as page:
        for node in ("EmptyImage", "PreviewImage"):
            page.evaluate(
                "type => { app.graph.add(LiteGraph.createNode(type)); app.canvas.selectNode(app.graph.nodes.at(-1)); }",
                node,
            )
        page.page.locator(".templates-tab-button").click()
        page.page.locator(f"{TEMPLATES_DIALOG} [data-testid^=template-workflow-]").first.wait_for()
        page.page.wait_for_timeout(1500)
        page.page.reload()
        page.page.wait_for_function("window.app?.extensionManager && app.graph?.nodes.length > 0")
        page.evaluate("() => { app.canvas.selectNode(app.graph.nodes.at(-1)); }")
        page.page.wait_for_timeout(1500)
        return page.kinds_of_noise()


@pytest.fixture(scope="module")
def start_quiet_server(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyClient]:
    """A ComfyUI without any pack."""
    folder = tmp_path_factory.mktemp("comfyui")
    flags = ["--disable-all-custom-nodes", *frontend.flags()]
    with Server(host, folder, folder / "server.log", flags, python=Path(sys.executable)) as running:
        yield ComfyClient(running)


def photograph(side: int = 256) -> bytes:
    buffer = io.BytesIO()
    Image.open(DATA / "coffee.jpg").resize((side, side)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_five_edits_in_a_row_as_a_new_user_makes_them(
    web: WebPage, canvas: CanvasPage, browser: Browser, server: ComfyClient, noise_without_the_pack: set[str]
) -> None:
    """At most four clicks and a sentence for each; outside the mask the accepted one is the canvas; a reload loses
    nothing.
    """
    places = [(0.25, 0.3), (0.7, 0.3), (0.3, 0.7), (0.7, 0.7), (0.5, 0.5)]
    web.open_template("8_lazy_canvas")
    canvas.ready()
    canvas.drop(photograph(), "coffee.jpg", "image/jpeg")
    before_file = canvas.wait_saved("canvas_file")
    clicks = []
    for (x, y), prompt in zip(places, ("red apple", "strawberry", "sunflower", "pizza", "panda"), strict=True):
        canvas.clicks = 0
        canvas.stroke([(x - 0.08, y - 0.05), (x + 0.08, y - 0.05), (x - 0.08, y + 0.05), (x + 0.08, y + 0.05)])
        mask_file = canvas.wait_saved()
        canvas.type(prompt)
        canvas.click("generate")
        canvas.wait_results()
        assert int(canvas.root.locator(".lazy-stage").get_attribute("data-previews") or 0) > 0
        before, hole = canvas.stored(before_file), canvas.stored(mask_file)[..., 0] > 0
        [result] = canvas.state()["results"]
        made = canvas.stored_bytes(f"{result['subfolder']}/{result['filename']} [temp]")
        canvas.click("result")
        after_file = canvas.wait_saved("canvas_file", before_file)
        after = canvas.stored(after_file)
        assert canvas.stored_bytes(after_file) == made
        assert np.array_equal(before[~hole], after[~hole])
        assert (before[hole] != after[hole]).any(-1).mean() > 0.5
        assert np.array_equal(canvas.layer("base")[..., :3], after)
        assert not canvas.layer("mask").any()
        assert canvas.widget("mask_file") == ""
        clicks.append(canvas.clicks)
        before_file = after_file
    print(f"clicks per edit: {clicks}, and one sentence each")
    assert max(clicks) <= MOST_CLICKS
    state = canvas.state()
    assert [edit["prompt"] for edit in state["edits"][2:]] == ["red apple", "strawberry", "sunflower", "pizza", "panda"]
    web.page.wait_for_timeout(1500)  # the page stores its draft
    web.page.reload()
    canvas.ready()
    canvas.page.wait_for_function(
        "file => window.app?.graph?.findNodesByType('LazyCanvas')[0]?.widgets[0].value === file", arg=before_file
    )
    canvas.page.wait_for_timeout(1000)
    assert np.array_equal(canvas.layer("base")[..., :3], after)
    assert canvas.state()["edits"] == state["edits"]
    saved = canvas.download("png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(saved)).convert("RGB")), after)
    assert canvas.download("webp")[:4] == b"RIFF"
    with WebPage.open(browser, server) as fresh:
        fresh.page.dispatch_event(
            "#graph-canvas", "drop", {"dataTransfer": carried(fresh.page, saved, "canvas_5.png", "image/png")}
        )
        opened = CanvasPage(fresh)
        opened.ready()
        fresh.page.wait_for_timeout(1000)
        assert opened.prompt() == canvas.prompt()
        assert np.array_equal(opened.layer("base")[..., :3], after)
    new = web.kinds_of_noise() - noise_without_the_pack
    assert new == set(), "errors and failed requests that the page lacks without the pack"


def test_the_encoder_runs_once_for_ten_seeds_on_one_mask(web: WebPage, canvas: CanvasPage) -> None:
    canvas.load(graph_of("8_lazy_canvas"))
    canvas.stroke(SQUARE[:2])
    canvas.wait_saved()
    encode = web.evaluate(
        """() => { window.ran = []; app.api.addEventListener("executing", event => window.ran.push(String(event.detail)));
            return String(app.graph.findNodesByType("LazyEncodeContext")[0].id); }"""
    )
    for seeds, sum_of_results in ((8, 8), (2, 10)):
        canvas.part("seeds").fill(str(seeds))
        canvas.click("generate")
        canvas.wait_results(sum_of_results)
    results = canvas.state()["results"]
    assert len({result["seed"] for result in results}) == len({result["filename"] for result in results}) == 10
    ran = web.evaluate("window.ran")
    decode = web.evaluate("String(app.graph.findNodesByType('LazyDecode')[0].id)")
    print(f"Encode Context ran {ran.count(encode)} time, Lazy Decode {ran.count(decode)} times")
    assert ran.count(encode) == 1
    assert ran.count(decode) == 10


@BOTH
def test_painting_is_undone_by_its_own_undo_and_survives_the_pages(web: WebPage, canvas: CanvasPage) -> None:
    canvas.stroke([(0.2, 0.2), (0.5, 0.2)])
    first = canvas.wait_saved()
    one = canvas.layer("mask")
    canvas.stroke([(0.2, 0.7), (1.3, 0.7), (0.5, 0.9)])  # leaves the canvas and comes back
    second = canvas.wait_saved(other_than=first)
    two = canvas.layer("mask")
    assert two[-1, -1, 3] == 0 and two[int(0.7 * 256), -1, 3] == 255 and two[int(0.9 * 256), 128, 3] == 255
    nodes = web.evaluate("app.graph.nodes.length")
    web.page.keyboard.press("Control+z")
    assert canvas.wait_saved(other_than=second) == first
    assert np.array_equal(canvas.layer("mask"), one)
    web.page.keyboard.press("Control+Shift+z")
    assert canvas.wait_saved(other_than=first) == second
    assert np.array_equal(canvas.layer("mask"), two)
    assert web.evaluate("app.graph.nodes.length") == nodes
    # The page's own undo makes every node anew: what is on the page is the canvas, painted and usable.
    tracker = "app.extensionManager.workflow.activeWorkflow.changeTracker"
    web.evaluate(f"() => {{ app.graph.add(LiteGraph.createNode('EmptyImage')); {tracker}.checkState(); }}")
    web.evaluate(f"async () => {{ await {tracker}.undo(); }}")
    web.page.wait_for_timeout(1000)
    assert web.evaluate("app.graph.nodes.length") == nodes
    assert canvas.widget("mask_file") == second
    assert web.page.locator(".lazy-root").count() == 1
    assert np.array_equal(canvas.layer("mask"), two)
    canvas.stroke([(0.5, 0.4), (0.6, 0.4)])
    third = canvas.wait_saved(other_than=second)
    assert canvas.layer("mask")[int(0.4 * 256), 140, 3] == 255
    assert (canvas.stored(third)[..., 0] > 127).sum() == (canvas.layer("mask")[..., 3] > 127).sum()


def test_generate_right_after_a_stroke_queues_what_is_seen(web: WebPage, canvas: CanvasPage) -> None:
    canvas.stroke(SQUARE)
    asked = canvas.generate()
    assert set(asked["prompt"]) == {"1", "2", "3"}
    mask = asked["prompt"]["1"]["inputs"]["mask_file"]
    [saved] = [
        node for node in asked["extra_data"]["extra_pnginfo"]["workflow"]["nodes"] if node["type"] == "LazyCanvas"
    ]
    assert mask == saved["widgets_values"][1] != ""
    assert np.array_equal(canvas.stored(mask)[..., 0] > 127, canvas.layer("mask")[..., 3] > 127)
    canvas.wait_results()
    canvas.click("reject")
    canvas.wait_no_results()
    assert canvas.layer("mask").any()
    canvas.page.keyboard.press("Control+Enter")
    canvas.wait_results()


def test_results_find_their_canvas_and_a_copy_is_a_canvas_of_its_own(web: WebPage, canvas: CanvasPage) -> None:
    left, right = CanvasPage(web, 0), CanvasPage(web, 1)
    left.load(quick_graph(canvases=2))
    web.evaluate(
        "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [150, 200]; app.canvas.setDirty(true, true); }"
    )
    web.page.wait_for_timeout(500)
    for canvas in (left, right):
        canvas.stroke(SQUARE if canvas is left else SQUARE[:2])
        canvas.wait_saved()
        canvas.page.keyboard.press("Control+Enter")
    for canvas in (left, right):
        canvas.wait_results()
        assert canvas.part("result").count() == 1
    assert left.state()["id"] != right.state()["id"]
    changed = []
    for canvas in (left, right):
        mask = canvas.stored(canvas.widget("mask_file"))[..., 0] > 0
        canvas.click("result")
        after = canvas.stored(canvas.wait_saved("canvas_file"))
        assert ((after != (0x30, 0x50, 0x80)).any(-1) <= mask).all()
        changed.append(int((after != (0x30, 0x50, 0x80)).any(-1).sum()))
    assert changed[0] > changed[1] > 0
    web.evaluate("""() => { const node = app.graph.findNodesByType('LazyCanvas')[0];
            app.canvas.selectNode(node); app.canvas.copyToClipboard([node]); app.canvas.pasteFromClipboard(); }""")
    web.page.wait_for_timeout(1200)
    copy = CanvasPage(web, 2)
    assert copy.state()["id"] not in (left.state()["id"], right.state()["id"])
    assert copy.widget("canvas_file") == left.widget("canvas_file")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "could not store"),
        (413, "more than the server accepts"),
        (507, "disk may be full"),
        (0, "does not answer"),
    ],
)
def test_what_cannot_be_stored_is_said_kept_and_stored_later(
    status: int, words: str, web: WebPage, canvas: CanvasPage
) -> None:
    working = False

    def answer(route: Route) -> None:
        if working:
            route.continue_()
        elif status:
            route.fulfill(status=status, body="no")
        else:
            route.abort()

    stroke = [
        (x, y + (status + 7) / 4000) for x, y in SQUARE
    ]  # another one for each status: what the server has is not sent again
    web.page.route("**/upload/image", answer)
    try:
        canvas.stroke(stroke)
        canvas.wait_message(words)
        assert canvas.layer("mask").any()
        with canvas.page.expect_request("**/upload/image"):
            canvas.page.keyboard.press("Control+Enter")
        canvas.wait_message(words)
        assert canvas.layer("mask").any()
        working = True
        canvas.wait_saved()
        canvas.part("message").wait_for(state="hidden")
        canvas.page.keyboard.press("Control+Enter")
        canvas.wait_results()
    finally:
        web.page.unroute("**/upload/image")  # not before: a request that is on its way meanwhile would never end
    web.faults.clear()  # the page itself logs failed requests


def test_pictures_of_all_kinds_and_broken_ones(web: WebPage, canvas: CanvasPage) -> None:
    ramp = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    alpha = np.zeros((48, 64, 4), np.uint8)
    alpha[:, 32:] = (200, 10, 10, 255)
    turned = Image.fromarray(np.zeros((48, 64, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a photograph taken upright
    jpeg = io.BytesIO()
    turned.save(jpeg, "JPEG", exif=exif)
    canvas.stroke(SQUARE)
    file = canvas.wait_saved()
    canvas.drop(png(np.zeros((50, 50, 3), np.uint8))[:-30], "cut.png")
    canvas.wait_message("cut.png is not a picture")
    assert canvas.widget("mask_file") == file and canvas.layer("mask").any()
    canvas.drop(png(Image.fromarray(ramp)), "deep.png")
    deep = canvas.stored(canvas.wait_saved("canvas_file"))
    assert deep.shape == (48, 64, 3) and abs(int(deep[-1, -1, 0]) - int(ramp[-1, -1]) // 257) <= 1
    canvas.drop(png(alpha), "alpha.png")
    clear = canvas.stored(canvas.wait_saved("canvas_file", canvas.widget("canvas_file")))
    assert clear[5, 5].tolist() == [255, 255, 255] and clear[5, 40].tolist() == [200, 10, 10]
    canvas.drop(jpeg.getvalue(), "turned.jpg", "image/jpeg")
    assert canvas.stored(canvas.wait_saved("canvas_file", canvas.widget("canvas_file"))).shape == (64, 48, 3)
    assert canvas.state()["edits"][-1]["width"] == 48


@BOTH
def test_the_linked_picture_is_shown_without_an_edit(web: WebPage, canvas: CanvasPage) -> None:
    graph = quick_graph()
    green = node(9, "EmptyImage", (-300, 0), (200, 130), [], [("IMAGE", "IMAGE", [9])])
    green["widgets_values"] = [64, 48, 1, 0x20C040]
    graph["nodes"][0]["inputs"][0]["link"] = 9
    linked = {
        **graph,
        "nodes": [*graph["nodes"], green],
        "links": [*graph["links"], [9, 9, 0, 1, 0, "IMAGE"]],
        "last_node_id": 9,
    }
    canvas.load(linked)
    canvas.click("linked")
    canvas.page.wait_for_function(
        "root => root.querySelector('.lazy-base').width === 64", arg=canvas.root.element_handle()
    )
    assert np.array_equal(np.unique(canvas.layer("base")[..., :3].reshape(-1, 3), axis=0), [[0x20, 0xC0, 0x40]])
    assert canvas.state()["results"] == []
    assert canvas.message_text() == ""
    green["widgets_values"][3] = 0xE0E000
    canvas.load(linked)
    canvas.stroke(SQUARE)  # on a picture that was not seen yet
    canvas.click("generate")
    canvas.wait_message("not shown yet")
    canvas.page.wait_for_function(
        "root => root.querySelector('.lazy-base').width === 64", arg=canvas.root.element_handle()
    )
    assert np.array_equal(canvas.layer("base")[0, 0, :3], [0xE0, 0xE0, 0])
    canvas.stroke(SQUARE)
    canvas.click("generate")
    canvas.wait_results()
    assert len(canvas.state()["results"]) == 1
