"""Noise levels, what networks predict, and the samplers without ComfyUI."""

from __future__ import annotations

import pytest
import torch

from lazy_core.diffusion.parametrisation import parametrisation
from lazy_core.diffusion.sampling import dpmpp_2m, euler
from lazy_core.diffusion.schedule import shifted


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_schedules_fall_to_zero(prediction):
    model = parametrisation(prediction)
    levels = model.sigmas(10)
    assert len(levels) == 11 and levels[-1] == 0 and (levels.diff() < 0).all()
    assert torch.allclose(model.sigmas(5, 0.5), levels[-6:])
    with pytest.raises(ValueError, match="steps is 0"):
        model.sigmas(0)


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_a_right_output_leads_back_to_the_clean_tokens(prediction):
    """What a perfect network puts out for x is `target`: the clean tokens and dx/dsigma follow from it, at every noise
    level.
    """
    model, draw = parametrisation(prediction), torch.Generator().manual_seed(0)
    clean, noise = torch.randn(3, 5, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    sigma = model.training_sigma(torch.tensor([0.2, 0.5, 0.9]))
    level = sigma.view(-1, 1, 1)
    x, output = model.add_noise(clean, noise, level), model.target(clean, noise)
    assert (sigma.diff() > 0).all() and (model.loss_weight(sigma) > 0).all()
    torch.testing.assert_close(model.to_x0(output, x, level), clean, atol=1e-4, rtol=1e-4)
    step = 1e-3
    slope = (model.add_noise(clean, noise, level + step) - x) / step
    torch.testing.assert_close(model.to_velocity(output, x, model.timestep(sigma)), slope, atol=5e-3, rtol=5e-3)


def test_shifted_levels_keep_their_ends():
    levels = parametrisation("flow_x0").sigmas(8)
    for shift in (0.5, 1.0, 3.0):
        moved = shifted(levels, shift)
        assert moved[0] == 1 and moved[-1] == 0 and (moved.diff() < 0).all()
    assert torch.equal(shifted(levels, 1.0), levels) and (shifted(levels, 3.0)[1:-1] > levels[1:-1]).all()


@pytest.mark.parametrize("prediction", ["flow_x0", "epsilon"])
def test_the_second_order_solver_is_nearer_the_truth(prediction):
    """Normal data, for which the perfect denoiser is linear; the truth is Euler in a thousand steps."""
    mean, deviation = 0.5, 0.4

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = sigma.view(-1, 1, 1).to(x)
        signal = 1 - level if prediction == "flow_x0" else torch.ones_like(level)
        return mean + signal * deviation**2 / (signal**2 * deviation**2 + level**2) * (x - signal * mean)

    noise = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)).double()

    def solve(solver, steps: int) -> torch.Tensor:
        levels = parametrisation("flow_x0").sigmas(steps).double()
        levels = levels if prediction == "flow_x0" else 9 * levels**2 + 0.02 * levels
        x = noise * levels[0]
        return solver(denoise, x, levels)

    truth = solve(euler, 1000)
    first = (solve(euler, 30) - truth).abs().mean()
    second = (solve(dpmpp_2m, 30) - truth).abs().mean()
    print(f"{prediction}: Euler is off by {first:.4f}, 2M by {second:.4f}")
    assert second < 0.7 * first
    assert torch.allclose(solve(dpmpp_2m, 1), solve(euler, 1))
