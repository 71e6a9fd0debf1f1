"""Steps as CUDA graphs: what is captured computes what a step computes; graphs are bounded and never stale.

What needs a GPU is in test_cuda.py; here a `CapturedStep` runs its step anew instead of replaying it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lazy_core.config import PRESETS
from lazy_core.networks import cuda_graphs as graphs
from lazy_core.networks.cuda_graphs import CapturedStep, StepGraphs
from lazy_core.networks.decoder import Conditioning, LazyDecoder, PreparedInputs
from lazy_core.networks.layout import Packed
from lazy_core.networks.static_inputs import (
    GraphKey,
    PaddedInputs,
    RaggedInputs,
    StaticInputs,
    TextBuffers,
    bucket,
    lengths_of,
)
from lazy_core.networks.transformer import LazyTransformer
from made import Edit, edit_of, weights_for

TINY = PRESETS["tiny"]


@pytest.fixture
def decoder() -> LazyDecoder:
    model = LazyTransformer(TINY)
    weights_for(model)
    return model.eval().decoder


def inputs_for(decoder: LazyDecoder, made: Edit) -> StaticInputs:
    tokens, _, prepared = made
    key = GraphKey.of(tokens, prepared)
    return (PaddedInputs if key.longest is None else RaggedInputs)(
        decoder, key, prepared, TextBuffers(key, prepared), tokens.shape[-1]
    )


def through(inputs: StaticInputs, made: Edit) -> Tensor:
    tokens, timestep, prepared = made
    inputs.set_edit(tokens, prepared)
    inputs.set_step(tokens, timestep)
    return inputs.read_output(inputs.run(), tokens)


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [[1], [40], [33, 33], [6, 38, 1], [1, 1, 90], [64, 60]])
def test_rounded_up_it_computes_what_a_step_does(decoder, lengths, packed):
    """Padded, packed and even batches; then another edit of the same key in the same memory, and the first one
    again.
    """
    first, other = edit_of(decoder, lengths, 1, packed), edit_of(decoder, [max(n - 1, 1) for n in lengths], 2, packed)
    inputs, done = inputs_for(decoder, first), 0
    assert isinstance(inputs, PaddedInputs) == (len(set(lengths)) == 1)
    for made in (first, other, first):
        if GraphKey.of(made[0], made[2]) != inputs.key:
            continue
        valid = torch.arange(made[0].shape[1])[None] < torch.tensor(lengths_of(made[0], made[2]))[:, None]
        expected, got = decoder.step(*made), through(inputs, made)
        assert got.shape == expected.shape
        assert torch.allclose(got[valid], expected[valid], atol=1e-5)
        assert not got[~valid].any()
        done += 1
    assert done >= 2


@torch.no_grad()
@pytest.mark.parametrize("long, short", [([31, 31], [26, 26]), ([40, 62], [41, 57])])
def test_what_an_edit_leaves_behind_never_reaches_the_next(decoder, long, short):
    """Padding is whatever was there: another edit's tokens in it change no bit of what is computed beside it."""
    before, made = edit_of(decoder, long, 1), edit_of(decoder, short, 2)
    inputs = inputs_for(decoder, before)
    clean = through(inputs_for(decoder, made), made)
    through(inputs, before)
    assert inputs.key == GraphKey.of(made[0], made[2])
    again = through(inputs, made)
    assert torch.equal(again, clean)
    rows = inputs.tokens.shape[1] - (sum(short) if len(inputs.tokens) == 1 else short[0])
    assert rows > 0
    inputs.tokens[:, -rows:], inputs.prepared.context[:, -rows:] = torch.nan, torch.inf  # what a diverged edit left
    assert torch.equal(through(inputs, made), clean)


