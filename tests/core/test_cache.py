"""The bounded cache that is keyed by content, and the CONTEXT in it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lazy_core.cache import ContentCache, content_key
from lazy_core.context import Context


def test_cache_is_bounded_and_content_addressed(editor):
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    size = editor.encode(image, mask).get_ram_usage()
    cache: ContentCache[Context] = ContentCache(limit=int(2.5 * size))
    images = [image, image + 0.001, image + 0.002, image]
    ran = [cache.get_or_make(content_key(i, mask, "model"), lambda i=i: editor.encode(i, mask))[1] for i in images]
    assert ran == [True, True, True, True]  # the third pushed the first out
    assert len(cache) == 2 and cache.bytes <= cache.limit and cache.runs == 4
    assert (
        cache.get_or_make(content_key(image.clone(), mask, "model"), lambda: pytest.fail("encoded again"))[1] is False
    )
    assert content_key(image, mask, "a") != content_key(image, mask, "b") != content_key(mask, image, "b")
    assert content_key(image.view(1, 3, 16, 64), "a") != content_key(image, "a")


def test_cache_gives_way_when_memory_is_short(editor):
    """What is dropped is made again: never an error, never more than the machine has."""
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    make = lambda: editor.encode(torch.rand(1, 3, 32, 32), mask)  # noqa: E731
    size, left = make().get_ram_usage(), 1 << 40
    cache: ContentCache[Context] = ContentCache(limit=10 * size, free=lambda: left, reserve=1000)
    for key in "abcd":
        cache.get_or_make(key, make)
    assert len(cache) == 4
    left = 1000 - size  # something else took the memory: one value too many
    assert cache.get_or_make("d", make)[1] is False
    assert len(cache) == 3 and cache.bytes == 3 * size
    left = 0
    assert cache.get_or_make("e", make)[1] is True
    left = 1 << 40
    assert cache.get_or_make("f", make)[1] is True
    assert cache.bytes == len(cache) * size


def test_cache_is_shared_by_threads(editor):
    """Queued prompts and other threads: counts and bytes stay right."""
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:20, 4:20] = 1
    value = editor.encode(torch.rand(1, 3, 32, 32), mask)
    cache: ContentCache[Context] = ContentCache(limit=3 * value.get_ram_usage())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: cache.get_or_make(str(i % 7), lambda: value), range(400)))
    assert len(cache) == 3
    assert cache.bytes == 3 * value.get_ram_usage()


def test_context_is_a_value(editor):
    context = editor.encode(torch.rand(1, 3, 32, 32), torch.ones(1, 32, 32))
    with pytest.raises(AttributeError):
        context.model = "other"  # type: ignore[misc]
    assert sum(t.nbytes for t in context._comfy_cache_tensors()) == context.get_ram_usage() > 0
    assert len(repr(context)) < 120
    assert all(t.device.type == "cpu" for t in context.tensors())
