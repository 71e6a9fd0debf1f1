"""ComfyUI-LazyDiffusion: local image edits whose cost follows the mask, not the image."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """What ComfyUI calls; the import waits until then, so that importing the pack costs nothing."""
    from .nodes import LazyDiffusionExtension

    return LazyDiffusionExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
