"""The line on our nodes, room between the templates' nodes, bypassing an edit, and README's five steps, in ComfyUI's
own page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from comfy_client import ComfyClient
from templates import COMPLETE, PAINTED
from webpage import WebPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
OpenPage = Callable[..., AbstractContextManager[WebPage]]
ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = 768  # px a side of the host's example.png

# [type, left, top, right, bottom] of every node as the page draws it, in the graph's units.
BOXES = """() => app.graph.nodes.map(node => {
    const element = LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
    const scale = app.canvas.ds.scale, frame = element && element.getBoundingClientRect();
    const size = frame ? [frame.width / scale, frame.height / scale - 30] : [node.size[0], Math.max(node.size[1], node.computeSize()[1])];
    return [node.type, node.pos[0], node.pos[1] - 30, node.pos[0] + size[0], node.pos[1] + size[1]];
})"""
# Of every line: whether all of its text is inside it and inside its node.
READABLE = """type => app.graph.findNodesByType(type).map(node => {
    const line = node.widgets.find(w => w.name === "lazydiffusion_note").element;
    const frame = (LiteGraph.vueNodesMode ? line.closest("[data-node-id]") : line.closest(".dom-widget")).getBoundingClientRect();
    const text = document.createRange();
    text.selectNodeContents(line);
    const words = text.getBoundingClientRect();
    return words.height > 0 && words.left >= frame.left - 1 && words.right <= frame.right + 1 && words.top >= frame.top - 1
        && words.bottom <= frame.bottom + 1;
})"""
LONG = [
    {"code": "prompt_cut", "cut": "and a very long rest of a prompt that goes on"},
    {"code": "unknown_words", "words": ["zebra", "hippopotamus", "rhinoceros"]},
    {"code": "hole_too_large", "side": 480, "trained": 256},
]
ENGLISH = (
    "The prompt is too long, “and a very long rest of a prompt that goes on” was left out. Unknown words: zebra,"
    " hippopotamus, rhinoceros. The hole is 480 px long, the model knows holes up to 256 px: mask less, edit it by"
    " itself, or scale the canvas down."
)


@pytest.fixture
def open_page(browser: Browser, server: ComfyClient, host: Path) -> OpenPage:
    """`with open_page(locale="zh") as page`. The host's picture lies where Load Image looks for it."""
    server.upload_image("example.png", (host / "input" / "example.png").read_bytes())
    return partial(WebPage.open, browser, server)


def overlaps(boxes: list[Any]) -> list[Any]:
    def apart(a: Any, b: Any) -> bool:
        return a[3] <= b[1] or b[3] <= a[1] or a[4] <= b[2] or b[4] <= a[2]

    return [(a, b) for index, a in enumerate(boxes) for b in boxes[:index] if not apart(a, b)]


def report(page: WebPage, node_type: str, **run: Any) -> None:
    """What a run sends to the page."""
    page.evaluate(
        "([type, run]) => app.graph.findNodesByType(type).forEach(n => n.onExecuted({lazydiffusion: [run]}))",
        [node_type, run],
    )
    page.page.wait_for_timeout(1000)  # the page lays the node out in its next frames


@pytest.mark.nightly
@pytest.mark.parametrize("nodes_2", [False, True], ids=["classic", "nodes 2"])
def test_nodes_lie_apart_and_lines_are_readable_at_the_templates_widths(nodes_2: bool, open_page: OpenPage) -> None:
    with open_page(nodes_2=nodes_2) as page:
        for name in [*COMPLETE, *PAINTED, "8_lazy_canvas"]:
            page.open_template(name)
            page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
            page.page.wait_for_timeout(1500)
            found = overlaps(page.evaluate(BOXES))
            assert found == [], (name, found)
        page.switch_tab("1_first_edit")  # opening it again would make a second file of another name
        page.evaluate("app.canvas.ds.scale = 1")
        page.evaluate("() => app.canvas.centerOnNode(app.graph.findNodesByType('LazyDecode')[0])")
        figures = {
            "hole_tokens": 100,
            "all_tokens": 4096,
            "encoder_ran": False,
            "encoder_runs": 3,
            "encode_ms": 12345.0,
        }
        figures |= {"total_ms": 45678.0, "step_ms": 900.0, "saved_ms": 123456.0}
        heights = []
        for messages in ([], LONG, []):
            for node_type in ("LazyEncodeContext", "LazyDecode"):
                report(page, node_type, **figures, messages=messages)
                assert page.evaluate(READABLE, node_type) == [True], (node_type, messages)
            heights.append(page.evaluate("app.graph.findNodesByType('LazyEncodeContext')[0].size[1]"))
            assert overlaps(page.evaluate(BOXES)) == []
        assert page.notes("LazyDecode") == ["100 of 4096 tokens · 46 s · about 123 s saved"]
        if not nodes_2:
            assert heights[0] == heights[2], "what a longer text had needed was given back"


