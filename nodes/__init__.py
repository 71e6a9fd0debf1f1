"""ComfyUI nodes: each a schema and a few lines; what is computed is in `lazy_core`, what the host hides is in `host`."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class LazyDiffusionExtension(ComfyExtension):
    async def on_load(self) -> None:
        from .host import register_model_folder

        register_model_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .context import LazyEncodeContext
        from .decode import LazyDecode
        from .loader import LazyModelLoader
        from .mask import LazyMaskDilate
        from .sketch import LazySketchCondition

        return [LazyModelLoader, LazyMaskDilate, LazyEncodeContext, LazySketchCondition, LazyDecode]
