"""Policies, kept keys and values, strips and whole latents: the parts of lazy edits with stock models that know no host."""

from __future__ import annotations

import pytest
import torch

from lazy_core.reuse import POLICIES, KeptKV, Policy, Split, Whole, grow_tokens, step_at


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


def test_split_counts_from_the_image():
    split = Split.of(torch.tensor([0, 2]), 6, offset=3)
    assert split.hole.tolist() == [3, 5]
    assert split.others.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize("shape", [(2, 3, 7, 4), (2, 7, 12)])
def test_kept_keys_come_back_with_the_holes_new_ones(shape: tuple[int, ...]):
    k, v = torch.randn(shape), torch.randn(shape)
    split = Split.of(torch.tensor([1, 4]), shape[-2])
    kept = KeptKV()
    kept.keep("batch", 0, k, v, split)
    new = [torch.randn(*shape[:-2], 2, shape[-1]) for _ in range(2)]
    for whole, extended, hole in zip((k, v), kept.extend("batch", 0, *new), new, strict=True):
        assert torch.equal(extended[..., :5, :], whole.index_select(-2, split.others))
        assert torch.equal(extended[..., 5:, :], hole)
    assert kept.nbytes == k.nbytes + v.nbytes


def test_a_later_pass_uses_the_same_memory_and_no_stale_value():
    kept, split = KeptKV(), Split.of(torch.tensor([0]), 4)
    first, second = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    kept.keep("batch", 0, first, first, split)
    address = kept.pairs["batch", 0].k.data_ptr()
    kept.keep("batch", 0, second, second, split)
    assert kept.pairs["batch", 0].k.data_ptr() == address
    assert torch.equal(kept.extend("batch", 0, second[:, :1], second[:, :1])[0][:, :3], second[:, 1:])


def test_nothing_kept_is_an_error():
    with pytest.raises(KeyError):
        KeptKV().extend("batch", 0, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))


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


def test_pairs_kept_elsewhere_are_copied_where_they_are_used():
    """`meta` stands for another device: it takes part in shapes, and nobody can mistake it for the one that computes."""
    asked: list[tuple[int, str]] = []

    def place(size: int, device: torch.device) -> torch.device:
        asked.append((size, device.type))
        return torch.device("meta")

    kept, split = KeptKV(place), Split.of(torch.tensor([1]), 5)
    k = torch.randn(1, 5, 8)
    kept.keep("batch", 0, k, k, split)
    assert asked == [(k.nbytes, "cpu")] * 2
    assert kept.pairs["batch", 0].k.device.type == "meta"
