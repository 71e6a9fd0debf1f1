"""Tiny stock models with random weights, built by the host's own classes, and a VAE to go with each."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

TEXT = 12  # width of the prompts' embeddings
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 8,
    "context_in_dim": TEXT,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
QWEN = {
    "image_model": "qwen_image",
    "patch_size": 2,
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "pooled_projection_dim": 8,
    "axes_dims_rope": (8, 12, 12),
}
LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "multiple_of": 16,
    "qk_norm": True,
    "cap_feat_dim": TEXT,
    "axes_dims": [8, 12, 12],
    "axes_lens": [300, 512, 512],
}
Z_IMAGE = LUMINA | {
    "dim": 256,
    "n_heads": 8,
    "n_kv_heads": 8,
    "pad_tokens_multiple": 32,
    "z_image_modulation": True,
    "time_scale": 1000.0,
}
MMDIT = {
    "input_size": None,
    "patch_size": 2,
    "in_channels": 16,
    "depth": 2,
    "pos_embed_max_size": 32,
    "num_patches": 1024,
    "adm_in_channels": 8,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 128}},
    "qk_norm": "rms",
}

QWEN21 = {
    "image_model": "qwen_image21",
    "in_channels": 64,
    "out_channels": 64,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "context_in_dim": TEXT,
    "mlp_ratio": 2,
    "axes_dims_rope": (8, 12, 12),
}
MAGE = {
    "image_model": "mage_flow",
    "in_channels": 128,
    "out_channels": 128,
    "num_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": TEXT,
    "axes_dims_rope": (8, 12, 12),
}
KREA = {
    "image_model": "krea2",
    "features": 64,
    "heads": 2,
    "kvheads": 1,
    "layers": 2,
    "patch": 2,
    "channels": 16,
    "txtlayers": 3,
    "txtdim": TEXT // 3,
    "txtheads": 2,
    "txtkvheads": 2,
}
HUNYUAN = {
    "image_model": "hunyuan_video",
    "patch_size": [1, 1],
    "in_channels": 64,
    "out_channels": 64,
    "vec_in_dim": None,
    "context_in_dim": TEXT,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 16],
    "theta": 256,
    "qkv_bias": True,
    "guidance_embed": False,
    "byt5": True,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
ANIMA = {
    "image_model": "anima",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 2,
    "concat_padding_mask": True,
    "crossattn_emb_channels": TEXT,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "extra_per_block_abs_pos_emb": False,
}

OMNIGEN = {
    "image_model": "omnigen2",
    "patch_size": 2,
    "in_channels": 16,
    "hidden_size": 64,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_kv_heads": 1,
    "multiple_of": 16,
    "axes_dim_rope": (8, 12, 12),
    "text_feat_dim": TEXT,
}
HIDREAM = {
    "image_model": "hidream",
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "caption_channels": [TEXT, 10],
    "text_emb_dim": 8,
    "num_routed_experts": 4,
    "num_activated_experts": 2,
    "axes_dims_rope": (16, 8, 8),
    "max_resolution": (64, 64),
    "llama_layers": [0, 1, 2, 2],
}
ERNIE = {
    "image_model": "ernie",
    "hidden_size": 256,
    "num_attention_heads": 8,
    "num_layers": 2,
    "ffn_hidden_size": 256,
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "text_in_dim": TEXT,
    "rope_axes_dim": (8, 12, 12),
}


@dataclass(frozen=True)
class Stock:
    """How one family's tiny model is made: its class in `comfy.supported_models`, its transformer's configuration, and
    its conditions.
    """

    config: str
    transformer: dict[str, Any]
    channels: int = 16
    scale: int = 8
    extra: Callable[[], dict[str, Any]] = dict
    text: int = 5


def pooled() -> dict[str, Any]:
    return {"pooled_output": torch.randn(1, 8)}


def reference(*time: int, size: tuple[int, int] = (12, 10)) -> dict[str, Any]:
    """A picture to edit from, as Kontext and Qwen-Image-Edit take it; of another size than the canvas."""
    return {**pooled(), "reference_latents": [torch.randn(1, 16, *time, *size)]}


def slotted() -> dict[str, Any]:
    """Two pictures that Qwen-Image 2.1 puts into the prompt, the second one at its end."""
    return {"reference_latents": [torch.randn(1, 64, 6, 5), torch.randn(1, 64, 3, 4)], "image_slots": [2]}


def omni(seen: bool) -> dict[str, Any]:
    """Two pictures that Z-Image edits from; with `seen` what a vision encoder saw of the first one, their texts, and
    one more. Texts differ in length between prompts: the host cannot take such prompts in one call.
    """
    references = [torch.randn(1, 16, 12, 10), torch.randn(1, 16, 6, 8)]
    if not seen:
        return {"reference_latents": references}
    vision = SimpleNamespace(image_sizes=[(3, 64, 48)], last_hidden_state=torch.randn(1, 12, 10))
    texts = [torch.randn(1, tokens, TEXT) for tokens in (int(torch.randint(2, 40, ())), 40, 3)]
    return {"reference_latents": references, "reference_latents_text_embeds": texts, "clip_vision_outputs": [vision]}


def control() -> dict[str, Any]:
    """A control picture, as Flux Canny and Depth take it beside the noise: one for both prompts."""
    return {**pooled(), "concat_latent_image": torch.randn(1, 16, 24, 24, generator=torch.Generator().manual_seed(2))}


def counted(**more: Any) -> dict[str, Any]:
    """OmniGen2 counts the tokens of its prompt by their mask."""
    return {"attention_mask": torch.ones(1, 5, dtype=torch.long), **more}


def llama() -> dict[str, Any]:
    """Layers of the answer of HiDream's largest text encoder, shorter than the T5 prompt beside them."""
    return {**pooled(), "conditioning_llama3": torch.randn(1, 3, 4, 10)}


