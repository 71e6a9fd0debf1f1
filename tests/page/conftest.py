"""What all tests in the page share: the browser, and pages of the session's server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from canvas_page import WAIT_MS, CanvasPage, quick_graph
from comfy_client import ComfyClient
from webpage import WebPage, chromium_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with chromium_browser(chromium) as running:
        yield running


@pytest.fixture(scope="module")
def web(browser: Browser, server: ComfyClient) -> Iterator[WebPage]:
    """One page for all tests of a file: each loads a workflow of its own."""
    with WebPage.open(browser, server) as page:
        page.page.set_default_timeout(WAIT_MS)
        yield page


@pytest.fixture
def canvas(web: WebPage, request: pytest.FixtureRequest) -> CanvasPage:
    """The quick workflow in the classic page; in Nodes 2.0 where a test says so (parametrized, indirect)."""
    web.evaluate(
        "on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", getattr(request, "param", False)
    )
    page = CanvasPage(web)
    page.load(quick_graph())
    return page
