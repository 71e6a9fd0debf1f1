"""`python dev.py run -- python tests/canvas_pictures.py`: the README's five edits as an animation, help pages'
pictures, thumbnails.

All of it is the real page with the shipped model; nothing is drawn by hand.
"""

from __future__ import annotations

import io
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conftest import BROWSERS  # first: it makes the pack's folders importable

# isort: split
from PIL import Image

from canvas_page import CanvasPage
from devtools.client import Client
from devtools.host import find_host
from devtools.places import ROOT, output
from devtools.server import throwaway
from templates import graph_of
from webpage import WebPage, chromium_browser

PHOTOGRAPH = ROOT / "tests" / "data" / "coffee.jpg"
SIDE = 384  # px of the canvas
ANIMATION, WIDTH = ROOT / "docs" / "lazy_canvas.webp", 640
THUMBNAIL = 512
# Middle and radius of the hole, shares of the canvas; what goes there; seed.
EDITS = [
    ((0.47, 0.30), 0.05, "red apple", 11),
    ((0.14, 0.16), 0.05, "lemon", 12),
    ((0.86, 0.15), 0.06, "sunflower", 13),
    ((0.14, 0.82), 0.07, "strawberry", 14),
    ((0.85, 0.84), 0.06, "panda", 15),
]


@dataclass
class Film:
    """Frames of the node on the page, and how long each is shown."""

    canvas: CanvasPage
    frames: list[Image.Image] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def shoot(self, ms: int) -> Image.Image:
        picture = picture_of(self.canvas)
        self.frames.append(
            picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
        )
        self.times.append(ms)
        return picture

    def save(self, file: Path) -> None:
        first, *rest = self.frames
        first.save(file, save_all=True, append_images=rest, duration=self.times, loop=0, quality=72, method=5)
        print(f"{file.relative_to(ROOT)}: {len(self.frames)} frames, {file.stat().st_size / 2**20:.2f} MB")


def picture_of(canvas: CanvasPage) -> Image.Image:
    box = canvas.root.bounding_box()
    assert box
    margin = {"x": box["x"] - 8, "y": box["y"] - 8, "width": box["width"] + 16, "height": box["height"] + 16}
    return Image.open(io.BytesIO(canvas.page.screenshot(clip=margin))).convert("RGB")


def zigzag(middle: tuple[float, float], radius: float) -> list[tuple[float, float]]:
    x, y = middle
    rows = [-0.7, -0.25, 0.2, 0.65]
    return [
        (x + side * radius * 0.75, y + row * radius)
        for index, row in enumerate(rows)
        for side in ((-1, 1) if index % 2 == 0 else (1, -1))
    ]


def open_photograph(canvas: CanvasPage) -> None:
    photograph = io.BytesIO()
    Image.open(PHOTOGRAPH).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(photograph, "PNG")
    canvas.drop(photograph.getvalue(), "photograph.png")
    canvas.wait_saved("canvas_file")


def set_value(canvas: CanvasPage, part: str, value: object) -> None:
    canvas.part(part).evaluate(
        "(e, value) => { e.value = value; for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind,"
        " {bubbles: true})); }",
        str(value),
    )


def five_edits(canvas: CanvasPage) -> Image.Image:
    """-> a picture of a result that waits to be accepted, for the thumbnail."""
    film, waiting = Film(canvas), None
    film.shoot(900)
    for middle, radius, prompt, seed in EDITS:
        before = canvas.widget("canvas_file")
        set_value(canvas, "size", 0.72)
        points = zigzag(middle, radius)
        for end in (3, len(points)):
            canvas.stroke(points[:end] if end == 3 else points[2:])
            film.shoot(180 if end == 3 else 350)
        canvas.wait_saved()
        canvas.type(prompt)
        film.shoot(600)
        set_value(canvas, "seed", seed)
        canvas.root.locator(".lazy-stage").evaluate("e => { e.dataset.previews = 0; }")
        canvas.click("generate")
        canvas.page.wait_for_function("document.querySelector('.lazy-stage').dataset.previews > 0", timeout=240_000)
        film.shoot(350)
        canvas.wait_results()
        canvas.page.wait_for_timeout(400)
        waiting = film.shoot(800) if waiting is None else (film.shoot(800), waiting)[1]
        canvas.click("result")
        canvas.wait_saved("canvas_file", before)
        canvas.page.mouse.move(*canvas.stage()[:2])
        canvas.page.wait_for_timeout(400)
        film.shoot(500)
    film.shoot(2500)
    film.save(ANIMATION)
    picture_of(canvas).save(output("canvas") / "five_edits.png")
    assert waiting
    return waiting


def help_pictures(canvas: CanvasPage) -> None:
    """The painted mask with its tokens; the strip of three results; both in the help pages."""
    canvas.load(graph_of("8_lazy_canvas"))
    open_photograph(canvas)
    set_value(canvas, "size", 0.72)
    canvas.stroke(zigzag((0.47, 0.33), 0.12))
    canvas.click("grid")
    canvas.wait_saved()
    canvas.type("red apple")
    painted = picture_of(canvas)
    set_value(canvas, "seed", 21)
    canvas.click("grid")
    set_value(canvas, "seeds", 3)
    canvas.click("generate")
    canvas.wait_results(3)
    canvas.part("result").nth(1).hover()
    canvas.page.wait_for_timeout(500)
    results = picture_of(canvas)
    sheet = Image.new("RGB", (painted.width + results.width + 12, painted.height), "white")
    sheet.paste(painted)
    sheet.paste(results, (painted.width + 12, 0))
    sheet = sheet.resize((1280, round(sheet.height * 1280 / sheet.width)), Image.Resampling.LANCZOS)
    sheet.quantize(256).save(ROOT / "web" / "docs" / "LazyCanvas" / "loop.png", optimize=True)
    strip = canvas.part("results").locator("xpath=..").bounding_box()
    assert strip
    wide = {"x": strip["x"] - 10, "y": strip["y"] - 150, "width": strip["width"] + 160, "height": strip["height"] + 160}
    Image.open(io.BytesIO(canvas.page.screenshot(clip=wide))).convert("RGB").save(
        ROOT / "web" / "docs" / "LazyResult" / "results.png"
    )