def glyphs() -> dict[str, Any]:
    """What HunyuanImage's second text encoder makes of words to be drawn."""
    return {"conditioning_byt5small": torch.randn(1, 4, 1472)}


STOCK: dict[str, Stock] = {
    "flux": Stock("Flux", FLUX, extra=pooled),
    "flux-fill": Stock("FluxInpaint", FLUX | {"in_channels": 96}, extra=pooled),
    "flux-canny": Stock("Flux", FLUX | {"in_channels": 32}, extra=control),
    "flux-kontext": Stock("Flux", FLUX, extra=reference),
    "flux2": Stock(
        "Flux2",
        FLUX
        | {
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "patch_size": 1,
            "axes_dim": [8, 8, 8, 8],
            "qkv_bias": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        },
        channels=128,
        scale=16,
        extra=pooled,
    ),
    "chroma": Stock(
        "Chroma",
        {k: v for k, v in FLUX.items() if k not in ("vec_in_dim", "guidance_embed", "image_model")}
        | {
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 64,
            "hidden_dim": 32,
            "n_layers": 2,
        },
        extra=pooled,
    ),
    "qwen-image": Stock("QwenImage", QWEN),
    "qwen-image-edit": Stock("QwenImage", QWEN, extra=lambda: reference(1)),
    "lumina2": Stock("Lumina2", LUMINA),
    "z-image": Stock("ZImage", Z_IMAGE),
    "z-image-edit": Stock("ZImage", Z_IMAGE, extra=lambda: omni(False)),
    "z-image-omni": Stock("ZImage", Z_IMAGE | {"siglip_feat_dim": 10}, extra=lambda: omni(True)),
    "sd3": Stock("SD3", MMDIT, extra=pooled),
    "sd3.5-medium": Stock("SD3", MMDIT | {"x_block_self_attn_layers": [0], "depth": 2}, extra=pooled),
    "qwen-image-2.1": Stock("QwenImage21", QWEN21, channels=64, scale=16),
    "qwen-image-2.1-edit": Stock("QwenImage21", QWEN21, channels=64, scale=16, extra=slotted),
    "longcat": Stock("LongCatImage", FLUX | {"vec_in_dim": None, "guidance_embed": False}),
    "longcat-edit": Stock("LongCatImage", FLUX | {"vec_in_dim": None, "guidance_embed": False}, extra=reference),
    "mage-flow": Stock("MageFlow", MAGE, channels=128, scale=16),
    "mage-flow-edit": Stock(
        "MageFlow", MAGE, channels=128, scale=16, extra=lambda: {"reference_latents": [torch.randn(1, 128, 6, 5)]}
    ),
    "krea2": Stock("Krea2", KREA),
    "krea2-edit": Stock(
        "Krea2", KREA, extra=lambda: {**reference(1), "reference_latents_method": "index_timestep_zero"}
    ),
    "hunyuan-image": Stock("HunyuanImage21", HUNYUAN, channels=64, scale=32),
    "hunyuan-image-glyphs": Stock("HunyuanImage21", HUNYUAN, channels=64, scale=32, extra=glyphs),
    "omnigen2": Stock("Omnigen2", OMNIGEN, extra=counted),
    "omnigen2-edit": Stock("Omnigen2", OMNIGEN, extra=lambda: counted(**reference(size=(13, 11)))),
    "hidream": Stock("HiDream", HIDREAM, extra=llama),
    "ernie": Stock("ErnieImage", ERNIE, channels=128, scale=16),
    "anima": Stock("Anima", ANIMA),
    "pixart": Stock(
        "PixArtAlpha",
        {
            "image_model": "pixart_alpha",
            "input_size": 32,
            "patch_size": 2,
            "in_channels": 4,
            "hidden_size": 96,
            "depth": 2,
            "num_heads": 2,
            "caption_channels": TEXT,
            "model_max_length": 5,
            "micro_condition": True,
        },
        channels=4,
    ),
}


