"""ComfyUI nodes: each a schema and a few lines; what is computed is in `lazy_core`, what the host hides is in
`host`.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io


class LazyDiffusionExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from comfyui_version import __version__

        from .host.symbols import check_host

        check_host(__version__)  # before what follows imports them
        from .batch import LazyBatchEdits, LazyDecodeBatch
        from .canvas import LazyCanvas, LazyResult
        from .context import LazyEncodeContext
        from .decode import LazyDecode
        from .host.memory import when_freed
        from .host.model_files import register_model_folder
        from .host.version import report_version
        from .loader import LazyModelLoader
        from .mask import LazyMaskDilate
        from .memory import forget_caches
        from .saved import LazyLoadContext, LazySaveContext
        from .sketch import LazySketchCondition

        report_version()
        when_freed(forget_caches)
        register_model_folder()  # not in on_load: ComfyUI 0.3.75 never calls it
        return [
            LazyModelLoader,
            LazyMaskDilate,
            LazyEncodeContext,
            LazySketchCondition,
            LazyDecode,
            LazyCanvas,
            LazyResult,
            LazySaveContext,
            LazyLoadContext,
            LazyBatchEdits,
            LazyDecodeBatch,
        ]
