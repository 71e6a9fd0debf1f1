"""The pack in ComfyUI's own page, in a real browser: templates, runs, what our extension shows, help pages, Chinese,
errors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from comfy_client import ComfyClient
from devtools.smoke import NODES
from templates import COMPLETE, NEED_FILES, TEMPLATES, files_of, graph_of
from webpage import WebPage, shown_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser
OpenPage = Callable[..., AbstractContextManager[WebPage]]

ROOT = Path(__file__).resolve().parents[2]
OLD = sorted(path for path in (ROOT / "tests" / "data" / "upgrade").glob("*/*.json") if ".api" not in path.name)
TOKENS = r"\d+ of (256|1024) tokens"
TIME = r"\d+(\.\d)? m?s"
DECODED = (  # on a busy machine a step in the hole may take what all tokens would
    rf"{TOKENS} · {TIME}( · about {TIME} saved)?"
)
RAN = rf"Encoder ran: {TIME} · {TOKENS}"
REUSED = rf"Encoder not run: answered from cache · {TOKENS}"


@pytest.fixture
def open_page(browser: Browser, server: ComfyClient) -> OpenPage:
    """`with open_page(locale="zh") as page`: a page of its own. Tests that leave nothing behind share the file's,
    `web`.
    """
    return partial(WebPage.open, browser, server)


@pytest.fixture(scope="module")
def fresh() -> Iterator[int]:
    """Numbers that no other run of this server has used, so that nothing comes out of a cache by accident."""
    return iter(range(9001, 10000))


def assert_notes(notes: list[str], pattern: str) -> None:
    assert notes
    assert [note for note in notes if not re.fullmatch(pattern, note)] == []


def test_template_browser_shows_each_template_with_its_thumbnail(open_page: OpenPage) -> None:
    assert len(TEMPLATES) == 14
    with open_page() as page:
        cards = page.browse_templates()
        assert sorted(card.get_attribute("data-testid") or "" for card in cards.all()) == [
            f"template-workflow-{name}" for name in TEMPLATES
        ]
        for name in TEMPLATES:
            card = cards.and_(page.page.get_by_test_id(f"template-workflow-{name}"))
            card.scroll_into_view_if_needed()  # pictures are loaded when they come into view
            [(address, size)] = shown_pictures(card.locator("img"))
            assert size == Image.open(ROOT / "workflows" / f"{name}.jpg").size, name
            assert address.startswith(
                "blob:"
            )  # the page's placeholder for a missing thumbnail has an address of its own


@pytest.mark.parametrize("name", COMPLETE)
def test_template_opens_runs_and_shows_its_pictures(name: str, web: WebPage, fresh: Iterator[int]) -> None:
    twin = json.loads((ROOT / "tests" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    web.open_template(name)
    assert web.toasts() == []
    expected = {number: {"class_type": node["class_type"], "inputs": node["inputs"]} for number, node in twin.items()}
    assert web.prompt() == expected
    for index in range(len(web.notes("LazyDecode"))):
        web.set_widget("LazyDecode", "seed", next(fresh), index)
    pictures = web.run()
    assert len(pictures) >= 3
    assert set(pictures) == {512 if name.startswith("14_") else 256}
    assert_notes(web.notes("LazyDecode"), DECODED)
    # Without figures where the host's own cache answered and this page has never seen any.
    assert_notes(web.notes("LazyEncodeContext"), f"{RAN}|{REUSED}|Encoder not run: answered from cache")
    assert web.faults == []


@pytest.mark.parametrize("path", OLD, ids=lambda path: f"{path.parent.name} {path.stem}")
def test_a_workflow_file_of_an_earlier_version_opens_as_it_was(path: Path, web: WebPage) -> None:
    was = json.loads(path.with_suffix(".api.json").read_text(encoding="utf-8"))
    web.evaluate("graph => app.loadGraphData(graph)", json.loads(path.read_text(encoding="utf-8")))
    now = web.prompt()
    assert {name: node["class_type"] for name, node in now.items()} == {
        name: node["class_type"] for name, node in was.items()
    }
    assert {name: {**now[name]["inputs"], **node["inputs"]} for name, node in was.items()} == {
        name: node["inputs"] for name, node in now.items()
    }
    assert web.faults == []


@pytest.mark.parametrize("name", NEED_FILES)
def test_template_without_its_files_says_which_are_missing(
    name: str, open_page: OpenPage, server: ComfyClient, host: Path, fresh: Iterator[int]
) -> None:
    server.upload_image(
        "example.png", (host / "input" / "example.png").read_bytes()
    )  # every ComfyUI has it, but for the tests' own folder
    nodes = graph_of(name)["nodes"]
    models = [model for node in nodes for model in node["properties"].get("models", ())]
    with open_page() as page:
        page.open_template(name)
        assert page.missing_models() == sorted(f"{model['directory']} / {model['name']}" for model in models)
        page.close_missing_models()
        assert page.toasts() == []
        assert page.prompt().keys() == {str(node["id"]) for node in nodes if node["type"] != "MarkdownNote"}

        page.press_run()
        files = {file for node in nodes for file in files_of(node)}
        asked = [
            name for node in page.prompt().values() for name, value in node["inputs"].items() if str(value) in files
        ]
        assert page.refused_inputs() == sorted(asked)  # no other value is wrong
        page.close_error()
        assert page.toasts() == []

        page.open_template("1_first_edit")
        page.set_widget("LazyDecode", "seed", next(fresh))
        assert page.run() == [256, 256, 256]


def test_note_says_whether_the_encoder_ran_and_is_not_saved(open_page: OpenPage, fresh: Iterator[int]) -> None:
    with open_page() as page:
        page.open_template("1_first_edit")
        page.set_widget("EmptyImage", "color", next(fresh))
        page.run()
        assert_notes(page.notes("LazyEncodeContext"), RAN)
        assert_notes(page.notes("LazyDecode"), DECODED.replace(TOKENS, "25 of 256 tokens"))

        page.set_widget("LazyDecode", "seed", next(fresh))  # ComfyUI itself keeps the context
        page.run()
        assert_notes(page.notes("LazyEncodeContext"), REUSED)

        page.set_widget(
            "LazyMaskDilate", "fill_holes", False
        )  # another graph, the same mask: only our own cache can know
        page.set_widget("LazyDecode", "seed", next(fresh))
        page.run()
        assert_notes(page.notes("LazyEncodeContext"), REUSED)

        saved = page.evaluate(
            "app.graph.serialize().nodes.filter(n => n.type.startsWith('Lazy')).map(n => [n.type,"
            " n.widgets_values.length])"
        )
        assert dict(saved) == {"LazyModelLoader": 1, "LazyMaskDilate": 3, "LazyEncodeContext": 3, "LazyDecode": 9}
        assert "lazydiffusion_note" not in json.dumps(page.prompt())


def test_notes_come_back_with_their_tab(open_page: OpenPage, fresh: Iterator[int]) -> None:
    with open_page() as page:
        page.open_template("1_first_edit")
        page.set_widget("LazyDecode", "seed", next(fresh))
        page.run()
        before = page.notes("LazyDecode")
        page.open_template("3_sketch")
        assert page.notes("LazyDecode") == [""]
        page.switch_tab("1_first_edit")
        for _ in range(40):  # the page gives a tab its outputs back in one of its next frames
            if page.notes("LazyDecode") == before:
                break
            page.page.wait_for_timeout(250)
        assert page.notes("LazyDecode") == before


def test_empty_mask_says_that_the_image_came_back(open_page: OpenPage, fresh: Iterator[int]) -> None:
    with open_page() as page:
        page.open_template("1_first_edit")
        page.set_widget("SolidMask", "value", 0.0, index=1)
        page.set_widget("LazyDecode", "seed", next(fresh))
        page.run()
        assert page.notes("LazyEncodeContext") == ["Empty mask: nothing to encode"]
        assert page.notes("LazyDecode") == ["Empty mask: image returned unchanged"]


def test_nodes_2_runs_and_shows_the_notes(open_page: OpenPage, fresh: Iterator[int]) -> None:
    with open_page(nodes_2=True) as page:
        page.open_template("1_first_edit")
        page.set_widget("LazyDecode", "seed", next(fresh))
        assert page.run() == [256, 256, 256]
        decoded = page.page.locator(".lg-node .lazydiffusion-note").filter(has_text=re.compile(DECODED))
        decoded.wait_for()
        assert decoded.is_visible()


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_help_page_of_each_node(locale: str, open_page: OpenPage) -> None:
    with open_page(locale=locale) as page:
        for node in NODES:
            help_page = page.open_help(node)
            file = ROOT / "web" / "docs" / (f"{node}.md" if locale == "en" else f"{node}/{locale}.md")
            heading = "Inputs" if locale == "en" else "输入"
            assert help_page.get_by_role("heading", name=heading, exact=True).count() == 1, node
            sentence = " ".join(re.split(r"[*`：:，,]", file.read_text(encoding="utf-8"))[0].split())
            assert sentence in help_page.inner_text(), node
            [(address, size)] = shown_pictures(help_page.locator("img"))
            assert size == Image.open(ROOT / "web" / "docs" / node / address.rsplit("/", 1)[1]).size, node


def test_chinese_names_and_notes(open_page: OpenPage, fresh: Iterator[int]) -> None:
    chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
    with open_page(locale="zh") as page:
        page.open_template("3_sketch", label="惰性扩散（LazyDiffusion）")
        for node in NODES:
            shown, names = page.labels(node), chinese[node]
            inputs = {name: entry["name"] for name, entry in names["inputs"].items()}
            assert shown["title"] == names["display_name"]
            assert {**shown["inputs"], **shown["widgets"]}.items() >= inputs.items() - {
                ("control_after_generate", "生成后的控制")
            }, node
            assert shown["outputs"] == [output["name"] for output in names["outputs"].values()]
        page.set_widget("LazyDecode", "seed", next(fresh))
        page.run()
        assert_notes(page.notes("LazyDecode"), r"\d+/256 个图块 · [\d.]+ 毫?秒( · 约省 [\d.]+ 毫?秒)?")
        assert_notes(
            page.notes("LazyEncodeContext"), r"编码器(已运行：[\d.]+ 毫?秒|未运行：由缓存返回) · \d+/256 个图块"
        )


def test_error_appears_in_the_pages_own_box_and_the_next_run_works(open_page: OpenPage, fresh: Iterator[int]) -> None:
    with open_page() as page:
        page.open_template("1_first_edit")
        page.set_widget("SolidMask", "width", 200)
        page.press_run()
        assert "mask is 200 x 256 px, expected the image's 256 x 256" in page.wait_for_error()
        page.close_error()
        page.set_widget("SolidMask", "width", 256)
        page.set_widget("LazyDecode", "seed", next(fresh))
        assert page.run() == [256, 256, 256]
