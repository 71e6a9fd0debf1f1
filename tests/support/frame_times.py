"""How long the page takes for a frame, at rest and while somebody paints on the Lazy Canvas."""

from __future__ import annotations

from webpage import WebPage

# Frames of the page while a stroke goes round (`paint`) or nothing happens -> ms, the 95th percentile.
FRAMES = """async ({paint, steps}) => {
    const frames = []; let last = performance.now(), on = true;
    const tick = now => { frames.push(now - last); last = now; if (on) requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
    const frame = document.querySelector('.lazy-frame'), box = document.querySelector('.lazy-stage').getBoundingClientRect();
    const at = (type, x, y) => paint && frame.dispatchEvent(new PointerEvent(type, {bubbles: true, cancelable: true, pointerId: 1,
        pointerType: 'mouse', isPrimary: true, button: 0, buttons: 1,
        clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
    frame.setPointerCapture = () => {};
    at('pointerdown', 0.2, 0.2);
    for (let i = 0; i < steps; i++) {
        await new Promise(requestAnimationFrame);
        at('pointermove', 0.5 + 0.3 * Math.cos(i / 6), 0.5 + 0.3 * Math.sin(i / 4));
    }
    at('pointerup', 0.5, 0.5);
    on = false;
    frames.sort((a, b) => a - b);
    return frames[Math.floor(0.95 * frames.length)];
}"""


def frame_times(page: WebPage, rounds: int = 3) -> tuple[float, float]:
    """-> the 95th percentile of frame times while painting and at rest, ms: the best of `rounds`, in turn."""
    taken = [[page.evaluate(FRAMES, {"paint": paint, "steps": 60}) for paint in (True, False)] for _ in range(rounds)]
    return min(painting for painting, _ in taken), min(rest for _, rest in taken)
