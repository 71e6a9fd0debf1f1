"""Lazy Canvas where canvases in a page break: subgraphs, copies, tabs, other nodes' seeds, huge pictures, servers that
go away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from canvas_page import BOTH, GRAPHS, NODE, SQUARE, WAIT_MS, CanvasPage, node, png, quick_graph
from comfy_client import ComfyClient
from frame_times import frame_times
from templates import graph_of
from webpage import WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.nightly,
]


@BOTH
def test_a_run_leaves_other_outputs_and_other_seeds_alone(web: WebPage, canvas: CanvasPage) -> None:
    graph = quick_graph()
    graph["nodes"].append(node(20, "PreviewImage", (600, 300), (200, 100), [("images", "IMAGE", None)], []))
    graph["nodes"].append(node(21, "KSampler", (600, 450), (300, 300), [], []))
    graph["nodes"][-1]["widgets_values"] = [77, "randomize", 20, 8, "euler", "normal", 1]
    canvas.load(graph)
    canvas.stroke(SQUARE)
    canvas.wait_saved()
    asked = canvas.generate()
    assert set(asked["prompt"]) == {"1", "2", "3"}
    canvas.wait_results()
    assert web.evaluate("app.graph.getNodeById(21).widgets.find(w => w.name === 'seed').value") == 77
    assert canvas.message_text() == ""


@BOTH
def test_three_queued_seeds_come_back_as_three_results(web: WebPage, canvas: CanvasPage) -> None:
    canvas.load(graph_of("8_lazy_canvas"))
    canvas.stroke([(0.4, 0.4), (0.45, 0.4)])
    canvas.part("seeds").fill("3")
    canvas.click("generate")
    canvas.wait_results(3)
    assert len({result["seed"] for result in canvas.state()["results"]}) == 3
    canvas.click("reject")
    canvas.wait_no_results()
    assert canvas.layer("mask").any()


@BOTH
def test_a_canvas_in_a_subgraph_is_painted_on_and_gets_its_results(web: WebPage, canvas: CanvasPage) -> None:
    web.evaluate("() => { app.graph.convertToSubgraph(new Set(app.graph.nodes)); }")
    web.page.wait_for_timeout(500)
    web.evaluate("() => { const [outer] = app.graph.nodes; app.canvas.openSubgraph(outer.subgraph, outer); }")
    web.evaluate(
        "() => { app.canvas.ds.scale = 0.8; app.canvas.ds.offset = [150, 150]; app.canvas.setDirty(true, true); }"
    )
    canvas.ready()
    canvas.stroke(SQUARE)
    mask = canvas.wait_saved()
    asked = canvas.generate()
    assert sorted(key.split(":")[-1] for key in asked["prompt"]) == ["1", "2", "3"]
    assert all(":" in key for key in asked["prompt"])
    canvas.wait_results()
    canvas.click("result")
    after = canvas.stored(canvas.wait_saved("canvas_file"))
    hole = canvas.stored(mask)[..., 0] > 0
    assert np.array_equal((after != (0x30, 0x50, 0x80)).any(-1), hole)


def test_a_copy_by_alt_drag_is_a_canvas_of_its_own(web: WebPage, canvas: CanvasPage) -> None:
    canvas.stroke(SQUARE)
    first = canvas.wait_saved()
    web.evaluate(
        "() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [500, 400]; app.canvas.setDirty(true, true); }"
    )
    web.page.wait_for_timeout(500)
    x, y = web.evaluate(
        f"""() => {{ const index = 0, node = {NODE}, {{ds, canvas}} = app.canvas, frame = canvas.getBoundingClientRect();
            const [x, y] = [node.pos[0] + 80 + ds.offset[0], node.pos[1] - 12 + ds.offset[1]];
            return [frame.left + x * ds.scale, frame.top + y * ds.scale]; }}"""
    )
    web.page.keyboard.down("Alt")
    web.page.mouse.move(x, y)
    web.page.mouse.down()
    web.page.mouse.move(x + 500, y + 40, steps=12)
    web.page.mouse.up()
    web.page.keyboard.up("Alt")
    web.page.wait_for_function(f"{GRAPHS}[0].findNodesByType('LazyCanvas').length === 2")
    copy = CanvasPage(web, 1)
    copy.ready()
    assert copy.state()["id"] != canvas.state()["id"]
    assert copy.widget("mask_file") == first
    copy.stroke([(0.8, 0.8), (0.9, 0.8)])
    assert copy.wait_saved(other_than=first) != canvas.widget("mask_file") == first


def test_a_result_that_comes_while_another_tab_is_open_is_there_when_one_comes_back(
    web: WebPage, canvas: CanvasPage
) -> None:
    canvas.load(graph_of("8_lazy_canvas"), "painted")
    canvas.stroke([(0.4, 0.4), (0.45, 0.4)])
    canvas.wait_saved()
    web.evaluate(
        """() => { window.ended = false; app.api.addEventListener("execution_success", () => { window.ended = true; }, {once: true}); }"""
    )
    canvas.page.keyboard.press("Control+Enter")
    web.page.wait_for_timeout(300)
    web.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    web.page.wait_for_function("window.ended", timeout=240_000)
    web.page.wait_for_timeout(1000)
    web.switch_tab("painted")
    canvas.ready()
    canvas.wait_results()
    assert len(canvas.state()["results"]) == 1
    assert canvas.layer("mask").any()


def test_two_pages_on_one_workflow_do_not_get_into_each_others_way(
    web: WebPage, canvas: CanvasPage, browser: Browser, server: ComfyClient
) -> None:
    canvas.stroke(SQUARE)
    first = canvas.wait_saved()
    workflow = web.evaluate("app.graph.serialize()")
    with WebPage.open(browser, server) as other_page:
        other = CanvasPage(other_page)
        other.load(workflow)
        other.page.wait_for_timeout(500)
        assert np.array_equal(other.layer("mask")[..., 3] > 127, canvas.layer("mask")[..., 3] > 127)
        other.stroke([(0.8, 0.8), (0.9, 0.8)])
        second = other.wait_saved(other_than=first)
        assert canvas.widget("mask_file") == first
        for page in (canvas, other):
            page.part("keys").focus()
            page.page.keyboard.press("Control+Enter")
        for page, mask in ((canvas, first), (other, second)):
            page.wait_results()
            assert page.part("result").count() == 1
            page.click("result")
            after = page.stored(page.wait_saved("canvas_file"))
            assert np.array_equal((after != (0x30, 0x50, 0x80)).any(-1), page.stored(mask)[..., 0] > 0)


def test_a_picture_of_100_megapixels_is_scaled_down_and_said(web: WebPage, canvas: CanvasPage) -> None:
    Image.MAX_IMAGE_PIXELS = None
    canvas.stroke(SQUARE)
    canvas.wait_saved()
    canvas.drop(png(Image.new("RGB", (12_500, 8_000), (90, 120, 60))), "huge.png")
    web.page.wait_for_function(f"index => {NODE}.properties.lazydiffusion.edits.length > 1", arg=0, timeout=120_000)
    canvas.wait_message("12500 × 8000")
    name = canvas.wait_saved("canvas_file")
    width, height = (canvas.state()["edits"][-1][side] for side in ("width", "height"))
    assert width * height <= 4096 * 4096 + 4096 and abs(width / height - 12.5 / 8) < 0.001
    assert canvas.stored(name).shape == (height, width, 3)
    canvas.part("keys").focus()
    canvas.page.keyboard.press("Control+z")
    assert canvas.layer("mask").any()


def test_a_server_that_goes_away_in_the_middle_loses_nothing(
    browser: Browser, start_server: Callable[..., ComfyClient]
) -> None:
    client = start_server()
    with WebPage.open(browser, client) as page:
        page.page.set_default_timeout(WAIT_MS)
        canvas = CanvasPage(page)
        page.open_template("8_lazy_canvas")
        canvas.ready()
        canvas.stroke([(0.4, 0.4), (0.45, 0.4)])
        first = canvas.wait_saved()
        canvas.type("sunflower")
        canvas.click("generate")
        page.page.wait_for_function("document.querySelector('.lazy-root').getAttribute('aria-busy') === 'true'")
        client.server.stop()
        canvas.stroke([(0.6, 0.4), (0.7, 0.4)])
        canvas.wait_message("does not answer")
        mask = canvas.layer("mask")
        assert mask[int(0.4 * 256), int(0.65 * 256), 3] == 255
        client.server.start(int(client.address.rsplit(":", 1)[1]))
        client.server.wait_until_ready()
        canvas.wait_saved(other_than=first)
        page.page.wait_for_function("document.querySelector('.lazy-root').getAttribute('aria-busy') === 'false'")
        assert np.array_equal(canvas.layer("mask"), mask)
        assert canvas.part("prompt").input_value() == "sunflower"
        canvas.click("generate")
        canvas.wait_results()
        page.faults.clear()  # the page itself logs failed requests


def test_files_that_the_server_lost_are_sent_again(web: WebPage, canvas: CanvasPage, server: ComfyClient) -> None:
    canvas.stroke([(0.2, 0.6), (0.5, 0.6)])
    mask = canvas.wait_saved()
    file = server.server.base / "input" / mask.removesuffix(" [input]")
    content = file.read_bytes()
    file.unlink()
    canvas.page.keyboard.press("Control+Enter")
    canvas.wait_results()
    assert file.read_bytes() == content
    web.faults.clear()


def test_no_folder_to_write_into_is_said_and_the_mask_stays(
    browser: Browser, start_server: Callable[..., ComfyClient]
) -> None:
    """As a full disk: the server's own answer to an upload that it cannot store."""
    client = start_server()
    (client.server.base / "input").mkdir(exist_ok=True)
    (client.server.base / "input" / "lazydiffusion").write_text("in the way")
    with WebPage.open(browser, client) as page:
        page.page.set_default_timeout(WAIT_MS)
        canvas = CanvasPage(page)
        canvas.load(quick_graph())
        canvas.stroke(SQUARE)
        canvas.wait_message("could not store the picture")
        assert canvas.layer("mask").any()
        (client.server.base / "input" / "lazydiffusion").unlink()
        canvas.wait_saved()
        canvas.page.keyboard.press("Control+Enter")
        canvas.wait_results()
        page.faults.clear()


