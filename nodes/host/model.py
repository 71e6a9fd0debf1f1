"""MODEL: a checkpoint's transformer behind the calls that the host makes."""

from __future__ import annotations

from typing import Any, ClassVar

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor

from ...lazy_core.checkpoint import Checkpoint
from ...lazy_core.checks.keys import check_keys
from ...lazy_core.config import LazyConfig
from ...lazy_core.diffusion.parametrisation import parametrisation
from ...lazy_core.networks.cuda_graphs import StepGraphs
from ...lazy_core.networks.decoder import Conditioning, PreparedInputs
from ...lazy_core.networks.layers import Build
from ...lazy_core.networks.positions import window_coordinates
from ...lazy_core.networks.transformer import LazyTransformer, store_for_few_rows
from ...lazy_core.tokens import from_strip, to_strip
from ..stock.families import supported
from .attention import graphs_wanted, host_attention
from .patches import refuse_replaced


class PreparedPerBatch:
    """What the decoder prepared in one sampling run, per batch of conditionings; it lives no longer than the run."""

    def __init__(self) -> None:
        self.prepared: dict[Any, PreparedInputs] = {}
        self.rows = 0  # images of all model calls so far, once for each branch of guidance


class LazyDiffusionModel(LazyTransformer):
    """`LazyTransformer` behind the signature that the host calls: a packed strip of hole tokens in, velocity or noise
    out.
    """

    def __init__(self, lazy: LazyConfig, dtype: torch.dtype | None = None, device: Any = None, operations: Any = None):
        super().__init__(lazy, Build(operations, dtype, device, host_attention))
        self.dtype, self.graphs = dtype, StepGraphs(graphs_wanted)
        self.in_channels = (
            lazy.latent_channels
        )  # guidance nodes made for one of the host's transformers read it (RenormCFG)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor | None = None,
        lazy_tokens: Tensor | None = None,
        lazy_index: Tensor | None = None,
        lazy_token_mask: Tensor | None = None,
        lazy_edges: Tensor | None = None,
        lazy_grid: Any = None,
        lazy_sizes: Tensor | None = None,
        lazy_prepared: PreparedPerBatch | None = None,
        transformer_options: Any = None,
        **_: Any,
    ) -> Tensor:
        """Strip x [B, C, K p, p], timestep [B] in 0..1000, text `context` [B, L, T] -> strip of the same shape."""
        if lazy_tokens is None or lazy_index is None or lazy_grid is None or context is None:
            raise ValueError(
                "a LazyDiffusion model was sampled without a CONTEXT. Use the Lazy Decode node instead of KSampler."
            )
        refuse_replaced(transformer_options)

        def prepare() -> PreparedInputs:
            coordinates = window_coordinates(lazy_grid, lazy_index, self.config, lazy_sizes)  # [R, K, 2]
            token_mask, image_size = (
                None if lazy_token_mask is None else lazy_token_mask > 0,
                (lazy_grid.height, lazy_grid.width),
            )
            conditioning = Conditioning(lazy_tokens, coordinates, context, token_mask, image_size, lazy_edges)
            return self.decoder.prepare(conditioning, shared_timestep=True)

        tokens = from_strip(x, self.config.patch_size)  # [B, K, C p p]
        batch = tuple((transformer_options or {}).get("uuids", ()))  # which conditionings this call carries, in order
        if lazy_prepared is None or not batch:
            output = self.decoder.step(tokens, timestep, prepare())
        else:
            lazy_prepared.rows += len(x)
            prepared = lazy_prepared.prepared.get(batch) or lazy_prepared.prepared.setdefault(batch, prepare())
            output = self.graphs.step(self.decoder, tokens, timestep, prepared)
        velocity = parametrisation(self.config.prediction).to_velocity(
            output, tokens, timestep
        )  # what the host's samplers follow
        return to_strip(velocity, self.config.patch_size)


class HostModel(comfy.model_base.BaseModel):
    def __init__(self, model_config: Any, model_type: Any, device: Any = None):
        super().__init__(model_config, model_type, device=device, unet_model=LazyDiffusionModel)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        out = super().extra_conds(**kwargs)
        for name in ("lazy_tokens", "lazy_index", "lazy_token_mask", "lazy_edges", "lazy_sizes"):
            if kwargs.get(name) is not None:
                out[name] = comfy.conds.CONDRegular(kwargs[name])
        for name in ("lazy_grid", "lazy_prepared"):
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
        raise ValueError(
            f"a LazyDiffusion model has no '{key}': the node that asks for it is made for UNets. Remove it."
        )


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
    host.sampling_settings = {
        "beta_schedule": "sqrt_linear",
        "linear_start": 1e-4,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
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
    expected = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if key.startswith("diffusion_model.")
    }
    check_keys(expected, weights, "the checkpoint's transformer")
    model.load_state_dict(weights, strict=False)
    if device.type == "cpu":
        store_for_few_rows(model)
    model.lazy_identity, model.lazy_styles = checkpoint.identity, checkpoint.styles
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    # What the captured steps hold goes with the weights when the host makes room for another model.
    patcher.add_callback(CallbacksMP.ON_DETACH, lambda patcher, *_: transformer_of(patcher).graphs.clear())
    return patcher


def transformer_of(model: Any) -> LazyDiffusionModel:
    """The transformer inside a MODEL of ours. Raises ValueError for any other model."""
    inner = getattr(getattr(model, "model", None), "diffusion_model", None)
    if not isinstance(inner, LazyDiffusionModel):
        kind = type(getattr(model, "model", model)).__name__
        raise ValueError(
            f"the model is a {kind}, expected a LazyDiffusion model. Connect the Load Lazy Model node, or a checkpoint"
            f" of {supported()}."
        )
    return inner
