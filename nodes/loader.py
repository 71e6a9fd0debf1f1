from __future__ import annotations

from comfy_api.latest import io

from .checks import check_choice, explains_memory
from .host.load import load_all
from .host.model_files import model_names
from .schema import Choice, schema


class LazyModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["checkpoint", "inpaint model", "load model", "局部重绘", "加载模型"],
            node_id="LazyModelLoader",
            display_name="Load Lazy Model",
            category="lazydiffusion",
            description=(
                "Loads a LazyDiffusion model with its text encoder and VAE. The model that ships with the pack is in"
                " the list."
            ),
            inputs=[
                Choice(
                    "model_name",
                    options=model_names(),
                    tooltip="A .safetensors file in models/lazydiffusion, or the shipped model.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="Context encoder and decoder, for Encode Context and Lazy Decode."
                ),
                io.Clip.Output(display_name="CLIP", tooltip="Text encoder, for CLIP Text Encode."),
                io.Vae.Output(display_name="VAE", tooltip="Autoencoder whose latents the model knows."),
            ],
        )

    @classmethod
    @explains_memory
    def execute(cls, model_name: str) -> io.NodeOutput:
        check_choice(model_names(), model_name=model_name)
        return io.NodeOutput(*load_all(model_name))
