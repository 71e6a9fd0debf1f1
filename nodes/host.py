"""The one file that knows ComfyUI's insides: MODEL, CLIP and VAE of our checkpoints, sampling, previews, model folders.

Everything else in `nodes/` uses public node API only. Written against ComfyUI 0.3.75; later hosts are handled where noted.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import comfyui_version
import folder_paths
import latent_preview
import node_helpers
import torch
from aiohttp import web
from comfy.cli_args import args as host_args
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ..lazy_core.attention import sdpa
from ..lazy_core.cache import content_key
from ..lazy_core.checkpoint import Checkpoint, check_keys, read_checkpoint
from ..lazy_core.config import LazyConfig
from ..lazy_core.context import Context
from ..lazy_core.diffusion.differential import joined, relative
from ..lazy_core.geometry import Grid
from ..lazy_core.networks.cuda_graphs import StepGraphs
from ..lazy_core.networks.decoder import Prepared
from ..lazy_core.networks.layers import Build
from ..lazy_core.networks.positions import window_coordinates
from ..lazy_core.networks.text_encoder import TextEncoder
from ..lazy_core.networks.transformer import LazyTransformer, store_for_few_rows
from ..lazy_core.pipeline import fill_hole
from ..lazy_core.text.tokenizer import SPECIAL, Tokenizer
from ..lazy_core.throughput import step_seconds
from ..lazy_core.tokens import from_strip, to_strip
from ..lazy_core.vae.tiny import TinyVAE
from .memory import leaner
from .patches import refuse_replaced
from .stock.families import family_of, supported

FOLDER = "lazydiffusion"
SHIPPED = Path(__file__).parent.parent / "models"
SAMPLERS: list[str] = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS: list[str] = comfy.samplers.KSampler.SCHEDULERS
USUAL_STEPS = 20


TESTED = ("0.3.75", "0.33.0")  # ComfyUI versions that all tests pass on


def report_version() -> None:
    """One line in the server's log, so that a report of a problem says what ran."""
    tested = " and ".join(TESTED)
    known = "" if comfyui_version.__version__ in TESTED else " This one was not."
    logging.info(f"LazyDiffusion: ComfyUI {comfyui_version.__version__}; tested with {tested}.{known}")


@cache
def checks_combos() -> bool:
    """Whether the host compares a value with the options of a COMBO itself, as newer ones do."""
    execution = sys.modules.get("execution")
    return execution is not None and "Combo.io_type" in inspect.getsource(execution.validate_inputs)


def free_memory() -> int:
    """Bytes of main memory that are left."""
    return int(mm.get_free_memory(torch.device("cpu")))


def where_there_is_room(size: int, device: torch.device) -> bool:
    """Whether so many bytes on `device` leave enough for a model's own work (a `lazy_core.kv.store.Place`)."""
    return device.type == "cpu" or mm.get_free_memory(device) - size > mm.minimum_inference_memory()


def in_main_memory(size: int, device: torch.device) -> bool:
    return False


def with_room_for(model: Any, shape: list[int], kept: int) -> list[int]:
    """A latent's shape [B, C, ..., h, w], so much higher that the host, making room for it, makes room for `kept` bytes as well.

    Other models have to go for that, but no part of this one: it would be brought back at every step. What does not fit
    beside it is kept in main memory (`where_there_is_room`).
    """
    device = model.load_device
    needed = model.model.memory_required([2 * shape[0], *shape[1:]])
    if device.type == "cpu" or not needed:
        return shape
    held = sum(each.model_loaded_memory() for each in mm.current_loaded_models if each.device == device)
    left = mm.get_free_memory(device) + held - model.model_size() - needed - mm.minimum_inference_memory()
    return [*shape[:-2], math.ceil(shape[-2] * (1 + min(kept, max(left, 0)) / needed)), shape[-1]]


def total_memory() -> int:
    """Bytes of main memory that the machine has."""
    return int(mm.total_ram * (1 << 20))


def give_memory_back() -> None:
    mm.soft_empty_cache(True)


def unload_other_models() -> None:
    """For a second try after memory ran out: everything goes, and what runs next is loaded again."""
    mm.unload_all_models()
    give_memory_back()