def batch_picture(page: WebPage, client: Client) -> None:
    """Four edits of a folder in one call: Batch Edits and Lazy Decode Batch with their lines."""
    photograph = Image.open(PHOTOGRAPH).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    for number in range(4):
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (60 + 20 * number, 60, 180 + 20 * number, 180))
        for name, picture in ((f"{number}.png", photograph), (f"{number}_mask.png", mask)):
            picture.save(buffer := io.BytesIO(), "PNG")
            client.upload_image(name, buffer.getvalue(), "film")
    links = {"model": ["1", 0], "vae": ["1", 2]}
    widgets = {"steps": 0, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    widgets |= {"blend": "auto", "vae_decode": "lazy"}
    nodes = {
        "1": ("LazyModelLoader", {"model_name": "fluent-small.safetensors"}),
        "2": ("LazyBatchEdits", {"manifest": "film/", "first": 0, "count": 32}),
        "3": ("LazyEncodeContext", {**links, "image": ["2", 0], "mask": ["2", 1]}),
        "4": ("CLIPTextEncode", {"clip": ["1", 1], "text": "sunflower"}),
        "5": ("CLIPTextEncode", {"clip": ["1", 1], "text": ["2", 3]}),
        "6": (
            "LazyDecodeBatch",
            {**links, "context": ["3", 0], "positive": ["4", 0], "negative": ["5", 0], "seed": 3, **widgets},
        ),
        "7": ("PreviewImage", {"images": ["6", 0]}),
    }
    prompt = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in nodes.items()}
    page.page.reload()
    page.page.wait_for_function("window.app?.graph?.nodes !== undefined")
    page.page.evaluate("prompt => app.loadApiJson(prompt, 'batch')", prompt)
    page.run()
    page.page.wait_for_timeout(3000)
    page.page.evaluate("""() => {
        const place = {2: [0, 0], 6: [330, 0], 7: [680, 0]};
        for (const node of app.graph.nodes) {
            node.pos = place[node.id] ?? [-3000, 0];
            if (node.id == 7) node.size = [420, 430];
        }
        app.canvas.ds.scale = 1; app.canvas.ds.offset = [60, 90]; app.canvas.setDirty(true, true);
    }""")
    page.page.wait_for_timeout(1500)
    clip: Any = {"x": 40, "y": 40, "width": 1140, "height": 560}
    shot = Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB").quantize(128)
    shot.save(ROOT / "web" / "docs" / "LazyBatchEdits" / "batch.png", optimize=True)
    right = shot.crop((340, 0, *shot.size))
    right.save(ROOT / "web" / "docs" / "LazyDecodeBatch" / "decoded.png", optimize=True)


def thumbnail(picture: Image.Image, name: str) -> None:
    side = min(picture.size)
    square = picture.crop((0, 0, side, side)).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    square.save(ROOT / "workflows" / f"{name}.jpg", quality=90)


def painted_thumbnail(page: WebPage, name: str, middle: tuple[float, float], radius: float, prompt: str) -> None:
    """Of a workflow whose checkpoint is not here: the hole is painted, and nothing generated is shown."""
    page.open_template(name)
    page.close_missing_models()
    canvas = CanvasPage(page)
    canvas.ready()
    open_photograph(canvas)
    set_value(canvas, "size", 0.72)
    canvas.stroke(zigzag(middle, radius))
    canvas.click("grid")
    canvas.wait_saved()
    canvas.type(prompt)
    canvas.page.mouse.move(*canvas.stage()[:2])
    canvas.page.wait_for_timeout(500)
    thumbnail(picture_of(canvas), name)


def main() -> None:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        sys.exit("no browser: install Chromium (on Debian: apt install chromium)")
    log = output("canvas") / "server.log"
    wanted = sys.argv[1:] or ["animation", "help", "batch", "thumbnails"]
    with throwaway(find_host(Path(sys.executable)), "canvas", log) as server, chromium_browser(program) as browser:
        with WebPage.open(browser, server.client, nodes_2=True) as page:
            canvas = CanvasPage(page)
            if "animation" in wanted:
                page.open_template("8_lazy_canvas")
                canvas.ready()
                open_photograph(canvas)
                thumbnail(five_edits(canvas), "8_lazy_canvas")
            if "help" in wanted:
                help_pictures(canvas)
        if "batch" in wanted:
            with WebPage.open(browser, server.client) as page:
                batch_picture(page, server.client)
        if "thumbnails" in wanted:
            with WebPage.open(browser, server.client, nodes_2=True) as page:
                painted_thumbnail(page, "9_lazy_canvas_flux_fill", (0.47, 0.33), 0.15, "a red apple")
                painted_thumbnail(page, "10_lazy_canvas_qwen_edit", (0.5, 0.45), 0.3, "make the cup blue")
                asked = "replace the cup with the figure of image 2"
                painted_thumbnail(page, "12_lazy_canvas_qwen_edit_2511", (0.5, 0.5), 0.38, asked)
                painted_thumbnail(page, "13_lazy_canvas_flux2_klein", (0.5, 0.55), 0.42, asked)


if __name__ == "__main__":
    main()
