"""Small models in stock layouts: the host's own classes at a small width, built, started, saved and loaded again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lazy_core.networks.decoder import LazyDecoder
from lazy_core.networks.positions import sincos

from .stock import for_this_host, loaded

PATCH, CHANNELS, TEXT = 2, 8, 256
FLUX = {
    "image_model": "flux",
    "in_channels": CHANNELS + CHANNELS + 64,  # noisy latent, masked picture, 8 x 8 px of mask for each latent
    "out_channels": CHANNELS,
    "vec_in_dim": TEXT,
    "context_in_dim": TEXT,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 3,
    "depth_single_blocks": 4,
    "axes_dim": [16, 24, 24],
    "theta": 10000,
    "patch_size": PATCH,
    "qkv_bias": True,
    "guidance_embed": False,
}
SD3 = {
    "input_size": None,
    "patch_size": PATCH,
    "in_channels": CHANNELS,
    "depth": 5,
    "pos_embed_max_size": 32,
    "num_patches": 1024,
    "adm_in_channels": TEXT,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 320}},
    "qk_norm": "rms",
}
PIXART = {
    "image_model": "pixart_alpha",
    "patch_size": PATCH,
    "in_channels": CHANNELS + 1 + CHANNELS,  # noisy latent, mask, masked picture
    "hidden_size": 320,
    "depth": 8,
    "num_heads": 5,
    "caption_channels": TEXT,
    "model_max_length": 16,
    "micro_condition": False,
    "pred_sigma": False,
}


@dataclass(frozen=True)
class Kind:
    """A class in `comfy.supported_models`, its transformer, and the canvas in px that it is trained and measured on.

    `clean`: the network predicts the clean latent, as the shipped decoder does, whose weights it starts from;
    `inpaint`: it takes mask and masked picture as the host's own inpainting models do.
    """

    config: str
    transformer: dict[str, Any]
    size: int = 256
    clean: bool = False
    inpaint: bool = False


FAMILIES: dict[str, Kind] = {
    "flux-fill": Kind("FluxInpaint", FLUX),
    "sd3": Kind("SD3", SD3),
    "pixart": Kind(
        "PixArtAlpha", PIXART, 272, clean=True, inpaint=True
    ),  # the host's PixArt divides by zero on smaller canvases
}


def build(family: str, dtype: torch.dtype = torch.float32) -> Any:
    """The host's BaseModel of a family at the stand-in's size, with the weights that its layers start from."""
    import comfy.supported_models

    kind = FAMILIES[family]
    config = getattr(comfy.supported_models, kind.config)(for_this_host(kind.transformer))
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, device=torch.device("cpu"))
    base.latent_format = loaded("nodes.host.model").TinyLatent()
    base.latent_format.latent_channels = CHANNELS
    if kind.clean:
        base.model_sampling = clean_flow(config)
    if kind.inpaint:
        base.set_inpaint()
    start(base.diffusion_model, family)
    return base


def clean_flow(config: Any) -> nn.Module:
    """The host's flow sampling for a network whose first channels are the clean latent."""
    import comfy.model_sampling

    class CleanFlow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
            return model_output[:, : model_input.shape[1]]

    return CleanFlow(config)


@torch.no_grad()
def start(transformer: nn.Module, family: str) -> None:
    """Fresh weights, as DiT starts: Xavier, and modulations and the last layer at zero. The host's layers come without
    any.
    """
    for name, parameter in transformer.named_parameters():
        if (
            "norm" in name or ".ln_" in name
        ) and parameter.dim() == 1:  # SD3 calls the norms of queries and keys ln_q and ln_k
            parameter.fill_(1.0)
        elif parameter.dim() < 2 or any(
            part in name for part in ("_mod.", "modulation", "adaLN", "final_layer.linear", "t_block")
        ):
            parameter.zero_()
        else:
            nn.init.xavier_uniform_(parameter.flatten(1))
    if family == "sd3":
        side = int(SD3["pos_embed_max_size"])
        grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).flatten(0, 1)
        transformer.get_buffer("pos_embed").copy_(sincos(grid, transformer.get_buffer("pos_embed").shape[-1])[None])


def start_from(transformer: nn.Module, decoder: LazyDecoder) -> None:
    """PixArt's transformer with the blocks of our `decoder`, which are PixArt's; what reads mask and masked picture
    starts at zero.

    The decoder's context has no place in it, and its embedder is folded into that of the noisy latent.
    """
    width, p = decoder.config.width, PATCH
    weights = {key: value.clone() for key, value in decoder.state_dict().items()}
    folded, bias = weights.pop("context_embedder.weight")[:, :width], weights.pop("context_embedder.bias")
    embed = torch.zeros(width, int(PIXART["in_channels"]), p, p)
    embed[:, :CHANNELS] = (folded @ weights.pop("x_embedder.weight")).view(width, CHANNELS, p, p)
    converted = {
        "x_embedder.proj.weight": embed,
        "x_embedder.proj.bias": folded @ weights.pop("x_embedder.bias") + bias,
    }
    for key in ("final_layer.linear.weight", "final_layer.linear.bias"):
        ours = rearrange(weights.pop(key), "(c p q) ... -> p q c ...", p=p, q=p)
        last = torch.zeros(p, p, int(PIXART["in_channels"]), *ours.shape[3:])
        last[:, :, :CHANNELS] = ours
        converted[key] = last.flatten(0, 2)
    for key, value in weights.items():
        if not key.startswith("edge_embedder."):
            converted[key.replace("y_embedder.", "y_embedder.y_proj.")] = value
    missing = transformer.load_state_dict(converted, strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"y_embedder.y_embedding"}, missing


def concat_of(base: Any, canvas: Tensor, mask: Tensor) -> Tensor | None:
    """An inpainting model's channels, made by the host: from the canvas with its hole filled [B, C, h, w], and its mask
    [B, 1, h, w].
    """
    pixels = mask.float().repeat_interleave(8, 2).repeat_interleave(8, 3)
    return base.concat_cond(
        noise=canvas.float(), device=canvas.device, concat_latent_image=canvas.float(), concat_mask=pixels
    )


def in_float32(convolution: nn.Conv2d) -> None:
    """PyTorch 2.11's bfloat16 convolutions read uninitialised memory on CPUs with AMX at 17 channels and strips 2
    latents wide.
    """
    convolution.float().register_forward_pre_hook(lambda _, given: tuple(x.float() for x in given))
    convolution.register_forward_hook(lambda _, given, out: out.bfloat16())


def save_stand_in(transformer: nn.Module, path: Path, about: dict[str, Any]) -> None:
    """The transformer under the host's own names; `stand_in` in the metadata says how to build it."""
    weights = {name: value.detach().cpu().contiguous() for name, value in transformer.state_dict().items()}
    save_file(weights, path, metadata={"stand_in": json.dumps(about)})


def load_stand_in(path: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, Any]]:
    """MODEL, as a loader of the host would return it, and what the file says of itself."""
    import comfy.model_patcher

    with safe_open(str(path), "pt") as file:
        about = json.loads(file.metadata()["stand_in"])
    base = build(about["family"], dtype)
    base.diffusion_model.load_state_dict(load_file(path))
    base.diffusion_model.eval().requires_grad_(False)
    for module in base.diffusion_model.modules():
        if isinstance(module, nn.Conv2d) and dtype == torch.bfloat16:
            in_float32(module)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return comfy.model_patcher.ModelPatcher(base, device, torch.device("cpu")), about