def when_freed(forget: Callable[[], None]) -> None:
    """Have `forget` called when somebody asks the host to free memory (the page's buttons, POST /free), as its own caches are."""

    @web.middleware
    async def watch(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        response = await handler(request)
        if request.method == "POST" and request.path in ("/free", "/api/free") and response.status == 200:
            forget()
        return response

    # Only where a server runs: its module is imported then, and is too much for whoever calls nodes without one.
    running = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if running is not None:
        running.app.middlewares.append(watch)


# -- model files ------------------------------------------------------------------------------------------------------
def register_model_folder() -> None:
    """`models/lazydiffusion/` beside the host's other model folders, then the pack's own `models/`; a user's extra paths are kept."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    folder_paths.add_model_folder_path(FOLDER, str(SHIPPED.resolve()))
    folder_paths.folder_names_and_paths[FOLDER][1].update({".safetensors"})


def model_names() -> list[str]:
    return folder_paths.get_filename_list(FOLDER)


def model_path(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


# -- MODEL ------------------------------------------------------------------------------------------------------------
ATTENTION_FLAGS = ("split_cross", "quad_cross", "pytorch_cross", "sage", "flash")


def chosen_attention(*but: str) -> bool:
    """Whether the user asked the host for an attention of their own (`--use-sage-attention` and so on), for another one than `but`."""
    return any(getattr(host_args, f"use_{name}_attention", False) for name in ATTENTION_FLAGS if name not in but)


def host_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, keys: Tensor | None = None) -> Tensor:
    """The host's own choice of attention (sage, flash, xformers, SDPA); see `lazy_core.attention.Attention`.

    On a CPU the host's default splits into chunks to save memory; hole tokens need no saving, so PyTorch's own is used there.
    It is used for padded batches, too: 0.3.75's kinds read a mask of booleans in different ways, and sage ignores it.
    """
    if keys is not None or (q.device.type == "cpu" and not chosen_attention()):
        return sdpa(q, k, v, heads, keys)
    return optimized_attention(q, k, v, heads)


def attention_for_few(function: Any, q: Tensor) -> Any:
    """The attention for few queries, instead of the host's `function`: on a CPU its default saves memory that they do not need."""
    return attention_pytorch if q.device.type == "cpu" and not chosen_attention() else function


def preferred_attention(transformer: torch.nn.Module) -> Any:
    """The attention that a checkpoint asks for, in newer hosts (int8), which any override makes them drop; None where layers differ."""
    found = {getattr(getattr(layer, "comfy_attention", None), "function", None) for layer in transformer.modules()} - {None}
    return found.pop() if len(found) == 1 else None


def inpainting_noise(sampler: Any, noise: Tensor, extra: dict[str, Any]) -> Tensor:
    """The noise that the host puts over what lies outside the mask: for some samplers (ddim) another draw than the hole's."""
    if not getattr(sampler, "inpaint_options", {}).get("random", False):
        return noise
    generator = torch.Generator("cpu").manual_seed(extra.get("seed", 41) + 1)
    return torch.randn(noise.shape, generator=generator, device="cpu").to(noise)


def graphs_wanted() -> bool:
    """Whether steps may run as CUDA graphs, which have an attention of their own for holes that differ in size.

    Not where the user chose another one, and not with the allocator that the host takes by default (`--disable-cuda-malloc` takes
    PyTorch's own): what a failed capture does to that one's memory nobody has tried. LAZYDIFFUSION_CUDA_GRAPHS=1 or 0 overrules both.
    """
    said = os.environ.get("LAZYDIFFUSION_CUDA_GRAPHS")
    if said is not None:
        return said != "0"
    return not chosen_attention("pytorch_cross") and torch.cuda.get_allocator_backend() == "native"


class Reuse:
    """What the decoder prepared in one sampling run, per batch of conditionings; it lives no longer than the run."""

    def __init__(self) -> None:
        self.prepared: dict[Any, Prepared] = {}
        self.rows = 0  # images of all model calls so far, once for each branch of guidance


class LazyDiffusionModel(LazyTransformer):
    """`LazyTransformer` behind the signature that the host calls: a packed strip of hole tokens in, velocity or noise out."""

    def __init__(self, lazy: LazyConfig, dtype: torch.dtype | None = None, device: Any = None, operations: Any = None):
        super().__init__(lazy, Build(operations, dtype, device, host_attention))
        self.dtype, self.graphs = dtype, StepGraphs(graphs_wanted)
        self.in_channels = lazy.latent_channels  # guidance nodes made for one of the host's transformers read it (RenormCFG)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        lazy_tokens: Tensor | None = None,
        lazy_index: Tensor | None = None,
        lazy_keys: Tensor | None = None,
        lazy_edges: Tensor | None = None,
        lazy_grid: Any = None,
        lazy_sizes: Tensor | None = None,
        lazy_reuse: Reuse | None = None,
        transformer_options: Any = None,
        **_: Any,
    ) -> Tensor:
        """Strip x [B, C, K p, p], timestep [B] in 0..1000, text `context` [B, L, T] -> strip of the same shape."""
        if lazy_tokens is None or lazy_index is None or lazy_grid is None or context is None:
            raise ValueError("a LazyDiffusion model was sampled without a CONTEXT. Use the Lazy Decode node instead of KSampler.")
        refuse_replaced(transformer_options)

        def prepare() -> Prepared:
            places = window_coordinates(lazy_grid, lazy_index, self.config, lazy_sizes)  # [R, K, 2]
            keys = None if lazy_keys is None else lazy_keys > 0
            size = (lazy_grid.height, lazy_grid.width)
            return self.decoder.prepare(lazy_tokens, places, context, keys, size, packed=True, edges=lazy_edges)

        tokens = from_strip(x, self.config.patch_size)  # [B, K, C p p]
        batch = tuple((transformer_options or {}).get("uuids", ()))  # which conditionings this call carries, in order
        if lazy_reuse is None or not batch:
            output = self.decoder.step(tokens, timestep, prepare())
        else:
            lazy_reuse.rows += len(x)
            given = lazy_reuse.prepared.get(batch) or lazy_reuse.prepared.setdefault(batch, prepare())
            output = self.graphs.step(self.decoder, tokens, timestep, given)
        if self.config.prediction == "flow_x0":
            # The host's flow models speak velocity: x0 = x - sigma v.
            sigma = (timestep / 1000).clamp_min(1e-4).view(-1, 1, 1)
            output = (tokens.float() - output.float()) / sigma
        return to_strip(output, self.config.patch_size)


