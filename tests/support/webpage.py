"""ComfyUI's own page in a real browser, driven as a person would use it, for tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from devtools.client import Client

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

PACK = "ComfyUI-LazyDiffusion"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
RUN_MS = 240_000  # a queued workflow on a slow CPU
PAGE_MS = 120_000  # the page itself
TEMPLATES_DIALOG = "[role=dialog]:has(nav)"
# Errors and missing files: a dialog on 0.3.75's page; on 0.33's a small overlay, and a panel that "View details" opens.
ERROR_DIALOG, MISSING_DIALOG, OVERLAY = ".comfy-error-report", ".comfy-missing-models", "[data-testid=error-overlay]"
ERROR_GROUPS, MISSING_ROWS = "[data-testid=error-group-execution]", "[data-testid=missing-model-importable-rows]"

# Widths of the pictures that the preview nodes show, 0 where there is none (yet): the classic page paints them, Nodes
# 2.0 has elements.
PICTURES = """() => app.graph.nodes.filter(node => ["SaveImage", "PreviewImage", "MaskPreview"].includes(node.type)).map(node => {
    const picture = LiteGraph.vueNodesMode ? document.querySelector(`[data-node-id="${node.id}"] img`) : node.imgs?.[0];
    return picture?.complete ? picture.naturalWidth : 0;
})"""


@contextmanager
def chromium_browser(program: str) -> Iterator[Browser]:
    """Headless Chromium with a profile of its own, which is thrown away."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class WebPage:
    """One tab. `faults` are the errors that our own scripts raised or logged, `noise` all errors and failed requests of
    the page.
    """

    page: Page
    faults: list[str] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(
        cls, browser: Browser, server: Client, locale: str = "en", nodes_2: bool = False, scale: float = 1
    ) -> Iterator[WebPage]:
        """The page of `server`, ready for use; `faults` are checked at the end.

        `locale` is the page's language setting, `nodes_2` its newer way to draw nodes, `scale` the screen's pixels to
        one of the page's.
        """
        for name, value in {
            "Comfy.TutorialCompleted": True,
            "Comfy.Locale": locale,
            "Comfy.VueNodes.Enabled": nodes_2,
        }.items():
            server.post(f"/settings/{name}", value)
        viewport = {"width": 1600, "height": 950}
        context = browser.new_context(viewport=viewport, locale="en-US", device_scale_factor=scale)  # type: ignore
        tab = cls(context.new_page())
        tab.page.set_default_timeout(PAGE_MS)
        tab.page.on("pageerror", lambda error: tab.note_fault(f"{error}\n{error.stack}"))
        tab.page.on("console", tab.note_console)
        tab.page.on("requestfailed", lambda request: tab.noise.append(f"{request.failure}: {request.url}"))
        tab.page.on(
            "response",
            lambda answer: tab.noise.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None,
        )
        tab.page.goto(server.address)
        tab.page.wait_for_function(
            "window.app?.extensionManager && app.graph?.nodes.length > 0 &&"
            " !document.querySelector('.p-progressspinner')"
        )
        try:
            yield tab
            assert tab.faults == [], "our own scripts failed"
        finally:
            context.close()

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.note_fault(f"{message.text} {message.location.get('url')}")

    def kinds_of_noise(self) -> set[str]:
        """`noise` without ports and queries, and without the page's own questions to Comfy's registry, one for each
        foreign node.
        """
        lines = [line.splitlines()[0] for line in self.noise if "https://api.comfy.org/" not in line]
        return {re.sub(r"127\.0\.0\.1:\d+|\?\S*|:\d+:\d+", "", line) for line in lines}

    def note_fault(self, text: str) -> None:
        self.noise.append(text)
        if f"/extensions/{PACK}" in text and "404" not in text:  # 404: the page asks for <node>/en.md before <node>.md
            self.faults.append(text)

    def evaluate(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    # Templates

    def browse_templates(self, label: str = "LazyDiffusion") -> Locator:
        """The template browser at our category -> its cards."""
        self.page.locator(".templates-tab-button").click()
        dialog = self.page.locator(TEMPLATES_DIALOG)
        dialog.locator("nav").get_by_text(label, exact=True).click()
        cards = dialog.locator("[data-testid^=template-workflow-]:not([data-testid=template-workflows-content])")
        cards.filter(has_text="1_first_edit").first.wait_for()
        return cards

    def open_template(self, name: str, label: str = "LazyDiffusion") -> None:
        self.browse_templates(label).and_(self.page.get_by_test_id(f"template-workflow-{name}")).click()
        self.page.wait_for_function(
            "name => app.extensionManager.workflow.activeWorkflow?.filename === name && app.graph.nodes.some(n =>"
            " n.type === 'LazyDecode')",
            arg=name,
        )
        self.page.locator(TEMPLATES_DIALOG).wait_for(state="detached")

    def prompt(self) -> dict[str, Any]:
        """What the page would queue, in the API's format, without titles."""
        output = self.evaluate("async () => (await app.graphToPrompt()).output")
        return {name: {"class_type": node["class_type"], "inputs": node["inputs"]} for name, node in output.items()}

    def toasts(self) -> list[str]:
        """The page's small warnings, for example of a workflow file that it finds malformed."""
        return self.page.locator(".p-toast-message-content").all_inner_texts()

    def missing_models(self) -> list[str]:
        """What the page says of a workflow's missing files -> "folder / file" of each, sorted."""
        self.page.locator(f"{MISSING_DIALOG}, {OVERLAY}").first.wait_for()
        if self.page.locator(MISSING_DIALOG).count():
            return sorted(re.findall(r"^\w+ / .+$", self.page.locator(MISSING_DIALOG).inner_text(), re.MULTILINE))
        self.show_details()
        rows = re.findall(r"^(\S+\.\w+)\s+(\w+)$", self.page.locator(MISSING_ROWS).inner_text(), re.MULTILINE)
        return sorted(f"{folder} / {file}" for file, folder in rows)

    def close_missing_models(self) -> None:
        if self.page.locator(MISSING_DIALOG).count():
            self.page.keyboard.press("Escape")
            self.page.locator(MISSING_DIALOG).wait_for(state="detached")

    def switch_tab(self, name: str) -> None:
        """Back to an opened workflow."""
        self.page.locator(".workflow-tab").filter(has_text=name).click()
        self.page.wait_for_function("name => app.extensionManager.workflow.activeWorkflow?.filename === name", arg=name)

    # Nodes

    def set_widget(self, node_type: str, widget: str, value: Any, index: int = 0) -> None:
        """Set a value of the `index`-th node of this type."""
        self.evaluate(
            """([type, name, value, index]) => {
                const node = app.graph.findNodesByType(type)[index];
                const widget = node.widgets.find(w => w.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [node_type, widget, value, index],
        )

    def notes(self, node_type: str) -> list[str]:
        """The lines of text that our extension shows on the nodes of this type."""
        return self.evaluate(
            """type => app.graph.findNodesByType(type)
                .map(n => n.widgets.find(w => w.name === "lazydiffusion_note").element)
                .map(e => e.isConnected ? e.textContent : "not on the page")""",
            node_type,
        )

    def labels(self, node_type: str) -> dict[str, Any]:
        """Title, socket and widget names of a new node of this type as the page shows them, by the names in its
        definition.
        """
        return self.evaluate(
            """type => { const node = LiteGraph.createNode(type); return {
                title: node.title,
                inputs: Object.fromEntries(node.inputs.map(i => [i.name, i.label ?? i.localized_name])),
                outputs: node.outputs.map(o => o.label ?? o.localized_name),
                widgets: Object.fromEntries((node.widgets ?? []).map(w => [w.name, w.label])) }; }""",
            node_type,
        )

    # Runs

    def press_run(self) -> None:
        # Newer pages put the mark on the button itself.
        self.page.locator("button[data-testid=queue-button], [data-testid=queue-button] button").first.click()

    def run(self) -> list[int]:
        """Press Run and wait for its end -> the widths of the pictures that the preview nodes show. Fails if the page
        shows an error.
        """
        self.evaluate("""() => { window.runEnd = null;
                for (const name of ["execution_success", "execution_error", "execution_interrupted"])
                    app.api.addEventListener(name, () => { window.runEnd ??= name; }, {once: true}); }""")
        self.press_run()
        self.page.wait_for_function(
            "sel => window.runEnd || document.querySelector(sel)", arg=f"{ERROR_DIALOG}, {OVERLAY}", timeout=RUN_MS
        )
        end = self.evaluate("window.runEnd")
        assert end == "execution_success", f"the run ended with {end}: {self.error_text()}"
        # The page loads a picture when its node is in view, and fits what is selected, if anything is.
        self.evaluate(
            "() => { app.canvas.deselectAll(); app.extensionManager.command.execute('Comfy.Canvas.FitView'); }"
        )
        self.page.wait_for_function(f"({PICTURES})().every(width => width > 0)")
        return self.evaluate(PICTURES)

    def error_text(self) -> str:
        """What the page says of the last run's error, or an empty string."""
        if self.page.locator(OVERLAY).count():
            self.show_details()
        return "\n".join(self.page.locator(f"{ERROR_DIALOG}, {ERROR_GROUPS}").all_inner_texts())

    def wait_for_error(self) -> str:
        """-> `error_text`, once there is one."""
        self.page.locator(f"{ERROR_DIALOG}, {OVERLAY}").first.wait_for()
        return self.error_text()

    def refused_inputs(self) -> list[str]:
        """After a run that was refused for values that are not offered: the inputs' names, sorted."""
        text = self.wait_for_error()
        if self.page.locator(ERROR_DIALOG).count():
            assert len(re.findall(r"- Value not in list: \w+: '.*' not in \[", text)) == text.count("\n- "), text
            return sorted(re.findall(r"- Value not in list: (\w+): '", text))
        assert "Some input values are not available" in text
        return sorted(re.findall(r"^.+ - (\w+)$", text, re.MULTILINE))

    def show_details(self) -> None:
        """Newer pages: from the overlay to the panel that lists all errors."""
        self.page.get_by_test_id("error-overlay-see-errors").click()
        self.page.locator(f"{ERROR_GROUPS}, {MISSING_ROWS}").first.wait_for()

    def close_error(self) -> None:
        if self.page.locator(ERROR_DIALOG).count():
            self.page.keyboard.press("Escape")
            self.page.locator(ERROR_DIALOG).wait_for(state="detached")

    # Help

    def open_help(self, node_type: str) -> Locator:
        """Select a node and press the toolbox's info button -> the help page."""
        self.evaluate(
            """type => { const node = LiteGraph.createNode(type);
                app.graph.clear();
                app.graph.add(node);
                app.canvas.ds.scale = Math.min(1, 500 / node.size[1]);  // with its title below the page's bars
                app.canvas.centerOnNode(node);
                app.canvas.setDirty(true, true); }""",
            node_type,
        )
        self.page.wait_for_function(
            "type => app.canvas.visible_nodes.some(node => node.type === type)", arg=node_type
        )  # it was drawn
        self.page.wait_for_timeout(500)  # and the graph's place on the page is settled
        title = self.evaluate(
            """() => { const [node] = app.graph.nodes, {ds, canvas} = app.canvas, frame = canvas.getBoundingClientRect();
                return [frame.left + (node.pos[0] + ds.offset[0] + 60) * ds.scale,
                    frame.top + (node.pos[1] + ds.offset[1] - 12) * ds.scale]; }"""
        )
        self.page.mouse.click(*title)
        self.page.get_by_test_id("info-button").click()
        content = self.page.locator(".node-help-content .markdown-content")
        content.locator("img").wait_for()
        return content


def shown_pictures(images: Locator) -> list[tuple[str, tuple[int, int]]]:
    """(address, (width, height)) of every picture, once each has loaded or failed; (0, 0) for one that cannot be
    shown.
    """
    images.first.wait_for()
    found = images.evaluate_all("""all => Promise.all(all.map(async image => {
            if (!image.complete) await new Promise(done => { image.onload = image.onerror = done; });
            return [image.src, image.naturalWidth, image.naturalHeight];
        }))""")
    return [(address, (width, height)) for address, width, height in found]
