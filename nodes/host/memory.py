"""How much memory the host has, and how it is given back."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import comfy.model_management as mm
import torch
from aiohttp import web


def free_memory() -> int:
    """Bytes of main memory that are left."""
    return int(mm.get_free_memory(torch.device("cpu")))


def where_there_is_room(size: int, device: torch.device) -> bool:
    """Whether so many bytes on `device` leave enough for a model's own work (a `lazy_core.kv.store.Place`)."""
    return device.type == "cpu" or mm.get_free_memory(device) - size > mm.minimum_inference_memory()


def in_main_memory(size: int, device: torch.device) -> bool:
    return False


def with_room_for(model: Any, shape: list[int], kept: int) -> list[int]:
    """A latent's shape [B, C, ..., h, w], so much higher that the host, making room for it, makes room for `kept` bytes
    as well.

    Other models have to go for that, but no part of this one: it would be brought back at every step. What does not fit
    beside it is kept in main memory (`where_there_is_room`).
    """
    device = model.load_device
    needed = model.model.memory_required([2 * shape[0], *shape[1:]])
    if device.type == "cpu" or not needed:
        return shape
    held = sum(each.model_loaded_memory() for each in mm.current_loaded_models if each.device == device)
    left = mm.get_free_memory(device) + held - model.model_size() - needed - mm.minimum_inference_memory()
    return [*shape[:-2], math.ceil(shape[-2] * (1 + min(kept, max(left, 0)) / needed)), shape[-1]]


def total_memory() -> int:
    """Bytes of main memory that the machine has."""
    return int(mm.total_ram * (1 << 20))


def give_memory_back() -> None:
    mm.soft_empty_cache(True)


def unload_other_models() -> None:
    """For a second try after memory ran out: everything goes, and what runs next is loaded again."""
    mm.unload_all_models()
    give_memory_back()


def when_freed(forget: Callable[[], None]) -> None:
    """Have `forget` called when somebody asks the host to free memory (the page's buttons, POST /free), as its own
    caches are.
    """

    @web.middleware
    async def watch(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        if request.method == "POST" and request.path in ("/free", "/api/free") and response.status == 200:
            forget()
        return response

    # Only where a server runs: its module is imported then, and is too much for whoever calls nodes without one.
    running = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if running is not None:
        running.app.middlewares.append(watch)
