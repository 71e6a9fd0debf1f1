from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..lazy_core.context_file import read_context, to_bytes
from .checks import explains_memory
from .context import ContextType
from .host import context_files
from .host.files import write_whole
from .images import check_context
from .schema import Choice, schema


class LazySaveContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["save context", "store context", "保存上下文", "保存"],
            node_id="LazySaveContext",
            display_name="Save Context",
            category="lazydiffusion",
            description=(
                "Writes a CONTEXT into output/lazydiffusion/contexts: encode here, decode on another machine, or"
                " tomorrow. The file holds the canvas and its mask."
            ),
            inputs=[
                ContextType.Input("context", tooltip="From Encode Context or Sketch Condition."),
                io.String.Input(
                    "filename_prefix",
                    default="context",
                    tooltip="Name of the file, to which a number is added; / makes folders.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="context_name", tooltip="The file's name, as Load Context lists it.")
            ],
            is_output_node=True,
        )

    @classmethod
    @explains_memory
    def execute(cls, context: Any, filename_prefix: str) -> io.NodeOutput:
        content = to_bytes(check_context(context))
        path = context_files.new_path(filename_prefix)
        write_whole(path, content)
        name = path.relative_to(context_files.folder()).as_posix()
        return io.NodeOutput(name, ui={"lazydiffusion": [{"file": name, "bytes": len(content)}]})


class LazyLoadContext(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            ["load context", "加载上下文", "加载"],
            node_id="LazyLoadContext",
            display_name="Load Context",
            category="lazydiffusion",
            description=(
                "Reads a CONTEXT that Save Context wrote. Lazy Decode refuses it with another VAE than it was made"
                " with, and a LazyDiffusion model's with another model or LoRA."
            ),
            inputs=[
                Choice(
                    "context_name",
                    options=context_files.names(),
                    tooltip="A file in output/lazydiffusion/contexts, the newest first.",
                ),
            ],
            outputs=[ContextType.Output(display_name="CONTEXT", tooltip="For Lazy Decode and Sketch Condition.")],
        )

    @classmethod
    def fingerprint_inputs(cls, context_name: str) -> str:
        """Another file under the same name is read again."""
        state = context_files.path_of(context_name).stat()
        return f"{context_name} {state.st_size} {state.st_mtime_ns}"

    @classmethod
    @explains_memory
    def execute(cls, context_name: str) -> io.NodeOutput:
        context = read_context(context_files.path_of(context_name))
        figures = {"hole_tokens": context.hole_tokens, "all_tokens": context.hole.total}
        return io.NodeOutput(context, ui={"lazydiffusion": [figures]})
