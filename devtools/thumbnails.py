"""`python dev.py run -- python -m devtools.thumbnails [NAME ...]`: the shipped workflows' thumbnails, from what they
give in ComfyUI.

Workflows of stock checkpoints are left out: their files are not here.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from .client import Client
from .demo import edits_of, fetch, load_workflow, only, save, save_edit
from .environment import tell
from .host import find_host
from .places import ROOT, output
from .server import throwaway

SIDE, INSET, GAP = 512, 128, 12
PAINTED_AT, PAINTED_RADIUS = ((640, 270), (130, 610)), 90  # px, in the host's example.png


def main() -> int:
    makers = {
        "1_first_edit": first_edit,
        "2_edit_after_edit": edit_after_edit,
        "3_sketch": sketch,
        "4_one_context_many_edits": many_edits,
    }
    makers |= {"11_paint_and_paint_again": painted, "14_a_prompt_for_each_hole": result_alone}
    wanted = sys.argv[1:] or list(makers)
    with throwaway(find_host(Path(sys.executable)), "thumbnails", output("thumbnails") / "server.log") as server:
        for name, make in ((name, makers[name]) for name in wanted):
            make(server.client, name).save(ROOT / "workflows" / f"{name}.jpg", quality=90)
            tell(f"workflows/{name}.jpg")
    return 0


def first_edit(client: Client, name: str) -> Image.Image:
    """The result, and canvas and mask below."""
    canvas, mask, result = pictures(client, name)[0]
    return with_insets(result, [canvas, mask], low=True)


def result_alone(client: Client, name: str) -> Image.Image:
    return with_insets(pictures(client, name)[0][2], [])


def edit_after_edit(client: Client, name: str) -> Image.Image:
    """The last result, and those before it above."""
    *earlier, last = [result for _, _, result in pictures(client, name)]
    return with_insets(last, earlier, side=INSET * 5 // 8)


def sketch(client: Client, name: str) -> Image.Image:
    prompt = load_workflow(name)
    drawn = prompt[only(prompt, "LazySketchCondition")]["inputs"]["sketch"]
    save(prompt, "sketch", drawn)
    save(prompt, "result", [only(prompt, "LazyDecode"), 0])
    outputs = client.run(prompt)
    return with_insets(opened(fetch(client, outputs, "result")), [opened(fetch(client, outputs, "sketch"))])


def many_edits(client: Client, name: str) -> Image.Image:
    """All results around their holes, two in a row."""
    edits = pictures(client, name)
    rows = len(edits) // 2
    sheet = Image.new("RGB", (SIDE, SIDE))
    for index, (_, mask, result) in enumerate(edits):
        left, top, right, bottom = mask.convert("L").getbbox() or (0, 0, *mask.size)
        middle = ((left + right) / 2 / mask.width, (top + bottom) / 2 / mask.height)
        y = SIDE * (index // 2) // rows
        cell = (SIDE // 2, SIDE * (index // 2 + 1) // rows - y)
        sheet.paste(
            ImageOps.fit(result, cell, Image.Resampling.LANCZOS, centering=middle), (SIDE // 2 * (index % 2), y)
        )
    return sheet


def painted(client: Client, name: str) -> Image.Image:
    """The last result of edits whose masks are discs, painted as the MaskEditor does it: into the alpha channel of the
    host's picture.
    """
    picture = Image.open(find_host(Path(sys.executable)) / "input" / "example.png").convert("RGB")
    prompt = load_workflow(name)
    loads = [node["inputs"] for node in prompt.values() if node["class_type"] == "LoadImage"]
    for index, (inputs, middle) in enumerate(zip(loads, PAINTED_AT, strict=True)):
        kept = Image.new("L", picture.size, 255)
        ImageDraw.Draw(kept).circle(middle, PAINTED_RADIUS, fill=0)
        file = io.BytesIO()
        Image.merge("RGBA", (*picture.split(), kept)).save(file, "PNG")
        inputs["image"] = client.upload_image(f"painted {index}.png", file.getvalue())
    save(prompt, "result", list(edits_of(prompt))[-1][2])
    return with_insets(opened(fetch(client, client.run(prompt), "result")), [picture])


def pictures(client: Client, name: str) -> list[tuple[Image.Image, Image.Image, Image.Image]]:
    """Canvas, mask and result of each edit of a workflow, as it is shipped."""
    prompt = load_workflow(name)
    edits = list(edits_of(prompt))
    for index, edit in enumerate(edits):
        save_edit(prompt, edit, f" {index}")
    outputs = client.run(prompt)
    read = lambda kind, index: opened(fetch(client, outputs, f"{kind} {index}"))  # noqa: E731
    return [(read("canvas", i), read("mask", i), read("result", i)) for i in range(len(edits))]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def with_insets(picture: Image.Image, insets: list[Image.Image], side: int = INSET, low: bool = False) -> Image.Image:
    """[SIDE, SIDE] with small pictures in white frames in a row at its upper, or its lower, left corner."""
    sheet = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    for index, inset in enumerate(insets):
        framed = ImageOps.expand(inset.resize((side - 4, side - 4), Image.Resampling.LANCZOS), 2, "white")
        sheet.paste(framed, (GAP + index * (side + GAP), SIDE - GAP - side if low else GAP))
    return sheet


if __name__ == "__main__":
    raise SystemExit(main())
