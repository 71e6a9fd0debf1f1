"""Policies, strips and whole latents: the parts of lazy edits with stock models that know no host."""

from __future__ import annotations

import pytest
import torch

from lazy_core.kv.policy import EARLY, POLICIES, HoleInLatent, Policies, Policy, step_at


@pytest.mark.parametrize(
    ("policies", "name", "steps", "levels"),
    [
        (POLICIES, "exact", 4, [0, 1, 2, 3]),
        (POLICIES, "balanced", 20, [4, 12]),
        (POLICIES, "balanced", 40, [8, 24]),
        (POLICIES, "balanced", 16, [3, 9]),
        (POLICIES, "balanced", 8, [2]),
        (POLICIES, "balanced", 1, [0]),
        (POLICIES, "fast", 20, [6]),
        (EARLY, "balanced", 20, [0, 3, 11]),
        (EARLY, "fast", 20, [2]),
        (EARLY, "fast", 4, [0]),
    ],
)
def test_policies_say_at_which_steps_noise_levels_all_tokens_are_computed(
    policies: Policies, name: str, steps: int, levels: list[int]
):
    policy = policies[name]  # type: ignore[index]
    assert policy.levels(steps) == levels
    assert policy.at_once(steps) == (0 if name == "exact" else min(len(levels), 2))


def test_passes_that_a_short_schedule_puts_together_are_one():
    assert Policy(((0.0,), (0.0, 0.01), (0.0, 0.99, 1.0))).levels(20) == [0, 19]
    assert Policy(((0.0, 0.01),)).levels(3) == [0]


def test_calls_inside_a_step_belong_to_it():
    sigmas = [1.0, 0.5, 0.25, 0.0]
    assert [step_at(sigma, sigmas) for sigma in (1.0, 0.8, 0.5, 0.3, 0.25, 0.1, 0.0)] == [0, 0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("patch", [1, 2])
def test_strips_and_latents(patch: int):
    hole = HoleInLatent(torch.tensor([1, 5]), 2, 3, patch)
    latent = torch.randn(2, 4, 2 * patch, 3 * patch)
    before = latent.clone()
    strip = hole.take(latent)
    assert strip.shape == (2, 4, 2 * patch, patch)
    assert torch.equal(
        strip[:, :, :patch], latent[:, :, :patch, patch : 2 * patch]
    )  # token 1: first row, second column
    changed = hole.put(strip + 1, latent)
    assert torch.equal(latent, before)
    assert torch.equal(hole.take(changed), strip + 1)
    assert (changed != latent).sum() == strip.numel()