class HostModel(comfy.model_base.BaseModel):
    def __init__(self, model_config: Any, model_type: Any, device: Any = None):
        super().__init__(model_config, model_type, device=device, unet_model=LazyDiffusionModel)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        for name in ("lazy_tokens", "lazy_index", "lazy_keys", "lazy_edges", "lazy_sizes"):
            if kwargs.get(name) is not None:
                out[name] = comfy.conds.CONDRegular(kwargs[name])
        for name in ("lazy_grid", "lazy_reuse"):
            if kwargs.get(name) is not None:
                out[name] = comfy.conds.CONDConstant(kwargs[name])
        return out


class TinyLatent(comfy.latent_formats.LatentFormat):
    """Latents of a checkpoint's own VAE are normalised already."""

    def process_in(self, latent: Tensor) -> Tensor:
        return latent

    def process_out(self, latent: Tensor) -> Tensor:
        return latent


class Described(dict):
    """A transformer's configuration, which nodes for UNets read (FreeU)."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"a LazyDiffusion model has no '{key}': the node that asks for it is made for UNets. Remove it.")


class HostConfig(comfy.supported_models_base.BASE):
    unet_config: ClassVar[dict[str, Any]] = {}
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format = comfy.latent_formats.SD15
    supported_inference_dtypes: ClassVar[list[torch.dtype]] = [torch.bfloat16, torch.float32]
    memory_usage_factor = 0.5


def host_config(config: LazyConfig, checkpoint: Checkpoint) -> tuple[HostConfig, Any]:
    """The host's description of our model, and the kind of noise schedule it samples with."""
    host = HostConfig({"lazy": config})
    host.unet_config = Described(host.unet_config)  # type: ignore
    if config.vae is not None:
        host.latent_format = TinyLatent()
        host.latent_format.latent_channels = config.latent_channels
        host.latent_format.latent_rgb_factors = config.latent_rgb
    if config.prediction == "flow_x0":
        host.sampling_settings = {"shift": config.shift}
        return host, comfy.model_base.ModelType.FLOW
    host.sampling_settings = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02, "timesteps": 1000}
    return host, comfy.model_base.ModelType.EPS


