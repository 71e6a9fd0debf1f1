"""An edit as a ComfyUI workflow: our own, or the user's with picture, mask, prompt and seed put into it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lazy_core.manifest.fields import Edit

from .comfy import Prompt

PICTURE, HOLE, SKETCH, SHOWN = "batch_image", "batch_mask", "batch_sketch", "batch_result"
OUTPUTS = ("SaveImage", "SaveImageAdvanced", "PreviewImage", "LazyResult")  # the first kind that there is


def load_workflow(path: Path) -> Prompt:
    """A workflow in the API's format (File, Export (API)). Raises ValueError for another file."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read as a workflow: {error}") from error
    nodes = workflow.values() if isinstance(workflow, dict) else []
    if "nodes" in (workflow if isinstance(workflow, dict) else {}):
        raise ValueError(f"{path.name} is saved for the page: use File, Export (API).")
    kinds = [node.get("class_type") for node in nodes if isinstance(node, dict)]
    if kinds.count("LazyEncodeContext") != 1 or kinds.count("LazyDecode") != 1:
        raise ValueError(f"{path.name} has no single Encode Context and Lazy Decode: that is what a batch fills.")
    return workflow


def own_workflow(model: str) -> Prompt:
    """One edit with a LazyDiffusion checkpoint."""
    links = {"model": ["model", 0], "vae": ["model", 2], "context": ["context", 0]}
    prompts = {name: [name, 0] for name in ("positive", "negative")}
    widgets = {"seed": 0, "steps": 0, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
    return {
        "model": node("LazyModelLoader", model_name=model),
        **{name: node("CLIPTextEncode", text="", clip=["model", 1]) for name in prompts},
        "context": node("LazyEncodeContext", model=["model", 0], vae=["model", 2]),
        "decode": node("LazyDecode", **links, **prompts, **widgets, denoise=1.0, blend="poisson"),
    }


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def filled(workflow: Prompt, edit: Edit, files: dict[str, str], own: bool) -> tuple[Prompt, str]:
    """The workflow with an edit in it, and the node that puts the result out.

    `files` are the server's names of PICTURE, HOLE and SKETCH. Of a user's own workflow (not `own`) steps, guidance,
    denoise and blend stay what they are there.
    """
    prompt = copy.deepcopy(workflow)
    encode, decode = (only(prompt, kind) for kind in ("LazyEncodeContext", "LazyDecode"))
    prompt[PICTURE] = node("LoadImage", image=files[PICTURE])
    prompt[HOLE] = node("LoadImageMask", image=files[HOLE], channel="red")
    put_in_place_of(prompt, prompt[encode]["inputs"].get("image"))
    prompt[encode]["inputs"]["image"] = prompt[decode]["inputs"]["image"] = [PICTURE, 0]
    holder = encode
    while (
        is_link(source := prompt[holder]["inputs"].get("mask")) and "mask" in prompt.get(source[0], node(""))["inputs"]
    ):
        holder = source[0]  # Mask Dilate and its like stay between
    prompt[holder]["inputs"]["mask"] = [HOLE, 0]
    set_text(prompt, decode, "positive", edit.prompt)
    if edit.negative or own:
        set_text(prompt, decode, "negative", edit.negative)
    inputs = prompt[decode]["inputs"]
    inputs["seed"] = edit.seed
    if own:
        inputs |= {"steps": edit.steps, "cfg": edit.cfg, "denoise": edit.denoise, "blend": edit.blend}
    without_sketch(prompt)
    if edit.sketch is not None:
        prompt["batch_sketch_file"] = node("LoadImage", image=files[SKETCH])
        known = {
            "context": inputs["context"],
            "vae": prompt[encode]["inputs"]["vae"],
            "sketch": ["batch_sketch_file", 0],
        }
        prompt[SKETCH] = node("LazySketchCondition", **known, strength=edit.sketch_strength)
        inputs["context"] = [SKETCH, 0]
    shown = [
        name for name, each in prompt.items() if each["class_type"] in OUTPUTS and decode in upstream(prompt, name)
    ]
    if not shown:
        prompt[SHOWN] = node("PreviewImage", images=[decode, 0])
    return prompt, min(shown, key=lambda name: OUTPUTS.index(prompt[name]["class_type"]), default=SHOWN)


def put_in_place_of(prompt: Prompt, canvas: Any) -> None:
    """Whoever else saw the canvas (an editor's reference, the node that shows the result) sees the edit's picture.

    A Lazy Canvas goes, with what only a page needs of it.
    """
    if not is_link(canvas):
        return
    source, output = canvas
    painted = prompt.get(source, {}).get("class_type") == "LazyCanvas"
    places = {0: [PICTURE, 0], 1: [HOLE, 0], 2: [PICTURE, 0]} if painted else {output: [PICTURE, 0]}
    for each in prompt.values():
        for name, value in list(each["inputs"].items()):
            if not is_link(value) or value[0] != source:
                continue
            if value[1] in places:
                each["inputs"][name] = places[value[1]]
            elif painted:
                del each["inputs"][name]  # EDIT: its own mask would hide the result
    if painted:
        del prompt[source]


def without_sketch(prompt: Prompt) -> None:
    """Take sketches out: they belong to the workflow's own canvas."""
    for name in [name for name, each in prompt.items() if each["class_type"] == "LazySketchCondition"]:
        source = prompt.pop(name)["inputs"]["context"]
        for each in prompt.values():
            each["inputs"] |= {key: source for key, value in each["inputs"].items() if value == [name, 0]}


def upstream(prompt: Prompt, end: str) -> Iterator[str]:
    """The nodes that `end` is made of, itself first, the nearest before those further away."""
    waiting, seen = [end], set()
    while waiting:
        name = waiting.pop(0)
        if name not in seen and name in prompt:
            seen.add(name)
            yield name
            waiting += [value[0] for value in prompt[name]["inputs"].values() if is_link(value)]


def only(prompt: Prompt, kind: str) -> str:
    """The id of the one node of a kind."""
    [found] = [name for name, each in prompt.items() if each["class_type"] == kind]
    return found


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def set_text(prompt: Prompt, decode: str, which: str, text: str) -> None:
    """Put a text into the nearest node upstream of Lazy Decode's prompt that has one. Raises ValueError for none."""
    start, positive = (prompt[decode]["inputs"].get(name) for name in (which, "positive"))
    for name in upstream(prompt, start[0]) if is_link(start) else ():
        inputs = prompt[name]["inputs"]
        for field in ("text", "prompt"):
            if isinstance(inputs.get(field), str):
                if which == "negative" and is_link(positive) and name in upstream(prompt, positive[0]):
                    raise ValueError("the workflow's negative prompt is made of its positive one: leave `negative` out")
                inputs[field] = text
                return
    if text:
        raise ValueError(f"the workflow has no text to put the {which} prompt into")