@BOTH
def test_painting_on_2048_pixels_keeps_up_with_the_bare_page(web: WebPage, canvas: CanvasPage) -> None:
    """Measured beside the same page at rest, so that a busy machine does not count against it."""
    canvas.load(quick_graph(2048, 2048))
    web.page.wait_for_timeout(1000)
    painting, rest = frame_times(web)
    print(f"frames at 2048 px, 95th percentile of the best of three: {painting:.1f} ms painting, {rest:.1f} ms at rest")
    assert painting <= max(33.4, 2 * rest)


@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes_2"])
def test_painting_on_a_screen_of_twice_the_pixels(browser: Browser, server: ComfyClient, nodes_2: bool) -> None:
    """As above; and what is painted lies under the pointer, in the picture's own pixels."""
    with WebPage.open(browser, server, nodes_2=nodes_2, scale=2) as page:
        canvas = CanvasPage(page)
        canvas.load(quick_graph(2048, 2048))
        page.page.wait_for_timeout(1000)
        painting, rest = frame_times(page)
        print(f"at 2 pixels to one: {painting:.1f} ms painting, {rest:.1f} ms at rest")
        assert painting <= max(33.4, 2 * rest)
        canvas.load(quick_graph(2048, 2048))
        canvas.stroke([(0.25, 0.75), (0.26, 0.75)])
        rows, cols = np.nonzero(canvas.layer("mask")[..., 3])
        assert abs(rows.mean() / 2048 - 0.75) < 0.01 and abs(cols.mean() / 2048 - 0.255) < 0.01


