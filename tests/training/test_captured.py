"""Steps that can be captured in a CUDA graph train like the others: few shapes, padded holes, Muon for many matrices at
once.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lazy_core.config import PRESETS
from lazy_core.geometry import Grid
from lazy_core.model import LazyDiffusion
from lazy_core.networks.positions import grid_coordinates
from lazy_core.tokens import HoleTokens
from made import examples, weights_for
from training.loop.captured import copied
from training.loop.objective import BatchedMuon, Objective, optimizers
from training.loop.pool import bucketed
from training.loop.scene_source import padded

CONFIG = replace(PRESETS["tiny"], vae=None, styles=3, fill=True, edges=True)


def test_padded_sizes():
    assert [padded(n) for n in (1, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 97, 129, 193, 256)] == [
        *(16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96, 128, 192, 256, 256)
    ]


@pytest.mark.parametrize("count", [7, 16, 64])
def test_hole_tokens_of_a_given_count(count):
    """The same tokens as without a count, and more padding, told without a look at the device."""
    mask = torch.rand(5, 64, generator=torch.Generator().manual_seed(0)) < 0.08
    mask[:, 3], mask[4] = True, False
    tight, wide = HoleTokens.of(mask), HoleTokens.of(mask, max(count, int(mask.sum(1).max())))
    assert torch.equal(tight.index, wide.index[:, : tight.count]) and torch.equal(
        tight.valid, wide.valid[:, : tight.count]
    )
    assert not wide.valid[:, tight.count :].any() and not wide.index[~wide.valid].any()


def test_bucketed_tells_each_batchs_largest_hole():
    sizes = torch.randint(1, 200, (500,), generator=torch.Generator().manual_seed(0))
    for index, largest in bucketed(sizes, 8, 4, torch.Generator().manual_seed(1)):
        assert largest == int(sizes[index].max())


def test_more_padding_is_the_same_loss():
    model = LazyDiffusion(CONFIG)
    weights_for(model)
    grid = Grid(128, 128, CONFIG.latent_scale, CONFIG.patch_size)
    objective, places = Objective(model, "lazy", grid), grid_coordinates(grid, CONFIG)
    tight, wide = (objective(examples(count), places) for count in (None, 48))
    for name, loss in tight.items():
        assert torch.allclose(loss, wide[name], rtol=1e-5), name
    assert float(tight["loss"].detach()) > 0 and float(tight["naming"].detach()) > 0


def test_what_a_captured_step_is_given():
    """Every tensor of the examples, by a name of its own, and a copy that shares no memory."""
    given = examples(48)
    tensors, other = given.tensors(), copied(given).tensors()
    assert {
        "text",
        "sigma",
        "noise",
        "keys",
        "scenes.canvas",
        "scenes.lines",
        "kept.index",
        "kept.valid",
    } <= tensors.keys()
    assert tensors.keys() == other.keys()
    for name, value in tensors.items():
        assert torch.equal(value, other[name]) and value.data_ptr() != other[name].data_ptr(), name


def test_many_matrices_at_once_are_muons_own_steps():
    """Three steps of PyTorch's Muon, matrix by matrix, and of ours, shape by shape: bfloat16 rounding apart the
    same.
    """
    draw = torch.Generator().manual_seed(0)
    shapes = [(24, 16), (16, 24), (24, 16), (16, 16), (16, 24)]
    start = [torch.randn(shape, generator=draw) for shape in shapes]
    mine, theirs = ([nn.Parameter(x.clone()) for x in start] for _ in range(2))
    settings = {"weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}
    batched = BatchedMuon(mine, lr=torch.tensor(0.02), **settings)  # type: ignore[arg-type]
    plain = torch.optim.Muon(theirs, lr=0.02, **settings)  # type: ignore[arg-type]
    for rate in (0.02, 0.01, 0.03):
        batched.param_groups[0]["lr"].fill_(rate)
        plain.param_groups[0]["lr"] = rate
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=draw)
            b.grad = a.grad.clone()
        batched.step()
        plain.step()
    for a, b, first in zip(mine, theirs, start, strict=True):
        assert (a - b).norm() < 0.02 * (b - first).norm()


def test_optimizers_for_captured_steps_take_the_same_parameters():
    model = LazyDiffusion(CONFIG)
    plain = optimizers(model, "muon", 1e-3)
    for optimizer, other in zip(plain, optimizers(model, "muon", 1e-3, captured=True), strict=True):
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in other.param_groups[0]["params"]]
        assert isinstance(other.param_groups[0]["lr"], torch.Tensor) and other.param_groups[0]["peak"] == 1e-3
