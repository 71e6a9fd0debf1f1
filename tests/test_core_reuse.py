"""Policies, strips and whole latents: the parts of lazy edits with stock models that know no host."""

from __future__ import annotations

import pytest
import torch

from lazy_core.reuse import POLICIES, Policy, Whole, grow_tokens, step_at


@pytest.mark.parametrize(
    ("name", "steps", "full"),
    [
        ("exact", 4, {0, 1, 2, 3}),
        ("balanced", 20, {13}),
        ("balanced", 40, {26}),
        ("balanced", 8, set()),
        ("balanced", 1, set()),
        ("fast", 20, set()),
    ],
)
def test_policies_say_which_steps_are_full(name: str, steps: int, full: set[int]):
    assert POLICIES[name].full_steps(steps) == full  # type: ignore[index]


def test_without_an_anchor_the_first_step_is_full():
    assert Policy(refresh=(0.5,)).full_steps(20) == {0, 10}
    assert Policy(refresh=(0.5,), anchor=0.2).full_steps(20) == {10}


def test_an_anchor_is_a_noise_level_of_the_schedule():
    sigmas = [1.0, 0.75, 0.5, 0.25, 0.0]
    assert Policy(anchor=0.5).anchor_sigma(sigmas) == 0.5
    assert Policy(anchor=1.0).anchor_sigma(sigmas) == 0.25  # never zero: there is no noise to remove at it
    assert Policy(anchor=0.5).anchor_sigma([1.0, 0.0]) == 1.0
    assert Policy().anchor_sigma(sigmas) is None


def test_calls_inside_a_step_belong_to_it():
    sigmas = [1.0, 0.5, 0.25, 0.0]
    assert [step_at(sigma, sigmas) for sigma in (1.0, 0.8, 0.5, 0.3, 0.25, 0.1, 0.0)] == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("patch", [1, 2])
def test_strips_and_latents(patch: int):
    whole = Whole(torch.tensor([1, 5]), 2, 3, patch)
    latent = torch.randn(2, 4, 2 * patch, 3 * patch)
    before = latent.clone()
    strip = whole.take(latent)
    assert strip.shape == (2, 4, 2 * patch, patch)
    assert torch.equal(strip[:, :, :patch], latent[:, :, :patch, patch : 2 * patch])  # token 1: first row, second column
    changed = whole.put(strip + 1, latent)
    assert torch.equal(latent, before)
    assert torch.equal(whole.take(changed), strip + 1)
    assert (changed != latent).sum() == strip.numel()


def test_holes_grow_by_tokens_and_not_over_the_edge():
    mask = torch.zeros(1, 4 * 5, dtype=torch.bool)
    mask[0, 0] = True
    grown = grow_tokens(mask, 4, 5, 1).view(4, 5)
    assert grown.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert torch.equal(grow_tokens(mask, 4, 5, 0), mask)