def make_model(checkpoint: Checkpoint) -> comfy.model_patcher.ModelPatcher:
    """MODEL: managed, offloaded and patched (LoRA, sampling) by the host like any other."""
    config = checkpoint.config
    weights = {f"diffusion_model.{key}": value for key, value in checkpoint.part("transformer.").items()}
    host, kind = host_config(config, checkpoint)
    device, offload = mm.get_torch_device(), mm.unet_offload_device()
    size = sum(value.numel() for value in weights.values())
    dtype = mm.unet_dtype(model_params=size, supported_dtypes=host.supported_inference_dtypes)
    host.set_inference_dtype(dtype, mm.unet_manual_cast(dtype, device, host.supported_inference_dtypes))
    model = HostModel(host, kind, device=offload)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items() if key.startswith("diffusion_model.")}
    check_keys(expected, weights, "the checkpoint's transformer")
    model.load_state_dict(weights, strict=False)
    if device.type == "cpu":
        store_for_few_rows(model)
    model.lazy_identity, model.lazy_styles = checkpoint.identity, checkpoint.styles
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    # What the captured steps hold goes with the weights when the host makes room for another model.
    patcher.add_callback(CallbacksMP.ON_DETACH, lambda patcher, *_: transformer_of(patcher).graphs.forget())
    return patcher


def is_stock(model: Any) -> bool:
    """Whether a MODEL is of a family that `nodes.stock` makes lazy."""
    return family_of(model) is not None


def transformer_of(model: Any) -> LazyDiffusionModel:
    """The transformer inside a MODEL of ours. Raises ValueError for any other model."""
    inner = getattr(getattr(model, "model", None), "diffusion_model", None)
    if not isinstance(inner, LazyDiffusionModel):
        kind = type(getattr(model, "model", model)).__name__
        raise ValueError(
            f"the model is a {kind}, expected a LazyDiffusion model. Connect the Load Lazy Model node, or a checkpoint of {supported()}."
        )
    return inner


def identity_of(model: Any) -> str:
    """Which checkpoint a MODEL of ours came from."""
    transformer_of(model)
    return model.model.lazy_identity


def weights_key(model: Any, vae: Any) -> str:
    """Tells apart whatever changes the encoder's result: checkpoint, weight patches such as LoRA, and the VAE."""
    return f"{identity_of(model)}/{patches_key(model)}/{vae_key(vae)}"


def vae_key(vae: Any) -> str:
    return str(getattr(vae, "lazy_identity", vae.patcher.patches_uuid))


def patches_key(model: Any) -> str:
    """Content hash of weight patches, so that the same LoRA loaded anew (--cache-none) is the same model."""
    parts: list[Tensor | str] = []

    def add(value: Any) -> bool:
        if isinstance(value, Tensor):
            parts.append(value)
        elif isinstance(value, (list, tuple)):
            parts.append(f"[{len(value)}")
            return all(add(item) for item in value)
        elif value is None or isinstance(value, (str, int, float)):
            parts.append(repr(value))
        elif hasattr(value, "weights"):  # the host's LoRA, LoKr, ... adapters
            parts.append(type(value).__name__)
            return add(value.weights)
        else:
            return False
        return True

    known = [add([name, patches]) for name, patches in sorted(model.patches.items())]
    return content_key(*parts) if all(known) else str(model.patches_uuid)


def load_for_encoding(model: Any, tokens: int) -> tuple[LazyDiffusionModel, torch.device, torch.dtype]:
    """Make room for the context encoder and bring the model to its device -> it, where it is, and what it computes in.

    `tokens` counts batch * N.
    """
    transformer = transformer_of(model)
    width = transformer.config.encoder_width
    mm.load_models_gpu([model], memory_required=tokens * width * 4 * 16)
    return transformer, model.load_device, model.model.manual_cast_dtype or model.model.get_dtype()


# -- CLIP -------------------------------------------------------------------------------------------------------------
class Rows(list):
    """The chunks of a prompt as the host has them, and what the node tells its user: what was `cut`, which words are `unknown`.

    A list like any other for nodes that look into tokens; those that make a new one of it lose no more than these two.
    """

    cut: str = ""
    unknown: tuple[str, ...] = ()