def make_stock(name: str, seed: int = 0, text: int = TEXT) -> Any:
    """MODEL with random weights, in float32 on the CPU, as a loader would return it; `text`: width of SD3's prompts."""
    import comfy.model_patcher
    import comfy.supported_models
    import comfyui_version

    stock = STOCK[name]
    if not hasattr(comfy.supported_models, stock.config):
        pytest.skip(f"ComfyUI {comfyui_version.__version__} has no {stock.config}")
    if stock.config == "ZImage" and name != "z-image" and not reads_references():
        pytest.skip(f"ComfyUI {comfyui_version.__version__} has no references for Z-Image")
    config = getattr(comfy.supported_models, stock.config)(stock.transformer | newer_settings(stock))
    if text != TEXT:
        layer = {"in_features": text, "out_features": 128}
        config.unet_config["context_embedder_config"] = {"target": "torch.nn.Linear", "params": layer}
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=torch.device("cpu"))
    transformer = type(model.diffusion_model)
    if stock.config == "HunyuanImage21" and "torch.cat((txt_ids, img_ids)" not in inspect.getsource(
        transformer.forward_orig
    ):
        pytest.skip(f"ComfyUI {comfyui_version.__version__} has HunyuanImage's text after the image")
    generator = torch.Generator().manual_seed(seed)
    for parameter in [*model.diffusion_model.parameters(), *model.diffusion_model.buffers()]:
        if parameter.is_floating_point():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def reads_references() -> bool:
    """Whether this host's Z-Image does."""
    import comfy.ldm.lumina.model

    return "ref_latents" in comfy.ldm.lumina.model.NextDiT._forward.__code__.co_varnames


def newer_settings(stock: Stock) -> dict[str, Any]:
    """What later hosts read from a checkpoint of Flux or Chroma, and 0.3.75 did not know."""
    import comfy.ldm.flux.model

    if "txt_ids_dims" not in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
        return {}
    dims = {"txt_ids_dims": {"Flux2": [3], "LongCatImage": [1, 2]}.get(stock.config, [])}
    own = {"flux": dims, "chroma": dims | {"vec_in_dim": None}, "hunyuan_video": {"meanflow_sum": False}}
    return own.get(stock.transformer.get("image_model", ""), {})


def conditioning(name: str, seed: int) -> list:
    torch.manual_seed(seed)
    return [[torch.randn(1, STOCK[name].text, TEXT), STOCK[name].extra()]]


class AverageVAE:
    """Latents are averages of pixels, mixed into channels; good enough to carry a picture there and roughly back.

    `alpha`: decodes a fourth channel, as Qwen-Image 2.1's VAE does.
    """

    def __init__(self, channels: int, scale: int, alpha: bool = False):
        self.latent_channels, self.scale, self.latent_dim, self.alpha = channels, scale, 2, alpha
        self.mix = torch.randn(3, channels, generator=torch.Generator().manual_seed(9))
        self.patcher, self.first_stage_model = SimpleNamespace(patches_uuid="average"), torch.nn.Linear(1, 1)

    def spacial_compression_encode(self) -> int:
        return self.scale

    def encode(self, image: Tensor) -> Tensor:
        small = F.avg_pool2d(image[..., :3].movedim(-1, 1) * 2 - 1, self.scale)
        return torch.einsum("bchw,cd->bdhw", small, self.mix)

    def decode(self, latent: Tensor) -> Tensor:
        small = torch.einsum("bdhw,dc->bhwc", latent, torch.linalg.pinv(self.mix))
        image = (small.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2) / 2 + 0.5).clamp(0, 1)
        return torch.cat([image, torch.full_like(image[..., :1], 0.3)], -1) if self.alpha else image


class OfFilms(AverageVAE):
    """As Wan's VAE, which Qwen-Image has: latents have a time axis."""

    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image)[:, :, None]


def vae_of(name: str) -> AverageVAE:
    return AverageVAE(STOCK[name].channels, STOCK[name].scale, alpha=name.startswith("qwen-image-2.1"))
