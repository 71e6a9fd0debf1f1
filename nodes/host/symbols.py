"""Every symbol of the host beside its public node API that the pack uses, with the ComfyUI version in which it was
last seen.

Looked up before anything else is imported, so that a host without one says so in a sentence. A test holds the table
against the code.
"""

from __future__ import annotations

import importlib
from typing import Any

OLDEST = "0.3.75"
SEEN: dict[str, str] = {
    "comfy.cli_args.args": "0.33.0",
    "comfy.conds.CONDConstant": "0.33.0",
    "comfy.conds.CONDRegular": "0.33.0",
    "comfy.latent_formats.LatentFormat": "0.33.0",
    "comfy.latent_formats.SD15": "0.33.0",
    "comfy.ldm.lumina.model.JointAttention": "0.33.0",
    "comfy.ldm.modules.attention.attention_pytorch": "0.33.0",
    "comfy.ldm.modules.attention.optimized_attention": "0.33.0",
    "comfy.ldm.modules.diffusionmodules.model.AttnBlock": "0.33.0",
    "comfy.ldm.modules.diffusionmodules.model.Decoder": "0.33.0",
    "comfy.ldm.modules.diffusionmodules.model.ResnetBlock": "0.33.0",
    "comfy.ldm.modules.diffusionmodules.model.Upsample": "0.33.0",
    "comfy.ldm.pixart.pixartms": "0.33.0",
    "comfy.model_base.BaseModel": "0.33.0",
    "comfy.model_base.ModelType.EPS": "0.33.0",
    "comfy.model_base.ModelType.FLOW": "0.33.0",
    "comfy.model_management.current_loaded_models": "0.33.0",
    "comfy.model_management.dtype_size": "0.33.0",
    "comfy.model_management.get_free_memory": "0.33.0",
    "comfy.model_management.get_torch_device": "0.33.0",
    "comfy.model_management.intermediate_device": "0.33.0",
    "comfy.model_management.load_models_gpu": "0.33.0",
    "comfy.model_management.minimum_inference_memory": "0.33.0",
    "comfy.model_management.module_size": "0.33.0",
    "comfy.model_management.soft_empty_cache": "0.33.0",
    "comfy.model_management.text_encoder_device": "0.33.0",
    "comfy.model_management.total_ram": "0.33.0",
    "comfy.model_management.unet_dtype": "0.33.0",
    "comfy.model_management.unet_manual_cast": "0.33.0",
    "comfy.model_management.unet_offload_device": "0.33.0",
    "comfy.model_management.unload_all_models": "0.33.0",
    "comfy.model_management.vae_offload_device": "0.33.0",
    "comfy.model_patcher.ModelPatcher": "0.33.0",
    "comfy.ops.manual_cast": "0.33.0",
    "comfy.patcher_extension.CallbacksMP.ON_DETACH": "0.33.0",
    "comfy.patcher_extension.WrappersMP.APPLY_MODEL": "0.33.0",
    "comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL": "0.33.0",
    "comfy.sample.sample": "0.33.0",
    "comfy.samplers.KSampler.SAMPLERS": "0.33.0",
    "comfy.samplers.KSampler.SCHEDULERS": "0.33.0",
    "comfy.sd.CLIP": "0.33.0",
    "comfy.sd.VAE": "0.33.0",
    "comfy.sd1_clip.escape_important": "0.33.0",
    "comfy.sd1_clip.token_weights": "0.33.0",
    "comfy.sd1_clip.unescape_important": "0.33.0",
    "comfy.supported_models_base.BASE": "0.33.0",
    "comfy.supported_models_base.ClipTarget": "0.33.0",
    "comfy.utils.PROGRESS_BAR_ENABLED": "0.33.0",
    "comfy.utils.ProgressBar": "0.33.0",
    "comfyui_version.__version__": "0.33.0",
    "folder_paths.add_model_folder_path": "0.33.0",
    "folder_paths.exists_annotated_filepath": "0.33.0",
    "folder_paths.folder_names_and_paths": "0.33.0",
    "folder_paths.get_annotated_filepath": "0.33.0",
    "folder_paths.get_filename_list": "0.33.0",
    "folder_paths.get_full_path_or_raise": "0.33.0",
    "folder_paths.get_input_directory": "0.33.0",
    "folder_paths.get_output_directory": "0.33.0",
    "folder_paths.get_save_image_path": "0.33.0",
    "folder_paths.get_temp_directory": "0.33.0",
    "folder_paths.models_dir": "0.33.0",
    "latent_preview.Latent2RGBPreviewer": "0.33.0",
    "latent_preview.get_previewer": "0.33.0",
    "node_helpers.conditioning_set_values": "0.33.0",
}


def missing(symbols: list[str]) -> list[str]:
    """Those of `symbols` ("module.name.name") that this host lacks."""
    return [symbol for symbol in symbols if not is_there(symbol)]


def is_there(symbol: str) -> bool:
    module, _, rest = symbol.rpartition(".")
    names = [rest]
    while module:
        try:
            value: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
                return True  # the module is there; what it imports is not, in this process
            module, _, last = module.rpartition(".")
            names.insert(0, last)
            continue
        return found(value, names) or is_module(symbol)
    return False


def found(value: Any, names: list[str]) -> bool:
    for name in names:
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


def is_module(symbol: str) -> bool:
    try:
        importlib.import_module(symbol)
    except ModuleNotFoundError:
        return False
    return True


def check_host(version: str) -> None:
    """Raises ImportError that names what ComfyUI `version` lacks, and with which versions the pack works."""
    gone = missing(list(SEEN))
    if gone:
        names, newest = ", ".join(gone[:3]) + (", …" if len(gone) > 3 else ""), max(SEEN[name] for name in gone)
        raise ImportError(
            f"ComfyUI {version} has no {names} (last seen in {newest}), which LazyDiffusion needs. "
            f"Update ComfyUI-LazyDiffusion, or use a ComfyUI from {OLDEST} to {newest}."
        )