def test_messages_in_both_languages(open_page: OpenPage) -> None:
    figures = {"hole_tokens": 1, "all_tokens": 2, "total_ms": 1.0, "step_ms": 1.0, "saved_ms": 0.0}
    rest = [{"code": "black_under_alpha"}, {"code": "other_image"}, {"code": "unknown_words", "words": ["zebra"]}]
    for locale, label in (("en", "LazyDiffusion"), ("zh", "惰性扩散（LazyDiffusion）")):
        with open_page(locale=locale) as page:
            page.open_template("1_first_edit", label)
            report(page, "LazyDecode", **figures, messages=LONG)
            [text] = page.notes("LazyDecode")
            tip = page.evaluate(
                "document.querySelectorAll('.lazydiffusion-note')[1].title ||"
                " document.querySelector('.lazydiffusion-note').title"
            )
            assert (
                text == ENGLISH
                if locale == "en"
                else re.fullmatch("提示词过长.*略去。 不认识的词：zebra、.*。 空洞长 480 px.*。", text)
            )
            assert ("1 of 2 tokens" if locale == "en" else "1/2 个图块") in tip
            report(page, "LazyDecode", **figures, messages=rest)
            [text] = page.notes("LazyDecode")
            assert (
                ("denoise to 1" in text and "Unknown word: zebra." in text) if locale == "en" else "降噪设为 1" in text
            )


def test_an_edit_that_is_bypassed_passes_the_canvas_on_and_says_nothing(open_page: OpenPage) -> None:
    with open_page() as page:
        page.open_template("2_edit_after_edit")
        first, second = page.evaluate("app.graph.findNodesByType('LazyDecode').map(n => n.id)")[:2]
        before = page.prompt()
        [canvas] = {tuple(before[str(first)]["inputs"]["image"])}
        page.evaluate("id => { app.graph.getNodeById(id).mode = 4; }", first)
        after = page.prompt()
        assert str(first) not in after
        assert after[str(second)]["inputs"]["image"] == list(canvas)
        encode = after[str(second)]["inputs"]["context"][0]
        assert after[encode]["inputs"]["image"] == list(canvas)

        report(page, "LazyDecode", hole_tokens=1, all_tokens=2, total_ms=1.0, step_ms=1.0, saved_ms=0.0)
        assert page.notes("LazyDecode")[0] == "1 of 2 tokens · 1 ms"
        page.evaluate("app.api.dispatchCustomEvent('execution_start', {prompt_id: 'another', timestamp: 0})")
        assert set(page.notes("LazyDecode")) == {""}  # until each says that it ran, or was kept


# -- README ------------------------------------------------------------------------------------------------------------
def connect(page: WebPage, origin: str, slot: int, target: str, name: str) -> None:
    """Draw a link from the first node of one type to the first of another."""
    page.evaluate(
        """([origin, slot, target, name]) => {
            const [from] = app.graph.findNodesByType(origin), [to] = app.graph.findNodesByType(target);
            from.connect(slot, to, to.findInputSlot(name)); }""",
        [origin, slot, target, name],
    )