@BOTH
def test_a_pen_presses_one_finger_paints_and_two_zoom(web: WebPage, canvas: CanvasPage) -> None:
    """Events as the browser itself makes them of a tablet's pen and of a touch screen."""
    device = web.page.context.new_cdp_session(web.page)
    left, top, width, height = canvas.stage()

    def pen(y: float, force: float) -> None:
        for kind, x, buttons in (("mousePressed", 0.2, 1), ("mouseMoved", 0.5, 1), ("mouseReleased", 0.8, 0)):
            place = {"x": left + x * width, "y": top + y * height, "button": "left", "buttons": buttons}
            device.send("Input.dispatchMouseEvent", {"type": kind, **place, "pointerType": "pen", "force": force})

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": left + x * width, "y": top + y * height, "id": i} for i, (x, y) in enumerate(places)]
        device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    pen(0.2, 0.2)
    pen(0.6, 1.0)
    across = canvas.layer("mask")[:, 90, 3] > 0
    light, heavy = int(across[:102].sum()), int(across[102:].sum())
    print(f"a pen's stroke is {light} px wide pressed lightly, {heavy} px in full")
    assert 0 < 1.5 * light < heavy

    before = canvas.layer("mask")
    fingers("touchStart", (0.2, 0.85))
    fingers("touchMove", (0.5, 0.85))
    fingers("touchEnd")
    painted = canvas.layer("mask")
    assert (painted[..., 3] > 0).sum() > (before[..., 3] > 0).sum(), "one finger paints"

    fingers("touchStart", (0.4, 0.4))
    fingers("touchStart", (0.4, 0.4), (0.6, 0.6))
    for step in range(1, 6):
        fingers("touchMove", (0.4 - 0.04 * step, 0.4 - 0.04 * step), (0.6 + 0.04 * step, 0.6 + 0.04 * step))
    fingers("touchEnd")
    assert canvas.stage()[2] > 1.5 * width, "two fingers zoom"
    assert np.array_equal(canvas.layer("mask"), painted), "and paint nothing"
