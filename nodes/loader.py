from __future__ import annotations

from comfy_api.latest import io

from . import host
from .images import not_offered


class LazyModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LazyModelLoader",
            display_name="Load Lazy Model",
            category="lazydiffusion",
            description="Loads a LazyDiffusion model with its text encoder and VAE. The model that ships with the pack is in the list.",
            inputs=[
                io.Combo.Input(
                    "model_name", options=host.model_names(), tooltip="A .safetensors file in models/lazydiffusion, or the shipped model."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="Context encoder and decoder, for Encode Context and Lazy Decode."),
                io.Clip.Output(display_name="CLIP", tooltip="Text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="VAE", tooltip="Autoencoder whose latents the model knows."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model_name: str | None) -> bool | str:
        return not_offered(model_name=(model_name, host.model_names()))

    @classmethod
    def execute(cls, model_name: str) -> io.NodeOutput:
        return io.NodeOutput(*host.load_all(model_name))