def test_buckets_are_few_and_close():
    lengths = [bucket(n) for n in range(1, 16385)]
    assert all(n <= length for n, length in enumerate(lengths, 1))
    assert all(length <= max(n + 15, 1.125 * n) for n, length in enumerate(lengths, 1))
    assert len(set(lengths)) <= 8 * 7 + 8
    assert [bucket(n) for n in (1, 16, 17, 41, 256, 410, 4096)] == [16, 16, 32, 48, 256, 416, 4096]


class Counting:
    """Stands in for a captured graph: runs the step anew."""

    def __init__(self, inputs: StaticInputs):
        self.inputs, self.output = inputs, inputs.run()

    def replay(self) -> None:
        self.output.copy_(self.inputs.run())


@pytest.fixture
def capture(monkeypatch) -> list[StaticInputs]:
    """`StepGraphs` as on a GPU, for tokens on the CPU; -> what was captured so far."""
    made: list[StaticInputs] = []

    def of(inputs: StaticInputs, pool: object) -> CapturedStep:
        made.append(inputs)
        graph = Counting(inputs)
        return CapturedStep(inputs, graph, graph.output)  # type: ignore[arg-type]

    monkeypatch.setattr(CapturedStep, "of", of)
    monkeypatch.setattr(StepGraphs, "can_capture", lambda self, tokens, prepared: self.enabled())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    return made