class HostTokenizer:
    """Made anew for each checkpoint by `make_clip`, which gives it the file's words."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[tuple]]]:
        """`(word:1.2)` weights as everywhere in the host; long prompts in chunks, as for CLIP (`lazy_core.text.tokenizer.CHUNKS`)."""
        parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        prompt = self.tokenizer.prompt((comfy.sd1_clip.unescape_important(part), weight) for part, weight in parts)
        rows = Rows([(i, w, 0) for i, w in chunk] if return_word_ids else chunk for chunk in prompt.chunks)
        rows.cut, rows.unknown = prompt.cut, prompt.unknown
        return {"lazy": rows}

    def untokenize(self, tokens: list[tuple]) -> list[tuple]:
        return [(token, self.tokenizer.words[token[0]]) for token in tokens]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(self.tokenizer.words[i] for i in ids if not skip_special_tokens or i >= len(SPECIAL))

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class HostText(torch.nn.Module):
    """The text encoder behind the calls that `comfy.sd.CLIP` makes."""

    disable_offload = True  # newer hosts: a plain model patcher

    def __init__(self, config: Any, empty: list[int], dtype: torch.dtype, device: Any):
        super().__init__()
        self.text = TextEncoder(config, Build(comfy.ops.manual_cast, dtype, device))
        self.dtypes, self.empty, self.options = {dtype}, empty, {}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        if options.get("layer") is not None:
            raise ValueError("the CLIP of a LazyDiffusion model has one layer to read, the last. Remove CLIP Set Last Layer.")
        self.options.update(options)

    def reset_clip_options(self) -> None:
        self.options.clear()

    def encode_token_weights(self, tokens: dict[str, list[list[tuple]]]) -> tuple[Tensor, None, dict[str, Any]]:
        """-> caption [1, L, T], all chunks in one row, and what the host puts into the conditioning: what was cut, which words are unknown.

        A weight moves a token's embedding away from that of the empty prompt, as the host does for CLIP.
        """
        rows = tokens["lazy"]
        device = self.options.get("execution_device") or mm.text_encoder_device()
        ids = torch.tensor([[pair[0] for pair in row] for row in rows], device=device)
        weights = torch.tensor([[float(pair[1]) for pair in row] for row in rows], device=device)[..., None]

        def one_by_one() -> Tensor:
            return torch.cat([self.text(row[None]) for row in ids])

        caption = leaner("CLIP Text Encode", lambda: self.text(ids), one_by_one, give_memory_back).float()
        if bool((weights != 1).any()):
            empty = self.text(torch.tensor([self.empty], device=device)).float()
            caption = empty + (caption - empty) * weights
        told = {"lazy_cut": getattr(rows, "cut", ""), "lazy_unknown": list(getattr(rows, "unknown", ()))}
        return caption.flatten(0, 1)[None].to(mm.intermediate_device()), None, told

    def load_sd(self, weights: dict[str, Tensor]) -> Any:
        return self.text.load_state_dict(weights, strict=False)


def make_clip(checkpoint: Checkpoint) -> comfy.sd.CLIP | None:
    """CLIP for the stock CLIPTextEncode, or None for a checkpoint without a text encoder."""
    config = checkpoint.config.text
    if config is None or checkpoint.tokenizer is None:
        return None
    tokenizer = HostTokenizer(checkpoint.tokenizer)
    empty = checkpoint.tokenizer.ids("")
    weights = checkpoint.part("text.")
    target = comfy.supported_models_base.ClipTarget(
        lambda embedding_directory=None, tokenizer_data=None: tokenizer,
        lambda dtype=None, device="cpu", model_options=None: HostText(config, empty, dtype or torch.float32, device),
    )
    size = sum(value.numel() for value in weights.values())
    clip = comfy.sd.CLIP(target, parameters=size, model_options={"dtype": torch.float32})
    check_keys(
        {key: tuple(v.shape) for key, v in clip.cond_stage_model.text.state_dict().items()}, weights, "the checkpoint's text encoder"
    )
    clip.load_sd(weights)
    return clip


# -- VAE --------------------------------------------------------------------------------------------------------------
def make_vae(checkpoint: Checkpoint) -> comfy.sd.VAE | None:
    """VAE for the stock VAEEncode and VAEDecode, or None for a checkpoint without one (use the VAE its latents belong to)."""
    config = checkpoint.config.vae
    if config is None:
        return None
    weights = checkpoint.part("vae.")
    module = TinyVAE(config, comfy.ops.manual_cast)
    check_keys({key: tuple(v.shape) for key, v in module.state_dict().items()}, weights, "the checkpoint's VAE")
    module.load_state_dict(weights)
    # The host chooses a VAE class by keys it knows; start from its simplest and put ours in.
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    vae.downscale_ratio = vae.upscale_ratio = checkpoint.config.latent_scale
    vae.latent_channels, vae.output_channels = config.latent_channels, 3
    bytes_per_pixel = config.channels * 4  # the widest layer: `channels` at half the resolution, a few of them alive
    vae.memory_used_encode = lambda shape, dtype: shape[2] * shape[3] * bytes_per_pixel * mm.dtype_size(dtype)
    vae.memory_used_decode = lambda shape, dtype: shape[2] * shape[3] * vae.upscale_ratio**2 * bytes_per_pixel * mm.dtype_size(dtype)
    vae.first_stage_model = module.eval().to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, load_device=vae.device, offload_device=mm.vae_offload_device())
    vae.size = comfy.model_management.module_size(vae.first_stage_model)
    vae.lazy_identity = checkpoint.identity
    return vae


def check_vae(vae: Any, channels: int, scale: int) -> None:
    """Raises ValueError for a VAE whose latents the model, or the CONTEXT, does not know."""
    if vae is None:
        raise ValueError(
            f"no VAE came, expected one that makes {channels} channels at 1/{scale}. Connect the VAE that the model was trained with."
        )
    got = getattr(vae, "latent_channels", None), vae.spacial_compression_encode()
    if got != (channels, scale):
        raise ValueError(
            f"the VAE makes {got[0]} channels at 1/{got[1]} size, expected {channels} at 1/{scale}. "
            "Connect the VAE of the same Load Lazy Model node."
        )


def load_all(name: str) -> tuple[Any, Any, Any]:
    checkpoint = read_checkpoint(model_path(name))
    return make_model(checkpoint), make_clip(checkpoint), make_vae(checkpoint)


# -- sampling ---------------------------------------------------------------------------------------------------------
@dataclass
class Timing:
    """Seconds at which steps ended, and how many model calls of which kind a stock model made.

    `calls`: how often the model ran on each image, once for each branch of guidance; 0: unknown. `saved_seconds`: what a stock model's
    sparse passes took less than passes over all tokens of the same run.
    """

    marks: list[float] = field(default_factory=lambda: [time.perf_counter()])
    passes: dict[str, int] = field(default_factory=dict)
    calls: float = 0.0
    saved_seconds: float = 0.0

    def mark(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.marks.append(time.perf_counter())

    @property
    def step_ms(self) -> float:
        """Median time of a step; the first carries the set-up and counts only when it is alone."""
        gaps = [b - a for a, b in itertools.pairwise(self.marks)]
        later = sorted(b - a for a, b in itertools.pairwise(self.marks[1:])) or gaps
        return 1000 * later[len(later) // 2] if later else 0.0

    @property
    def steps(self) -> int:
        return len(self.marks) - 1


@dataclass(frozen=True)
class Settings:
    """The widgets of Lazy Decode that the host's samplers take."""

    seed: int
    steps: int
    cfg: float
    sampler: str
    scheduler: str
    preview: bool = False  # a canvas shows the hole while it is made, whatever --preview-method says


