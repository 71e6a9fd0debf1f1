"""Policies, strips and whole latents: the parts of lazy edits with stock models that know no host."""

from __future__ import annotations

import pytest
import torch

from lazy_core.kv.policy import EARLY, POLICIES, HoleInLatent, Plan, Policies, Policy, step_at


@pytest.mark.parametrize(
    ("policies", "name", "steps", "levels"),
    [
        (POLICIES, "exact", 4, [0, 1, 2, 3]),
        (POLICIES, "balanced", 20, [4, 12]),
        (POLICIES, "balanced", 40, [8, 24]),
        (POLICIES, "balanced", 16, [3, 9]),
        (POLICIES, "balanced", 12, [0, 7]),
        (POLICIES, "balanced", 8, [2]),
        (POLICIES, "balanced", 4, [1]),
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
    assert Plan((0.0, 0.99, 1.0)).at(20) == [0, 19]
    assert Plan((0.0, 0.01)).at(3) == [0]


def test_of_a_policys_plans_the_last_one_is_taken_that_fits_the_steps():
    policy = Policy((Plan((0.3,)), Plan((0.0, 0.5), steps=8), Plan((0.2, 0.6), steps=15)))
    assert [policy.levels(steps) for steps in (4, 7, 8, 15)] == [[1], [2], [0, 4], [3, 9]]
    assert policy.at_once(7) == 1 and policy.at_once(8) == 2


def test_what_a_run_costs_of_all_tokens_at_every_step():
    ahead, now = Policy((Plan((0.3,)),)), Policy((Plan((0.0, 0.5)),))
    assert ahead.cost(8, 0.1) == pytest.approx((1 + 8 * 0.1) / 8)
    assert now.cost(8, 0.1) == pytest.approx((2 + 7 * 0.1) / 8)  # the first step is a pass itself
    assert Policy(None).cost(8, 0.1) == 1
    assert ahead.cost(4, 0.9) > 1, "more than the host's own run, which is made instead"


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
