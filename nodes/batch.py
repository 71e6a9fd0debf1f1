from __future__ import annotations

import time
from typing import Any

import torch
from comfy_api.latest import io

from ..lazy_core.context import Context
from ..lazy_core.context_pack import packed, packs_of
from ..lazy_core.manifest.pictures import read_canvas
from . import messages
from .checks import explains_memory
from .context import ContextType
from .editing import AUTO_BLENDS, VAE_DECODES, Terms, check_links, decode
from .engines import Engine, engine_of
from .host import batch_files
from .host.conditioning import one_plain_prompt, prompts_of_images
from .host.patches import examine
from .host.sampling import DRAW_NO_NOISE, SAMPLERS, SCHEDULERS
from .host.timing import Timing
from .images import to_bhwc, with_alpha
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
        images, masks = [], []
        for edit in chosen:
            canvas = read_canvas(edit)
            picture = canvas.image if canvas.alpha is None else torch.cat([canvas.image, canvas.alpha[None]])
            images.append(to_bhwc(picture[None]))
            masks.append(canvas.mask[None])
        said = [messages.message("part_of_manifest", count=len(chosen), all=len(edits))]
        ui = {"lazydiffusion": [{"edits": len(chosen), "messages": said if len(chosen) < len(edits) else []}]}
        words = ([getattr(edit, name) for edit in chosen] for name in ("prompt", "negative", "seed"))
        names = [edit.output.removesuffix(".png") for edit in chosen]
        return io.NodeOutput(images, masks, *words, names, ui=ui)


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
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="One for all, or a list.",
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="Denoising steps. 0: as many as suit the model."
                ),
                io.Float.Input("cfg", default=3.0, min=0.0, max=100.0, step=0.1, tooltip="How strongly prompts count."),
                Choice(
                    "sampler_name",
                    options=SAMPLERS,
                    default="euler",
                    tooltip="Those that draw noise of their own decode one edit after the other.",
                ),
                Choice("scheduler", options=SCHEDULERS, default="simple", tooltip="Any of the host's schedulers."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, the hole's old content shows through.",
                ),
                Choice("blend", options=list(AUTO_BLENDS), default="auto", tooltip="As in Lazy Decode."),
                Choice("vae_decode", options=list(VAE_DECODES), default="lazy", tooltip="As in Lazy Decode."),
            ],
            outputs=[
                io.Image.Output(display_name="IMAGE", is_output_list=True, tooltip="The edited canvases, in order."),
                io.Latent.Output(display_name="LATENT", is_output_list=True, tooltip="Their latents, before blending."),
            ],
        )

    @classmethod
    @explains_memory
    def execute(cls, model: list, vae: list, context: list, positive: list, negative: list, **widgets: list) -> Any:
        begin, count = time.perf_counter(), max(map(len, (context, positive, negative, widgets["seed"])))
        lists = {"context": context, "positive": positive, "negative": negative, **widgets}
        edits = [{name: each[min(number, len(each) - 1)] for name, each in lists.items()} for number in range(count)]
        for edit in edits:
            check_links(model[0], vae[0], edit["positive"], edit["negative"])
        engine, seeds = engine_of(model[0]), [edit.pop("seed") for edit in edits]
        known = [engine.check(edit["context"], vae[0]) for edit in edits]
        terms = [Terms(**{name: edit[name] for name in Terms.__dataclass_fields__}).checked() for edit in edits]
        settings = [
            each if each.sampler_name in DRAW_NO_NOISE and each.denoise > 0 and plain(edit) else None
            for each, edit in zip(terms, edits, strict=True)
        ]
        packs = packs_of(known, settings)
        done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for pack in packs:
            prompts = [[edits[number][name] for number in pack] for name in ("positive", "negative")]
            done |= cls.decoded(engine, vae[0], pack, known, prompts, [seeds[each] for each in pack], terms[pack[0]])
        found = examine(model[0], positive[0], negative[0], known[0].stock and known[0].stock.reuse, False)
        figures = {"edits": count, "calls": len(packs), "total_ms": 1000 * (time.perf_counter() - begin)}
        figures |= {"messages": [*found, *messages.of_prompts(*positive, *negative)]}
        images, latents = zip(*(done[number] for number in range(count)), strict=True)
        return io.NodeOutput(list(images), [{"samples": each} for each in latents], ui={"lazydiffusion": [figures]})

    @classmethod
    def decoded(
        cls,
        engine: Engine,
        vae: Any,
        pack: list[int],
        known: list[Context],
        prompts: list[list],
        seeds: list[int],
        terms: Terms,
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """-> of each edit of a pack its image [B, H, W, C] and latent."""
        own = [known[number] for number in pack]
        if len(pack) == 1:
            positive, negative, seed, together = prompts[0][0], prompts[1][0], seeds[0], own[0]
        else:
            images = [len(each.image) for each in own]
            positive, negative = (prompts_of_images(each, images) for each in prompts)
            seed = [number for number, images in zip(seeds, images, strict=True) for _ in range(images)]
            together = packed(own)
        result, latent = decode(engine, vae, together, positive, negative, seed, terms, Timing())
        parts = [len(each.image) for each in own]
        return {
            number: (to_bhwc(with_alpha(image, context)), part)
            for number, image, part, context in zip(pack, result.split(parts), latent.split(parts), own, strict=True)
        }


def plain(edit: dict[str, Any]) -> bool:
    """Whether both prompts of an edit can be one of several in a call."""
    return one_plain_prompt(edit["positive"]) and one_plain_prompt(edit["negative"])