@torch.no_grad()
def test_holes_of_all_sizes_share_a_few_graphs(decoder, capture):
    steps = StepGraphs()
    sizes = torch.randint(1, 200, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    for seed, size in enumerate([*sizes, *sizes]):
        made = edit_of(decoder, [size, size], seed)
        for _ in range(2):
            assert torch.allclose(steps.step(decoder, *made), decoder.step(*made), atol=1e-5)
        if seed == len(sizes) - 1:
            warm = steps.captures
    assert steps.captures == warm == len(capture) <= len({bucket(n) for n in sizes})


@torch.no_grad()
def test_two_samplings_may_take_turns(decoder, capture):
    """Positive and negative prompts in calls of their own, as the host does when memory is short: same key, one
    graph.
    """
    steps, one, other = StepGraphs(), edit_of(decoder, [20], 1), edit_of(decoder, [21], 2)
    for _ in range(3):
        for made in (one, other):
            assert torch.allclose(steps.step(decoder, *made), decoder.step(*made), atol=1e-5)
    assert len(capture) == 1


@torch.no_grad()
def test_moved_weights_drop_every_graph(decoder, capture):
    steps, made = StepGraphs(), edit_of(decoder, [20], 1)
    steps.step(decoder, *made)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.data = parameter.data.clone() * 1.5
    again = edit_of(decoder, [20], 1)
    assert torch.allclose(steps.step(decoder, *again), decoder.step(*again), atol=1e-5)
    assert len(capture) == 2 and len(steps.captured) == 1


@torch.no_grad()
def test_graphs_and_what_they_hold_are_bounded(decoder, capture, monkeypatch):
    monkeypatch.setattr(graphs, "COUNT", 3)
    steps = StepGraphs()
    for words in range(1, 6):
        for size in (20, 60, 100):
            steps.step(decoder, *edit_of(decoder, [size], words=words))
            assert len(steps.captured) <= 3 and len(steps.texts) <= 3
    monkeypatch.setattr(graphs, "LIMIT", steps.nbytes)
    before = steps.nbytes
    steps.step(decoder, *edit_of(decoder, [150], words=5))
    assert steps.nbytes <= before + next(reversed(steps.captured.values())).inputs.nbytes
    steps.clear()
    assert steps.nbytes == 0


@torch.no_grad()
def test_what_takes_all_the_room_is_not_captured(decoder, capture, monkeypatch):
    steps, made = StepGraphs(), edit_of(decoder, [20])
    monkeypatch.setattr(graphs, "LIMIT", 1000)
    assert torch.equal(steps.step(decoder, *made), decoder.step(*made))
    assert not capture and not steps.texts and steps.nbytes == 0


@torch.no_grad()
def test_an_edit_is_not_kept_alive(decoder, capture):
    steps, made = StepGraphs(), edit_of(decoder, [20], 1)
    steps.step(decoder, *made)
    held = steps.captured[GraphKey.of(made[0], made[2])].inputs.loaded
    assert held() is made[2]
    del made
    gc.collect()
    assert held() is None


@torch.no_grad()
@pytest.mark.parametrize(
    "problem, tries", [(RuntimeError("operation not permitted"), 1), (torch.cuda.OutOfMemoryError("no room"), 2)]
)
def test_where_capturing_fails_steps_run_as_ever(decoder, capture, monkeypatch, caplog, problem, tries):
    """After a step that cannot be captured nothing is tried again; after one that lacked memory the next edit tries."""
    asked = []

    def of(inputs: StaticInputs, pool: object) -> CapturedStep:
        asked.append(inputs)
        raise problem

    monkeypatch.setattr(CapturedStep, "of", of)
    monkeypatch.setattr(
        StepGraphs,
        "can_capture",
        lambda self, tokens, prepared: not self.failed and self.out_of_memory() is not prepared,
    )
    steps = StepGraphs()
    for made in (edit_of(decoder, [20], 1), edit_of(decoder, [40], 2)):
        for _ in range(3):
            assert torch.equal(steps.step(decoder, *made), decoder.step(*made))
    assert len(asked) == tries and not steps.captured
    assert ("could not be captured" in caplog.text) == (tries == 1)


@torch.no_grad()
def test_nothing_is_captured_without_a_gpu_or_against_the_users_wish(decoder):
    refused: Callable[[], bool] = lambda: False  # noqa: E731
    _, _, even = edit_of(decoder, [20])
    _, _, apart = edit_of(decoder, [20, 10])

    def can_capture(steps: StepGraphs, prepared: PreparedInputs, *shape: int) -> bool:
        class OnCuda:  # what `can_capture` asks of a tensor
            is_cuda, device = True, torch.device("cuda")

            def __init__(self) -> None:
                self.shape = shape

            def __len__(self) -> int:
                return shape[0]

        return steps.can_capture(OnCuda(), prepared)  # type: ignore[arg-type]

    assert can_capture(StepGraphs(), even, 2, 20, 16)
    assert not can_capture(StepGraphs(refused), even, 2, 20, 16)
    assert not can_capture(StepGraphs(), even, 2, 0, 16)
    most = graphs.WORK // TINY.width**2 // 2  # from there on the device is busy
    assert can_capture(StepGraphs(), even, 2, most, 16) and not can_capture(StepGraphs(), even, 2, most + 1, 16)
    assert not can_capture(StepGraphs(), apart, 2, 20, 16)  # float32: no kernel for holes that differ in size
    with torch.enable_grad():
        assert not can_capture(StepGraphs(), even, 2, 20, 16)
    steps, made = StepGraphs(), edit_of(decoder, [20])
    assert torch.equal(steps.step(decoder, *made), decoder.step(*made)) and not steps.captures


@torch.no_grad()
def test_an_image_without_a_hole_in_a_batch(decoder, capture):
    """`HoleTokens.token_mask` keeps one key of it; the packed batch, too."""
    draw = torch.Generator().manual_seed(0)
    valid = torch.zeros(2, 30, dtype=torch.bool)
    valid[0], valid[1, 0] = True, True
    context, caption = torch.randn(2, 30, TINY.encoder_width, generator=draw), torch.randn(2, 5, TINY.caption_width)
    conditioning = Conditioning(context, torch.randn(2, 30, 2), caption, valid)
    for packed in (False, True):
        prepared = decoder.prepare(conditioning, shared_timestep=packed)
        assert isinstance(prepared.layout, Packed) == packed
        made = torch.randn(2, 30, 16, generator=draw), torch.full((2,), 300.0), prepared
        assert torch.allclose(StepGraphs().step(decoder, *made)[valid], decoder.step(*made)[valid], atol=1e-5)
