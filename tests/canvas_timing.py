"""`python dev.py run -- python tests/canvas_timing.py`: how long one waits on the Lazy Canvas, in the real page with
the shipped model.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from conftest import BROWSERS  # first: it makes the pack's folders importable

# isort: split
from canvas_page import CanvasPage, quick_graph
from devtools.host import find_host
from devtools.places import output
from devtools.server import throwaway
from frame_times import frame_times
from webpage import WebPage, chromium_browser

ROUNDS = 5
LIMITS = {"queued": 150, "preview": 700, "result": 2000, "frame": 33.4}  # ms, on a machine with nothing else to do

# One stroke by pointer events, Ctrl+Enter at once -> ms from the pen's lift to the queued prompt, the first preview,
# the result.
EDIT = """async () => {
    const root = document.querySelector('.lazy-root'), frame = root.querySelector('.lazy-frame'), stage = root.querySelector('.lazy-stage');
    const box = stage.getBoundingClientRect(), sent = window.fetch, times = {};
    const results = () => root.querySelectorAll('[data-testid=lazy-result]').length, before = results(), shown = stage.dataset.previews;
    let start;
    const since = () => performance.now() - start;
    window.fetch = async (...given) => {
        const answer = await sent(...given);
        if (start !== undefined && String(given[0]).endsWith('/prompt')) times.queued ??= since();
        return answer;
    };
    const pointer = (type, x, y) => frame.dispatchEvent(new PointerEvent(type, {bubbles: true, cancelable: true, pointerId: 1,
        pointerType: 'mouse', isPrimary: true, button: 0, buttons: 1,
        clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
    frame.setPointerCapture = () => {};
    pointer('pointerdown', 0.4, 0.5);
    for (let x = 0.4; x < 0.6; x += 0.02) { pointer('pointermove', x, 0.5); await new Promise(requestAnimationFrame); }
    start = performance.now();
    pointer('pointerup', 0.6, 0.5);
    const key = {key: 'Enter', ctrlKey: true, bubbles: true, cancelable: true};
    root.querySelector('.lazy-keys').dispatchEvent(new KeyboardEvent('keydown', key));
    while (results() === before) {
        if (stage.dataset.previews !== shown) times.preview ??= since();
        await new Promise(done => setTimeout(done, 4));
    }
    times.result = since();
    window.fetch = sent;
    root.querySelector('[data-testid=lazy-reject]').click();
    root.querySelector('[data-testid=lazy-undo]').click();
    while (results()) await new Promise(requestAnimationFrame);  // or the next edit would take their going for its end
    return times;
}"""


def edit_times(page: WebPage) -> dict[str, list[float]]:
    """Of ROUNDS edits after a first one, which loads the model."""
    page.evaluate(EDIT)
    taken: list[dict[str, Any]] = [page.evaluate(EDIT) for _ in range(ROUNDS)]
    return {name: [one[name] for one in taken] for name in ("queued", "preview", "result")}


def say(what: str, times: list[float], limit: float) -> None:
    print(f"{what:<58} {statistics.median(times):7.0f} ms   (limit {limit:g})", flush=True)


def main() -> None:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit("no browser: install Chromium (on Debian: apt install chromium)")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0
    print(
        f"{os.cpu_count()} processors, load {load:.1f}; medians of {ROUNDS} edits on a warm server, frames as the best"
        " of three runs"
    )
    log = output("canvas") / "server.log"
    with throwaway(find_host(Path(sys.executable)), "canvas", log) as server, chromium_browser(program) as browser:
        for nodes_2 in (False, True):
            with WebPage.open(browser, server.client, nodes_2=nodes_2) as page:
                print("Nodes 2.0" if nodes_2 else "classic")
                canvas = CanvasPage(page)
                page.open_template("8_lazy_canvas")
                canvas.ready()
                times = edit_times(page)
                tokens = canvas.part("status").inner_text()
                say("  pen lifted to prompt queued", times["queued"], LIMITS["queued"])
                say("  to the first preview in the hole", times["preview"], LIMITS["preview"])
                say("  to the result", times["result"], LIMITS["result"])
                canvas.load(quick_graph(2048, 2048))
                painting, rest = frame_times(page)
                say("  frame, 2048 x 2048, 95th percentile while painting", [painting], LIMITS["frame"])
                print(f"  the same page at rest {rest:.1f} ms; {tokens}")


if __name__ == "__main__":
    main()
