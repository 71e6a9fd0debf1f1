"""Starting from a sketch: colours and lines."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lazy_core.config import PRESETS
from lazy_core.context import StockTerms
from lazy_core.editor import LazyEditor
from lazy_core.model import LazyDiffusion
from lazy_core.networks.decoder import Conditioning
from lazy_core.pipeline import hole_coordinates
from lazy_core.sketch import add_edges, add_sketch
from lazy_core.tokens import patchify
from made import decode_with


def test_sketch(editor):
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:48] = 1
    context, sketch = editor.encode(image, mask), torch.zeros(1, 3, 64, 64)
    assert add_sketch(context, sketch, 0.0, editor.to_latent) is context
    sketched = add_sketch(context, sketch, 0.3, editor.to_latent)
    with torch.no_grad():
        drawn = editor.to_latent(torch.where(mask[:, None] > 0, sketch, image))
    asked, _ = decode_with(editor, sketched, 0.5)
    assert torch.equal(asked[0][0], context.hole.gather(patchify(drawn, 2)))
    assert asked[0][1] == pytest.approx(0.5 * 0.7)
    assert (
        decode_with(editor, add_sketch(context, sketch, 1.0, editor.to_latent), 1.0)[0] == []
    )  # kept as drawn: nothing to denoise
    partly = add_sketch(context, sketch, 0.3, editor.to_latent, where=torch.zeros(1, 64, 64))
    assert partly.sketch is not None and sketched.sketch is not None
    assert not torch.equal(partly.sketch.tokens, sketched.sketch.tokens)
    with pytest.raises(ValueError, match=r"strength is 1\.5, expected 0"):
        add_sketch(context, sketch, 1.5, editor.to_latent)
    with pytest.raises(ValueError, match=r"sketch is 32 x 64 px, expected the canvas's 64 x 64"):
        add_sketch(context, sketch[..., :32], 0.5, editor.to_latent)


@pytest.fixture(scope="module")
def tracer(checkpoint) -> LazyEditor:
    """The same model with a place for edges, as if trained on them."""
    plain = LazyEditor.load(checkpoint)
    model = LazyDiffusion(replace(PRESETS["tiny"], edges=True)).eval()
    weights = plain.model.state_dict()
    added = {key: torch.randn_like(value) for key, value in model.state_dict().items() if key not in weights}
    assert {key.rpartition(".")[0] for key in added} == {"transformer.decoder.edge_embedder"}
    model.load_state_dict({**weights, **added})
    return LazyEditor(model, plain.tokenizer, plain.identity)


def test_edges(editor, tracer):
    image, mask = torch.rand(1, 3, 61, 64), torch.zeros(1, 61, 64)
    mask[0, 16:48, 16:60] = 1
    drawing = torch.zeros(1, 3, 61, 64)
    drawing[..., 20:40, 30] = 1
    context = tracer.encode(image, mask)
    assert add_edges(context, drawing, 0.0) is context
    lined, inverse, half = (add_edges(context, x, s) for x, s in ((drawing, 1.0), (1 - drawing, 1.0), (drawing, 0.5)))
    assert lined.edges is not None and inverse.edges is not None and half.edges is not None
    assert torch.equal(lined.edges, inverse.edges), "dark on light and light on dark are the same lines"
    assert torch.equal(half.edges, lined.edges / 2) and lined.edges.sum() == 20
    token = context.hole.index[0].tolist().index(1 * context.grid.cols + 1)  # rows and columns 16 to 32
    assert torch.equal(lined.edges[0, token].view(16, 16)[4:, 14], torch.ones(12))
    results = [tracer.decode(known, "red apple", 3, 2, blend="none") for known in (context, lined, half)]
    changed = [(result - results[0]).abs().mean() for result in results[1:]]
    assert changed[0] > changed[1] > 0
    assert all(torch.equal(result[:, :, mask[0] == 0], image[:, :, mask[0] == 0]) for result in results)
    nothing = add_edges(context, drawing, 1.0, where=torch.zeros(1, 61, 64))
    assert torch.equal(
        tracer.decode(nothing, "red apple", 3, 2),
        tracer.decode(add_edges(context, 0 * drawing, 1.0), "red apple", 3, 2),
    )
    with pytest.raises(ValueError, match=r"not trained with edge maps\. Draw a colour sketch"):
        editor.decode(add_edges(editor.encode(image, mask), drawing, 1.0), "red apple")
    with pytest.raises(ValueError, match="stock checkpoint"):
        add_edges(context.with_(stock=StockTerms("fast")), drawing, 1.0)


def test_no_edges_are_empty_edges(tracer):
    """Training gives empty drawings where nobody drew; an edit without a sketch must mean the same to the network."""
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64)
    mask[0, 16:48, 16:60] = 1
    context = tracer.encode(image, mask)
    assert tracer.model.transformer.decoder.edge_embedder.bias.abs().max() > 0.1
    empty = context.with_(edges=torch.zeros(1, context.hole.count, 256))
    assert torch.equal(tracer.decode(context, "red apple", 3, 2), tracer.decode(empty, "red apple", 3, 2))


def test_edges_of_a_batch_of_different_holes(tracer):
    """Packed or one by one: each image follows its own lines."""
    image, mask, drawing = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64), torch.zeros(2, 3, 64, 64)
    mask[0, :16, :16], mask[1] = 1, 1
    drawing[0, :, 3:9, 8], drawing[1, :, :, 40] = 1, 1
    context = add_edges(tracer.encode(image, mask), drawing, 1.0)
    edges, padding = context.edges, context.hole.token_mask
    assert edges is not None and padding is not None
    decoder, caption = tracer.model.transformer.decoder, tracer.caption(["apple"])
    noise = context.hole.gather(torch.randn(2, context.hole.total, 16))
    coordinates = hole_coordinates(context, tracer.model.transformer)

    def output(rows: slice, packed: bool, edges: torch.Tensor = edges) -> torch.Tensor:
        """Of one decoder pass on some of the images, padding cut off where there is one image."""
        count = int(context.hole.valid[rows].sum(1).max())
        keys = padding[rows, :count]
        texts = caption.expand(len(keys), -1, -1)
        conditioning = Conditioning(
            context.tokens[rows, :count], coordinates[rows, :count], texts, keys, edges=edges[rows, :count]
        )
        given = decoder.prepare(conditioning, shared_timestep=packed)
        return decoder.step(noise[rows, :count], torch.full((len(keys),), 500.0), given)

    with torch.no_grad():
        together, alone = output(slice(0, 2), packed=True), [output(slice(i, i + 1), packed=False) for i in range(2)]
        for i, one in enumerate(alone):
            assert torch.allclose(together[i : i + 1, : one.shape[1]], one, atol=1e-4)
        swapped = output(slice(0, 1), packed=False, edges=edges.flip(0))
        assert not torch.allclose(swapped, alone[0], atol=1e-3), "another image's lines would be seen"


def test_edge_padding_repeats_nothing_of_the_hole(editor):
    """41 x 55 px are padded to whole tokens; the hole lies at the padded edges."""
    image, mask = torch.rand(1, 3, 41, 55), torch.zeros(1, 41, 55)
    mask[0, 25:, 20:] = 1
    other = torch.where(mask[:, None] > 0, torch.rand_like(image), image)
    first, second = (editor.encode(canvas, mask) for canvas in (image, other))
    assert torch.equal(first.tokens, second.tokens) and torch.equal(first.latent, second.latent)
