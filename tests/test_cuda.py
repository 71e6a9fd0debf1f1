"""What only a GPU can show; skipped elsewhere. Needs neither ComfyUI nor a server: `python -m pytest --noconftest
tests/test_cuda.py`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lazy_core.attention import ragged
from lazy_core.config import PRESETS
from lazy_core.editor import LazyEditor
from lazy_core.geometry import Grid
from lazy_core.kv.store import KeptKV, Split
from lazy_core.model import LazyDiffusion, initialise
from lazy_core.networks.cuda_graphs import StepGraphs
from lazy_core.networks.decoder import LazyDecoder
from lazy_core.networks.positions import grid_coordinates
from lazy_core.networks.static_inputs import bucket
from lazy_core.networks.transformer import LazyTransformer
from lazy_core.tokens import HoleTokens
from made import Edit, edit_of, examples, weights_for
from training.loop.captured import CapturedSteps
from training.loop.examples import Examples
from training.loop.objective import Objective, optimizers

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICE = torch.device("cuda")
SHIPPED = Path(__file__).resolve().parent.parent / "models" / "fluent-small.safetensors"


# -- attention ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width, heads", [(320, 5), (1152, 16)])
def test_ragged_attention_agrees_with_float64(dtype, width, heads):
    """Sequences of 1, 300 and 77 tokens and an empty one, to themselves and to texts of 16 tokens; what lies behind
    them is never read.
    """
    lengths, draw = [1, 300, 77, 0], torch.Generator(DEVICE).manual_seed(0)
    for texts in (lengths, [16] * 4):
        q, k, v = (torch.randn(1, 512, width, generator=draw, device=DEVICE, dtype=dtype) for _ in range(3))
        k[:, sum(texts) :], v[:, sum(texts) :] = torch.nan, torch.inf
        starts, theirs = (
            torch.tensor([0, *torch.tensor(n).cumsum(0)], dtype=torch.int32, device=DEVICE) for n in (lengths, texts)
        )
        got, at, at_text = ragged(q, k, v, starts, theirs, 512, 512, heads)[0], 0, 0
        for length, text in zip(lengths, texts, strict=True):
            parts = (q[0, at : at + length], k[0, at_text : at_text + text], v[0, at_text : at_text + text])
            a, b, c = (x.double().unflatten(-1, (heads, -1)).transpose(0, 1) for x in parts)
            expected = ((a @ b.mT * a.shape[-1] ** -0.5).softmax(-1) @ c).transpose(0, 1).flatten(1)
            if length:
                error = (got[at : at + length].double() - expected).norm() / expected.norm()
                assert error < 1e-2, f"{dtype}, {length} tokens: {error:.1e}"
            at, at_text = at + length, at_text + text


# -- steps as graphs ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module", params=["fluent-small", "wide heads"])
def decoder(request) -> LazyDecoder:
    config = PRESETS["fluent-small"]
    if request.param != "fluent-small":  # heads of 72 channels and a size, as pixart-xl has
        config = replace(config, width=1152, heads=16, depth=3, encoder_width=192, micro_conditioning=True)
    model = LazyTransformer(config)
    weights_for(model, 0.02)
    return model.to(DEVICE, torch.bfloat16).eval().requires_grad_(False).decoder


def edit(decoder: LazyDecoder, lengths: list[int], seed: int = 0, packed: bool = True) -> Edit:
    return edit_of(decoder, lengths, seed, packed, words=16)


def far(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


@torch.inference_mode()
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lengths", [[1, 1], [41, 41], [256, 256], [3, 200, 3, 200], [30, 29, 30, 29]])
def test_a_graph_computes_what_a_step_does(decoder, lengths, packed):
    steps = StepGraphs()
    for seed in range(3):
        made = edit(decoder, lengths, seed, packed)
        for _ in range(2):
            got, expected = steps.step(decoder, *made), decoder.step(*made)
            for row, length in enumerate(lengths):
                assert far(got[row, :length], expected[row, :length]) < 2e-2
                assert not got[row, length:].any()
    assert steps.captures == len(steps.captured) == 1


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [[42, 42], [30, 41]])
def test_what_lies_in_the_padding_is_never_read(decoder, lengths):
    steps, made = StepGraphs(), edit(decoder, lengths)
    expected = steps.step(decoder, *made)
    inputs = next(iter(steps.captured.values())).inputs
    padding = inputs.tokens.shape[1] - (lengths[0] if inputs.key.longest is None else sum(lengths))
    assert padding > 0
    inputs.tokens[:, -padding:], inputs.prepared.context[:, -padding:] = 1e4, -1e4
    assert torch.equal(steps.step(decoder, *made), expected)


@torch.inference_mode()
def test_fifty_random_holes_capture_nothing_once_their_buckets_are_warm(decoder):
    steps = StepGraphs()
    for length in {bucket(n): n for n in range(1, 257)}.values():
        steps.step(decoder, *edit(decoder, [length, length]))
    warm = steps.captures
    for seed, length in enumerate(torch.randint(1, 257, (50,), generator=torch.Generator().manual_seed(0)).tolist()):
        made = edit(decoder, [length, length], seed)
        assert far(steps.step(decoder, *made), decoder.step(*made)) < 2e-2
    assert steps.captures == warm < 20


@torch.inference_mode()
def test_moved_weights_are_noticed(decoder):
    steps, own = StepGraphs(), copy.deepcopy(decoder)
    made = edit(own, [41, 41])
    steps.step(own, *made)
    for parameter in own.parameters():
        parameter.data = parameter.data * 1.1
    tokens, timestep, prepared = edit(own, [41, 41])
    assert (
        far(steps.step(own, tokens, timestep, prepared), own.step(tokens, timestep, prepared)) < 2e-2
        and steps.captures == 2
    )
    own.to("cpu")
    assert steps.graph_for(own, tokens, prepared) is None


# -- edits -------------------------------------------------------------------------------------------------------------
def psnr(a: Tensor, b: Tensor, where: Tensor) -> float:
    error = ((a - b)[where.expand_as(a)] ** 2).mean().clamp_min(1e-12)
    return float(-10 * error.log10())


@torch.inference_mode()
def test_an_edit_is_the_cpus_and_keeps_every_pixel_outside():
    draw = torch.Generator().manual_seed(0)
    image = F.interpolate(torch.rand(2, 3, 8, 8, generator=draw), size=(256, 256), mode="bicubic").clamp(0, 1)
    mask = torch.zeros(2, 256, 256)
    mask[0, 90:170, 60:150], mask[1, 30:60, 30:60] = 1, 1
    hole, results = mask[:, None] > 0, {}
    for name, device, dtype in (("cpu", "cpu", None), ("float32", "cuda", None), ("bfloat16", "cuda", torch.bfloat16)):
        editor = LazyEditor.load(SHIPPED, device)
        editor.model.to(dtype)
        results[name] = editor.decode(editor.encode(image, mask), ["panda", "pizza"], seed=3, steps=4)
        assert torch.equal(results[name][~hole.expand_as(image)], image[~hole.expand_as(image)])
        assert (editor.graphs.captures > 0) == (
            dtype is not None
        )  # holes of different size in float32: no kernel for them
    print({name: round(psnr(result, results["cpu"], hole), 1) for name, result in results.items()})
    assert psnr(results["float32"], results["cpu"], hole) > 35
    assert psnr(results["bfloat16"], results["cpu"], hole) > 20


# -- keys and values in main memory ------------------------------------------------------------------------------------
@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["model", "fp8"])
def test_keys_and_values_fetched_ahead_are_those_that_stayed(dtype):
    split = Split.of(torch.arange(40, 60, device=DEVICE), 200)
    here, away = KeptKV(lambda size, device: True, dtype), KeptKV(lambda size, device: False, dtype)
    draw = torch.Generator(DEVICE).manual_seed(0)
    for later in (False, True):
        for call in range(5):
            k, v = (torch.randn(2, 4, 200, 64, generator=draw, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
            for kept in (here, away):
                kept.keep("batch", call, k, v, split, later)
    for weight in (0.0, 0.4):
        for _ in range(3):
            for call in range(5):
                k, v = (
                    torch.randn(2, 4, 20, 64, generator=draw, device=DEVICE, dtype=torch.bfloat16) for _ in range(2)
                )
                one = [x.clone() for x in here.extend("batch", call, k, v, weight)]
                other = [x.clone() for x in away.extend("batch", call, k, v, weight)]
                assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    here.advance("batch", last=True)
    away.advance("batch", last=True)
    away.forget()


# -- training ----------------------------------------------------------------------------------------------------------
CONFIG = replace(PRESETS["tiny"], vae=None, styles=3, fill=True, edges=True, style_depth=1)


def test_captured_steps_train_like_others():
    """Two shapes in turn, five steps each: losses and weights are those of steps that run as they are."""
    grid, runs = Grid(128, 128, CONFIG.latent_scale, CONFIG.patch_size), []
    for captured in (False, True):
        model = LazyDiffusion(CONFIG)
        initialise(model, torch.Generator().manual_seed(0))
        objective = Objective(model, "lazy", grid).to(DEVICE).train()
        chosen, places = optimizers(objective, "muon", 3e-3, captured=True), grid_coordinates(grid, CONFIG, DEVICE)

        def learn(prepared: Examples, objective=objective, chosen=chosen, places=places) -> dict[str, Tensor]:
            losses = objective(prepared, places)
            (losses["loss"] + losses["naming"]).backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            for optimizer in chosen:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            return {name: loss.detach() for name, loss in losses.items()}

        step, losses = CapturedSteps(learn, DEVICE) if captured else learn, []
        for index in range(10):
            for optimizer in chosen:
                optimizer.param_groups[0]["lr"].fill_(3e-3 / (1 + index))
            losses.append(float(step(examples((32, 48)[index % 2], index).to(DEVICE))["loss"]))
        runs.append((losses, torch.cat([p.detach().flatten() for p in model.parameters()])))
    (plain, weights), (replayed, others) = runs
    assert plain == pytest.approx(replayed, rel=1e-3)
    assert far(others, weights) < 1e-3


def test_tokens_from_the_gpu_are_scattered_into_a_latent_in_main_memory():
    """`--gpu-only`: the host hands samples back on the GPU, a CONTEXT's latent lies where it always does."""
    latent, hole = torch.randn(1, 8, 4, 4), HoleTokens.of(torch.tensor([[True, False, False, True]]))
    tokens = hole.cut(latent, 2) + 1
    assert torch.equal(hole.scatter(tokens.to(DEVICE), latent, 2), hole.scatter(tokens, latent, 2))
