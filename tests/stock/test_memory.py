"""Stock edits keep nothing: after a hundred there are as many tensors as after twenty."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from host_graphs import Lazy
from stock_models import conditioning, make_stock, vae_of

EDITS = pytest.mark.parametrize("edits", [30, pytest.param(100, marks=pytest.mark.nightly)])


@pytest.fixture(autouse=True)
def _inference() -> Any:
    with torch.inference_mode():
        yield


def held() -> int:
    """Bytes of all tensors that are alive in this process."""
    gc.collect()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in gc.get_objects() if isinstance(x, Tensor)
    }
    return sum(storages.values())


@EDITS
@pytest.mark.parametrize("reuse", ["fast", "exact"])
def test_edits_of_ever_new_canvases_hold_no_more(lazy: Lazy, reuse: str, edits: int):
    name = "flux"
    model, vae = make_stock(name), vae_of(name)
    given = {"model": model, "vae": vae, "positive": conditioning(name, 3), "negative": conditioning(name, 4)}
    mask = torch.zeros(1, 128, 128)
    mask[:, 32:64, 32:80] = 1
    memory, sizes = lazy.pack.nodes.memory, []
    for seed in range(edits):
        image = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(seed))
        context, _ = lazy.encode(image, mask, model=model, vae=vae, reuse=reuse)
        lazy.decode(context, **given, seed=seed, steps=3, cfg=4.0)
        del context
        if seed % 10 == 9:
            memory.forget_caches()  # what is kept on purpose has limits of its own
            sizes.append(held())
    assert sizes[-1] <= sizes[1] + 100_000, [size - sizes[0] for size in sizes]