def paint(page: WebPage, index: int, middle: tuple[float, float], radius: int) -> None:
    """Right-click the `index`-th Load Image, Open in MaskEditor, draw a zigzag around `middle` (shares of the picture),
    Save.
    """
    centre = (
        "index => { app.canvas.ds.scale = 1; app.canvas.centerOnNode(app.graph.findNodesByType('LoadImage')[index]); }"
    )
    page.page.wait_for_timeout(1500)  # the view may still be on its way to what was asked for before
    page.evaluate(centre, index)
    page.page.wait_for_function("index => app.graph.findNodesByType('LoadImage')[index].imgs?.length > 0", arg=index)
    page.evaluate(centre, index)
    page.page.wait_for_timeout(500)
    title = page.evaluate(
        """index => { const node = app.graph.findNodesByType('LoadImage')[index], {ds, canvas} = app.canvas;
            const frame = canvas.getBoundingClientRect();
            return [frame.left + node.pos[0] + ds.offset[0] + 60, frame.top + node.pos[1] + ds.offset[1] - 12]; }""",
        index,
    )
    page.page.mouse.click(*title, button="right")
    page.page.locator(".litecontextmenu .litemenu-entry").filter(has_text="Open in MaskEditor").click()
    canvas = page.page.locator("#maskEditorCanvasContainer canvas").nth(2)
    canvas.wait_for()
    page.page.locator("#maskEditor_brush").wait_for(state="attached")
    page.page.wait_for_timeout(2000)
    frame = canvas.bounding_box()
    assert frame
    scale = frame["width"] / EXAMPLE
    x, y = frame["x"] + middle[0] * frame["width"], frame["y"] + middle[1] * frame["height"]
    page.page.mouse.move(x - radius * scale, y - radius * scale)
    page.page.mouse.down()
    for row in range(5):
        height = y + (row - 2) * radius * scale / 2
        for side in (-1, 1) if row % 2 == 0 else (1, -1):
            page.page.mouse.move(x + side * radius * scale, height, steps=8)
    page.page.mouse.up()
    page.page.get_by_role("button", name="Save", exact=True).click()
    canvas.wait_for(state="detached")
    page.page.wait_for_function(
        "index => /clipspace/.test(app.graph.findNodesByType('LoadImage')[index].widgets.find(w => w.name ==="
        " 'image').value)",
        arg=index,
    )


def test_the_readmes_first_three_steps_work_as_written(open_page: OpenPage) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    label, template = re.findall(
        r"1\. In ComfyUI open \*Templates\*, choose \*(\w+)\* on the left, then \*(\w+)\*", readme
    )[0]
    with open_page() as page:
        page.open_template(template, label)  # 1
        page.run()  # 2
        assert page.notes("LazyDecode")[0].startswith("25 of 256 tokens")
        page.set_widget("CLIPTextEncode", "text", "火箭")  # 3
        page.run()
        assert page.notes("LazyEncodeContext")[0].startswith("Encoder not run: answered from cache")


@pytest.mark.nightly
def test_the_readmes_steps_with_pictures_of_ones_own(open_page: OpenPage) -> None:
    """Steps 4 and 5: masks are painted in the page's own editor."""
    with open_page() as page:
        page.open_template("1_first_edit")
        page.evaluate(  # 4
            """() => { const node = LiteGraph.createNode('LoadImage'); node.pos = [-500, 0]; app.graph.add(node);
                const file = node.widgets.find(w => w.name === 'image'); file.value = 'example.png'; file.callback?.('example.png'); }"""
        )
        for slot, target, name in (
            (0, "LazyEncodeContext", "image"),
            (0, "LazyDecode", "image"),
            (1, "LazyEncodeContext", "mask"),
        ):
            connect(page, "LoadImage", slot, target, name)
        paint(page, 0, (0.83, 0.35), 60)
        assert EXAMPLE in page.run()
        assert re.fullmatch(r"\d+ of 2304 tokens · .*", page.notes("LazyDecode")[0])

        page.open_template("11_paint_and_paint_again")  # 5
        paint(page, 0, (0.83, 0.35), 60)
        paint(page, 1, (0.17, 0.8), 60)
        assert page.run() == [EXAMPLE, EXAMPLE]
        notes = page.notes("LazyDecode")
        assert len(notes) == 2 and all(re.fullmatch(r"\d+ of 2304 tokens · .*", note) for note in notes), notes
        assert json.dumps(page.prompt()).count("clipspace/clipspace-painted") == 2
