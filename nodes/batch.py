from __future__ import annotations

import time
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..lazy_core.context import Context
from ..lazy_core.context_pack import packed, packs_of
from ..lazy_core.manifest.fields import Edit
from ..lazy_core.manifest.pictures import read_canvas
from . import messages
from .checks import explains_memory
from .context import ContextType
from .editing import VAE_DECODES, Terms, as_image, check_links, decode, told_of, widgets
from .engines import Engine, engine_of
from .host import batch_files
from .host.conditioning import one_plain_prompt, prompts_of_images
from .host.memory import unload_other_models
from .host.patches import examine
from .host.sampling import DRAW_NO_NOISE
from .host.timing import Timing
from .images import to_bhwc
from .memory import retry_when_out_of_memory
from .schema import Choice, schema


class LazyBatchEdits(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["batch", "manifest", "folder of images", "prompts from file", "video frames", "批量", "批处理", "清单"],
            node_id="LazyBatchEdits",
            display_name="Batch Edits",
            category="lazydiffusion",
            description=(
                "Reads many edits from a manifest or a folder in ComfyUI's input folder and hands them on as lists:"
                " pictures, masks, prompts, seeds, names."
            ),
            inputs=[
                Choice(
                    "manifest",
                    options=batch_files.names(),
                    tooltip=(
                        "A .jsonl, .csv or .parquet file in ComfyUI's input folder, or a folder there of pictures with"
                        " NAME_mask.png beside them."
                    ),
                ),
                io.Int.Input("first", default=0, min=0, max=1_000_000, tooltip="How many edits are left out at first."),
                io.Int.Input(
                    "count",
                    default=32,
                    min=1,
                    max=10_000,
                    tooltip="How many edits are read at most; all their pictures are in memory together.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", is_output_list=True, tooltip="The canvases."),
                io.Mask.Output(display_name="MASK", is_output_list=True, tooltip="Their masks, 1 = hole."),
                io.String.Output(display_name="prompt", is_output_list=True, tooltip="For CLIP Text Encode."),
                io.String.Output(display_name="negative", is_output_list=True, tooltip="For CLIP Text Encode."),
                io.Int.Output(display_name="seed", is_output_list=True, tooltip="For Lazy Decode Batch."),
                io.String.Output(display_name="name", is_output_list=True, tooltip="For Save Image's filename_prefix."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, manifest: str, first: int, count: int) -> str:
        """A manifest or picture that changed is read again."""
        return f"{batch_files.fingerprint(manifest)} {first} {count}"

    @classmethod
    @explains_memory
    def execute(cls, manifest: str, first: int, count: int) -> io.NodeOutput:
        edits = batch_files.edits_of(manifest)
        chosen = edits[first : first + count]
        if not chosen:
            raise ValueError(f"first is {first}, but {manifest} has {len(edits)} edits. Lower it.")
        images, masks, odd = [], [], []
        for edit in chosen:
            canvas = read_canvas(edit)
            picture = canvas.image if canvas.alpha is None else torch.cat([canvas.image, canvas.alpha[None]])
            images.append(to_bhwc(picture[None]))
            masks.append(canvas.mask[None])
            odd += [edit.output] if canvas.warning else []
        said = [messages.message("part_of_manifest", count=len(chosen), all=len(edits))] * (len(chosen) < len(edits))
        unused = [
            name for name, usual in LEFT_TO_DECODE.items() if any(getattr(edit, name) != usual for edit in chosen)
        ]
        said += [messages.message("fields_not_used", names=unused)] * bool(unused)
        said += [messages.message("odd_masks", names=odd)] * bool(odd)
        words = ([getattr(edit, name) for edit in chosen] for name in ("prompt", "negative", "seed"))
        names = [edit.output.removesuffix(".png") for edit in chosen]
        ui = {"lazydiffusion": [{"edits": len(chosen), "messages": said}]}
        return io.NodeOutput(images, masks, *words, names, ui=ui)


LEFT_TO_DECODE = {
    each.name: each.default
    for each in fields(Edit)
    if each.name in ("steps", "cfg", "denoise", "blend", "sketch", "sketch_strength")
}
"""What a manifest may say and this node's outputs do not: Lazy Decode Batch has widgets for it."""


class LazyDecodeBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["batch", "inpaint", "list", "many edits", "video frames", "批量", "批处理", "局部重绘"],
            node_id="LazyDecodeBatch",
            display_name="Lazy Decode Batch",
            category="lazydiffusion",
            description=(
                "Lazy Decode for lists: edits of one size and with the same settings are decoded together, each with"
                " its own prompt and seed."
            ),
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The model that made the CONTEXTs."),
                io.Vae.Input("vae", tooltip="The VAE that made the CONTEXTs."),
                ContextType.Input("context", tooltip="A list of them, from Encode Context."),
                io.Conditioning.Input("positive", tooltip="What each hole should show: one for all, or a list."),
                io.Conditioning.Input("negative", tooltip="What it should not show: one for all, or a list."),
                *widgets(
                    "One for all, or a list.", "Those that draw noise of their own decode one edit after the other."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", is_output_list=True, tooltip="The edited canvases, in order."),
                io.Latent.Output(display_name="LATENT", is_output_list=True, tooltip="Their latents, before blending."),
            ],
        )

    @classmethod
    @explains_memory
    def execute(cls, model: list, vae: list, **lists: list) -> Any:
        begin = time.perf_counter()
        lists.setdefault("vae_decode", [VAE_DECODES[0]])
        check_lists(model=model, vae=vae, **lists)
        count = max(map(len, lists.values()))
        edits = [{name: each[min(number, len(each) - 1)] for name, each in lists.items()} for number in range(count)]
        engine, timing = engine_of(model[0]), Timing()
        said: dict[str, messages.Message] = {}
        for edit in edits:  # all of them are looked at before one is made
            prompts = edit["positive"], edit["negative"]
            check_links(model[0], vae[0], *prompts)
            edit["context"] = known = engine.check(edit["context"], vae[0])
            edit["terms"] = Terms(**{name: edit[name] for name in Terms.__dataclass_fields__}).checked()
            found = examine(model[0], *prompts, known.stock and known.stock.reuse, known.strength is not None)
            found += told_of(engine, known, *prompts, edit["denoise"])
            said |= {str(each): each for each in found}
        settings = [edit["terms"] if can_share(edit) else None for edit in edits]
        packs = packs_of([edit["context"] for edit in edits], settings)
        done: dict[int, tuple[Tensor, Tensor]] = {}
        for pack in packs:
            own = [edits[number] for number in pack]
            made = retry_when_out_of_memory(
                "Lazy Decode Batch",
                partial(decoded, engine, vae[0], own, timing),
                lambda own=own: [each for edit in own for each in decoded(engine, vae[0], [edit], timing)],
                unload_other_models,
            )
            done |= dict(zip(pack, made, strict=True))
        figures = {"edits": count, "calls": len(packs), "total_ms": 1000 * (time.perf_counter() - begin)}
        figures |= {"messages": list(said.values())}
        images, latents = zip(*(done[number] for number in range(count)), strict=True)
        return io.NodeOutput(list(images), [{"samples": each} for each in latents], ui={"lazydiffusion": [figures]})


def check_lists(**lists: list) -> None:
    """Raises ValueError for an empty list, and for several models or VAEs."""
    for name, values in lists.items():
        if not values:
            raise ValueError(f"{name} is an empty list, expected at least one. Connect something that makes one.")
        if name in ("model", "vae") and len(values) > 1:
            raise ValueError(f"{name} is a list of {len(values)}, expected one for all edits. Use a node for each.")


def can_share(edit: dict[str, Any]) -> bool:
    """Whether an edit is in a call what it is by itself."""
    terms: Terms = edit["terms"]
    plain = one_plain_prompt(edit["positive"]) and one_plain_prompt(edit["negative"])
    return plain and terms.sampler_name in DRAW_NO_NOISE and terms.denoise > 0


def decoded(engine: Engine, vae: Any, edits: list[dict[str, Any]], timing: Timing) -> list[tuple[Tensor, Tensor]]:
    """Make edits in one call -> of each its IMAGE [B, H, W, C] and latent [B, C, h, w]."""
    contexts: list[Context] = [edit["context"] for edit in edits]
    terms = edits[0]["terms"]
    prompts = [[edit[name] for edit in edits] for name in ("positive", "negative")]
    seeds = [edit["seed"] for edit in edits]
    if len(edits) == 1:
        result, latent = decode(engine, vae, contexts[0], prompts[0][0], prompts[1][0], seeds[0], terms, timing)
        return [(as_image(result, contexts[0], terms), latent)]
    positive, negative = map(prompts_of_images, prompts)
    result, latent = decode(engine, vae, packed(contexts), positive, negative, seeds, terms, timing)
    images = zip(result.split(1), latent.split(1), contexts, strict=True)
    return [(as_image(image, context, terms), part) for image, part, context in images]
