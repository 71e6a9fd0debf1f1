"""Memory that runs out is tried for again with less; what is kept between edits is given back; a host without a symbol
is told so."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from comfy_client import ComfyClient
from devtools.graphs import edit_graph
from host_graphs import Lazy, box_mask, figures, image_of, mask_of, random_canvas, upload

ROOT = Path(__file__).resolve().parents[2]
CANVAS = image_of(random_canvas(np.random.default_rng(31), 48, 64))
HOLE = mask_of(box_mask(48, 64, 8, 8, 40, 40))
CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99"
    " bytes."
)
KINDS = {"GPU": torch.cuda.OutOfMemoryError("no room"), "CPU": RuntimeError(CPU), "Python": MemoryError()}


class Once:
    """Fails the first time, then calls `original`."""

    def __init__(self, original: Any, error: BaseException):
        self.original, self.error, self.calls = original, error, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.original(*args, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_encoder_is_tried_again(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, caplog: Any, kind: str):
    cache, engines = lazy.pack.nodes.context.CACHE, lazy.pack.nodes.engines
    cache.clear()
    expected = lazy.encode(CANVAS, HOLE)[0].tokens
    cache.clear()
    again = Once(engines.encode_context, KINDS[kind])
    monkeypatch.setattr(engines, "encode_context", again)
    with caplog.at_level("WARNING"):
        context, told = lazy.encode(CANVAS, HOLE)
    assert again.calls == 2 and told["encoder_ran"] and torch.equal(context.tokens, expected)
    assert "Encode Context ran out of memory; trying again" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_encoder_is_tried_again(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    prompt = "a red apple and then " * 6
    expected = lazy.text(prompt)[0][0]
    again = Once(lazy.clip.cond_stage_model.text.forward, KINDS[kind])
    monkeypatch.setattr(lazy.clip.cond_stage_model.text, "forward", again)
    assert torch.allclose(lazy.text(prompt)[0][0], expected, atol=1e-5) and again.calls == 1 + expected.shape[1] // 16


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_is_tried_again(lazy: Lazy, monkeypatch: pytest.MonkeyPatch, kind: str):
    context = lazy.encode(CANVAS, HOLE)[0]
    expected = lazy.decode(context)[0]
    prepared = lazy.pack.nodes.host.model.PreparedPerBatch
    monkeypatch.setattr(prepared, "__init__", Once(prepared.__init__, KINDS[kind]))
    assert torch.equal(lazy.decode(context)[0], expected)


def test_another_error_is_not_tried_again(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    engines = lazy.pack.nodes.engines
    lazy.pack.nodes.context.CACHE.clear()
    again = Once(engines.encode_context, RuntimeError("shapes cannot be multiplied"))
    monkeypatch.setattr(engines, "encode_context", again)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        lazy.encode(CANVAS, HOLE)
    assert again.calls == 1


def test_caches_take_a_part_of_the_machines_memory_and_are_forgotten_together(lazy: Lazy):
    memory, context, vae = (lazy.node_module(name) for name in ("memory", "context", "host.vae"))
    gigabyte = 1 << 30
    sizes = {total: memory.part_of_memory(512 << 20, total * gigabyte) >> 20 for total in (1, 4, 8, 16, 256)}
    assert sizes == {1: 64, 4: 128, 8: 256, 16: 512, 256: 512}
    assert memory.part_of_memory(8 << 20, gigabyte) == 8 << 20
    lazy.edit(CANVAS, HOLE)
    assert len(context.CACHE) and len(vae.CANVASES.cache)
    memory.forget_caches()
    assert not len(context.CACHE) and not len(vae.CANVASES.cache) and not len(vae.RECORDS.cache)


def test_free_on_the_server_frees_what_the_pack_keeps(server: ComfyClient):
    names = upload(server, "free", random_canvas(np.random.default_rng(9), 48, 64), box_mask(48, 64, 8, 8, 40, 40))

    def encoder_ran(seed: int) -> bool:
        """In a workflow that the graph's cache does not know."""
        graph = edit_graph(*names, seed=seed, steps=1)
        graph["mask"]["inputs"]["channel"] = ("red", "green", "blue")[seed % 3]
        return figures(server.queue(graph), "context")["encoder_ran"]

    assert [encoder_ran(0), encoder_ran(1)] == [True, False]
    server.post("/free", {"free_memory": True})
    assert [encoder_ran(2), encoder_ran(0)] == [True, False]


# -- the host's symbols ------------------------------------------------------------------------------------------------
HOST = ("comfy", "comfyui_version", "folder_paths", "latent_preview", "node_helpers", "server")


def used_in(path: Path) -> set[str]:
    """Dotted names of the host that a module of the pack imports or reads."""
    tree, names, found = ast.parse(path.read_text(encoding="utf-8")), {}, set()
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            for alias in part.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                found.add(alias.name)
        elif isinstance(part, ast.ImportFrom) and part.level == 0:
            names |= {alias.asname or alias.name: f"{part.module}.{alias.name}" for alias in part.names}
            found |= {f"{part.module}.{alias.name}" for alias in part.names}

    def dotted(part: ast.AST) -> str | None:
        if isinstance(part, ast.Name):
            return names.get(part.id)
        inner = dotted(part.value) if isinstance(part, ast.Attribute) else None
        return f"{inner}.{part.attr}" if inner and isinstance(part, ast.Attribute) else None

    found |= {name for part in ast.walk(tree) if (name := dotted(part))}
    return {name for name in found if name.partition(".")[0] in HOST}


def test_every_symbol_of_the_host_is_in_the_table_and_there(lazy: Lazy):
    symbols = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.symbols")
    used = {name for path in (ROOT / "nodes").rglob("*.py") for name in used_in(path)}
    longest = {name for name in used if not any(other.startswith(name + ".") for other in used)}
    assert sorted(longest - symbols.SEEN.keys()) == [] and sorted(symbols.SEEN.keys() - longest) == []
    assert symbols.missing(list(symbols.SEEN)) == []
    symbols.check_host("0.3.75")


def test_a_host_without_a_symbol_is_told_so(lazy: Lazy, monkeypatch: pytest.MonkeyPatch):
    symbols = importlib.import_module(f"{lazy.pack.__name__}.nodes.host.symbols")
    gone = {
        "comfy.samplers.KSampler.WINGS": "0.33.0",
        "comfy.wings": "0.3.75",
        "comfy.wings.flap": "0.3.75",
        "feathers": "0.3.75",
    }
    monkeypatch.setattr(symbols, "SEEN", {**symbols.SEEN, **gone})
    says = (
        r"ComfyUI 9\.9 has no comfy\.samplers\.KSampler\.WINGS, comfy\.wings, comfy\.wings\.flap, … \(last seen in"
        r" 0\.33\.0\), "
        r"which LazyDiffusion needs\. Update ComfyUI-LazyDiffusion, or use a ComfyUI from 0\.3\.75 to 0\.33\.0\."
    )
    with pytest.raises(ImportError, match=says):
        symbols.check_host("9.9")
