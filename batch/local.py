"""Edits in this process, with a LazyDiffusion checkpoint and no ComfyUI: a pack is one call of encoder and decoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from lazy_core.context_pack import taken
from lazy_core.downscale import downscale_for, known_side
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.manifest.fields import Edit
from lazy_core.manifest.pictures import Canvas, png_of, read_canvas
from lazy_core.masks import holes_of, largest_side
from lazy_core.sketch import add_sketch

from .plan import Pack, Task

MODEL = Path(__file__).parent.parent / "models" / "fluent-small.safetensors"
Made = tuple[Task, bytes | Exception]
"""A task, and its PNG or what went wrong."""


def made_by(identity: str) -> str:
    """What results of a checkpoint depend on beside the edits, in whichever process they are made."""
    return f"lazydiffusion local {identity}"


class LocalExecutor:
    """Makes packs with the checkpoint `model` on `device`. Holds nothing between packs but the model."""

    def __init__(self, model: Path = MODEL, device: str = "cpu", threads: int | None = None):
        if threads:
            torch.set_num_threads(threads)
        self.editor = LazyEditor.load(model, device)
        self.warn: Callable[[str], None] = print
        self.warned: set[str] = set()

    @property
    def made_by(self) -> str:
        """What results depend on beside the edits."""
        return made_by(self.editor.identity)

    def run(self, packs: list[Pack], missing: set[str]) -> Iterator[tuple[Task, bytes | Exception, float]]:
        """Make packs one after the other -> the results that are missing, and how many seconds each took."""
        for pack in packs:
            begin = time.monotonic()
            for task, result in self.make(pack, missing):
                if task.edit.output in missing:
                    yield task, result, (time.monotonic() - begin) / len(pack.tasks)

    def close(self) -> None:
        """Nothing stays open."""

    def make(self, pack: Pack, missing: set[str]) -> Iterator[Made]:
        """The results of a pack; what cannot be read is an error of its own edit."""
        canvases: list[tuple[Task, Canvas]] = []
        read: dict[tuple, Canvas] = {}
        for task in pack.tasks:
            edit = task.edit
            pictures = edit.image, edit.mask, edit.box, edit.sketch
            try:
                if pictures not in read:
                    read[pictures] = read_canvas(edit)
            except (OSError, ValueError) as error:
                yield task, error
                continue
            canvases.append((task, read[pictures]))
            if task.edit.output in missing:
                self.tell(task.edit, canvases[-1][1])
        for own in parts_by(self.downscale, canvases):
            yield from self.attempt(own)

    def attempt(self, canvases: list[tuple[Task, Canvas]]) -> Iterator[Made]:
        """Edits of canvases of one size, which the model sees as many times smaller, or what went wrong with each."""
        try:
            made = list(self.together(canvases))
        except Exception as error:  # out of memory, most often: each by itself may fit, and else the fault is its own
            if len(canvases) == 1:
                yield canvases[0][0], error
            else:
                for each in canvases:
                    yield from self.alone(*each)
        else:
            yield from made

    def tell(self, edit: Edit, canvas: Canvas) -> None:
        """Warn of what an edit will lack, as the nodes do; of the same words once."""
        if canvas.warning is not None:
            self.warn(f"{edit.output}: {canvas.warning}")
        unknown = self.editor.tokenizer.prompt([(edit.prompt, 1.0)]).unknown
        height, width = canvas.mask.shape
        side, times = largest_side(canvas.mask[None] > 0), self.downscale(canvas)
        known = known_side(Grid(height, width, 1, 1, times), self.editor.model.config)
        found = []
        if unknown:
            found.append((edit.prompt, f"the model does not know {', '.join(unknown)}"))
        if not edit.prompt.strip():
            found.append((edit.prompt, "no prompt: what comes is up to the model"))
        sentence = f"a hole of {side} px is drawn {times} times smaller and enlarged: smaller ones come out sharper"
        if known is not None and side > known:
            sentence = f"a hole of {side} px, long and thin or beside a small one, is larger than the {known} px that"
            sentence += " the model knows: make it or the picture smaller"
        if times > 1 or (known is not None and side > known):
            found.append((f"{edit.image} {edit.mask} {edit.box}", sentence))
        for about, sentence in found:
            if f"{about} {sentence}" not in self.warned:
                self.warned.add(f"{about} {sentence}")
                self.warn(f"{edit.output}: {sentence}")

    def downscale(self, canvas: Canvas) -> int:
        """How many times smaller the model sees a canvas."""
        return downscale_for(holes_of(canvas.mask[None])[0], self.editor.model.config.enlarged_from)

    def alone(self, task: Task, canvas: Canvas) -> Iterator[Made]:
        """One edit, or what went wrong with it."""
        try:
            yield from self.together([(task, canvas)])
        except Exception as error:
            yield task, error

    @torch.inference_mode()
    def together(self, canvases: list[tuple[Task, Canvas]]) -> Iterator[Made]:
        """Canvases of one size -> their edits; none where there are none. A canvas that several edits share is encoded
        once.
        """
        if not canvases:
            return
        edits = [task.edit for task, _ in canvases]
        distinct = {id(canvas): canvas for _, canvas in canvases}
        image, mask = (torch.stack([getattr(each, name) for each in distinct.values()]) for name in ("image", "mask"))
        context = taken(self.editor.encode(image, mask), [list(distinct).index(id(canvas)) for _, canvas in canvases])
        if edits[0].sketch is not None:
            sketch = torch.stack([each.sketch for _, each in canvases if each.sketch is not None])
            context = add_sketch(context, sketch, edits[0].sketch_strength, self.editor.to_latent)
        result = self.editor.decode(
            context,
            [edit.prompt for edit in edits],
            [edit.seed for edit in edits],
            edits[0].steps or self.editor.model.config.steps,
            edits[0].cfg,
            edits[0].denoise,
            edits[0].blend,  # type: ignore[arg-type]
            negative=[edit.negative for edit in edits],
        )
        for (task, canvas), one in zip(canvases, result, strict=True):
            yield task, png_of(one, canvas, task.edit)


def parts_by(kind: Callable[[Canvas], int], canvases: list[tuple[Task, Canvas]]) -> list[list[tuple[Task, Canvas]]]:
    """Split canvases into those of one kind each: none changes what becomes of another."""
    found: dict[int, list[tuple[Task, Canvas]]] = {}
    for task, canvas in canvases:
        found.setdefault(kind(canvas), []).append((task, canvas))
    return list(found.values())