def suitable_steps(model: Any) -> int:
    """How many steps a MODEL is given where its user leaves the choice to it."""
    return USUAL_STEPS if is_stock(model) else transformer_of(model).config.steps


def saved_ms(model: Any, context: Context, text_tokens: int, timing: Timing) -> float:
    """About how much longer the steps of this edit would have taken on all tokens, from measured times; 0: unknown, or nothing.

    For a model of ours on the CPU one of its blocks is timed on all tokens, for a stock model the run's own passes are. On a GPU
    a step on few tokens is a graph, and no measurement of a block says what a graph of all tokens would take.
    """
    if is_stock(model):
        return max(1000 * timing.saved_seconds, 0.0)
    if model.load_device.type != "cpu" or not timing.calls or context.hole.count in (0, context.hole.total):
        return 0.0
    dtype = model.model.manual_cast_dtype or model.model.get_dtype()
    calls = round(timing.calls * len(context.image))
    full = step_seconds(transformer_of(model).decoder, context.hole.total, text_tokens, calls, dtype)
    return max(1000 * full - timing.step_ms * timing.steps, 0.0)


def hole_sampler(model: Any, context: Context, positive: list, negative: list, settings: Settings, timing: Timing) -> Any:
    """A `lazy_core.pipeline.Sample` that runs any stock sampler and scheduler on the strip of hole tokens."""
    config = transformer_of(model).config
    check_steps(settings)
    check_conditioning("positive", positive, config.caption_width)
    check_conditioning("negative", negative, config.caption_width)

    patched, strength = with_strength(model, context.strength)
    noise_mask = None if strength is None else to_strip(strength[..., None].repeat(1, 1, config.patch_size**2), config.patch_size)

    def run(noise: Tensor, start: Tensor, denoise: float, reuse: Reuse | None) -> Tensor:
        strip = comfy.sample.sample(
            patched,
            to_strip(noise, config.patch_size),
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            with_context(positive, context, context.tokens, reuse),
            with_context(negative, context, context.negative_tokens, reuse),
            to_strip(start, config.patch_size),
            denoise=denoise,
            noise_mask=noise_mask,
            callback=progress(model, context, config.patch_size, timing, settings.preview),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=settings.seed,
        )
        return from_strip(strip.float(), config.patch_size)

    def frugal(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        if not same_every_step(model, [*positive, *negative]):
            return run(noise, start, denoise, None)

        def kept_between_steps() -> Tensor:
            reuse = Reuse()
            tokens = run(noise, start, denoise, reuse)
            timing.calls = reuse.rows / len(noise)
            return tokens

        def make_room() -> None:
            transformer_of(model).graphs.forget()
            give_memory_back()

        # The second time without keeping the text's keys and values between steps.
        return leaner("Lazy Decode", kept_between_steps, lambda: run(noise, start, denoise, None), make_room)

    def sample(noise: Tensor, start: Tensor, denoise: float) -> Tensor:
        tokens = frugal(noise, start, denoise)
        check_finite(tokens, settings)
        return tokens

    return sample


def with_strength(model: Any, strength: Tensor | None) -> tuple[Any, Tensor | None]:
    """Return the MODEL and the values [R, K] of a noise mask by which a soft mask's tokens of `strength` [R, K] join later.

    Nothing changes for a hard mask, None. What a Differential Diffusion node put on the model is used as it is.
    """
    if strength is None:
        return model, None
    if "denoise_mask_function" not in model.model_options:
        model, strength = model.clone(), relative(strength)
        model.set_model_denoise_mask_function(tokens_that_joined)
    return model, strength


def tokens_that_joined(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """The host's kind of function of a noise mask, called at every step: see `lazy_core.diffusion.differential`."""
    sampling, sigmas = extra_options["model"].inner_model.model_sampling, extra_options["sigmas"]
    ends = sigmas[0], max(sigmas[-1], sampling.sigma_min)
    now, first, last = (float(sampling.timestep(each)) for each in (sigma[0], *ends))
    final = float(sigma[0]) <= float(sigmas[-2]) * (1 + 1e-6)
    return joined(denoise_mask, now, first, last, final).to(denoise_mask)


def check_steps(settings: Settings) -> None:
    if settings.steps < 1:
        raise ValueError(f"steps is {settings.steps}, expected at least 1.")


def check_finite(tokens: Tensor, settings: Settings) -> None:
    if not bool(torch.isfinite(tokens).all()):
        how = f"sampler {settings.sampler}, scheduler {settings.scheduler} and {settings.steps} step{'s'[: settings.steps != 1]}"
        raise ValueError(f"the result holds NaN, made by {how}. Choose another scheduler or sampler, or more steps.")


SAME_AT_EVERY_STEP = {
    "denoise_mask_function",
    "transformer_options",
    "sampler_cfg_function",
    "sampler_pre_cfg_function",
    "sampler_post_cfg_function",
    "disable_cfg1_optimization",
}


def check_prompt(name: str, conditioning: list) -> None:
    """Raises ValueError for text that holds NaN, as a prompt weight like (word:nan) makes it."""
    if not all(bool(torch.isfinite(text).all()) for text, _ in conditioning):
        raise ValueError(f"{name} holds NaN or infinite numbers. Check the weights in its prompt, such as (word:1.2).")


def check_conditioning(name: str, conditioning: list, width: int) -> None:
    """Raises ValueError for text that another model's CLIP encoded."""
    for text, _ in conditioning:
        if text.shape[-1] != width:
            raise ValueError(
                f"{name} is {text.shape[-1]} wide, expected {width}: another CLIP encoded it. "
                "Connect the CLIP of Load Lazy Model to its prompt."
            )


def same_every_step(model: Any, conditioning: list) -> bool:
    """False where a node may hand the model other conditionings from step to step: wrappers, hooks, samplers' replacements."""
    options = model.model_options
    wrapped = options.get("transformer_options", {}).get("wrappers") or any(model.wrappers.values())
    known = options.keys() <= SAME_AT_EVERY_STEP
    return known and not wrapped and not any(values.get("hooks") for _, values in conditioning)


def with_context(conditioning: list, context: Context, tokens: Tensor, reuse: Reuse | None) -> list:
    """Conditioning that carries the hole's `tokens` to the model. Raises ValueError for what only makes sense on a whole image."""
    check_whole_image_conditions(conditioning)
    conditioning = [[of_rows(text, context), values] for text, values in conditioning]
    keys = context.hole.padding
    values = {
        "lazy_tokens": tokens,
        "lazy_index": context.seen.index,
        "lazy_keys": None if keys is None else keys.long(),
        "lazy_edges": context.edges,
        "lazy_grid": context.seen.grid,
        "lazy_sizes": context.seen.sizes,
        "lazy_reuse": reuse,
        "width": context.grid.width,
        "height": context.grid.height,
    }
    return node_helpers.conditioning_set_values(conditioning, values)


def of_rows(text: Tensor, context: Context) -> Tensor:
    """A batch of prompts [T, L, W], which the host repeats for the images, as one for each hole [R, L, W]; one prompt stays one."""
    return text if len(text) == 1 else text[context.owner % len(text)]


def check_whole_image_conditions(conditioning: list) -> None:
    for _, values in conditioning:
        if found := [name for name in ("area", "mask", "control", "gligen") if values.get(name) is not None]:
            raise ValueError(f"the conditioning has {found[0]}, which Lazy Decode cannot apply to hole tokens. Remove that node.")


def progress(model: Any, context: Context, patch: int, timing: Timing, wanted: bool = False, strips: Any = lambda latent: latent) -> Any:
    """Progress bar and, where previews are on or `wanted`, the hole's current guess in the canvas. Cancel is raised by the bar.

    `strips`: from what the sampler sees to strips of the hole's tokens.
    """
    bar = comfy.utils.ProgressBar(1)
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    if previewer is None and wanted:
        previewer = rgb_previewer(model.model.latent_format)
    timed = model.model.latent_format.latent_dimensions == 3
    known = context.latent.unsqueeze(2) if timed else context.latent
    canvas = context.with_(latent=model.model.latent_format.process_in(known).flatten(1, -3)) if previewer else context

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        timing.mark(x0.device)
        preview = None
        if previewer is not None:
            strip = strips(x0.detach().float().cpu())
            latent = fill_hole(canvas, from_strip(strip.flatten(1, -3), patch))
            kind, picture, limit = previewer.decode_latent_to_preview_image("JPEG", latent.unsqueeze(2) if timed else latent)
            preview = kind, cropped(picture, context.grid), limit
        bar.update_absolute(step + 1, total, preview)

    return callback


def rgb_previewer(latent_format: Any) -> Any:
    """The host's linear preview of latents, which needs no model; None where the format has no factors for it."""
    if latent_format.latent_rgb_factors is None:
        return None
    more = (getattr(latent_format, f"latent_rgb_factors_{name}", None) for name in ("bias", "reshape"))
    return latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, *more)


def cropped(picture: Any, grid: Grid) -> Any:
    """The preview of a padded canvas without its padding."""
    rows, cols = grid.latent_size
    width, height = (picture.width * grid.width / (cols * grid.scale), picture.height * grid.height / (rows * grid.scale))
    return picture.crop((0, 0, max(round(width), 1), max(round(height), 1)))
