"""What a noise level means, and what a network predicts.

Sigma is the share of noise: x = (1 - sigma) x0 + sigma * noise for flow, x = x0 + sigma * noise for epsilon.
"""

from __future__ import annotations

from torch import Tensor

from ..config import LazyConfig, Prediction
from .schedule import ddpm_sigmas


def add_noise(prediction: Prediction, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """`clean` at noise level `sigma`, which broadcasts to it."""
    return (1 - sigma) * clean + sigma * noise if prediction == "flow_x0" else clean + sigma * noise


def timestep_of(prediction: Prediction, sigma: Tensor) -> Tensor:
    """What the network is told, 0..1000: 1000 sigma for flow, the nearest step of the DDPM table in log sigma for epsilon."""
    if prediction == "flow_x0":
        return sigma * 1000
    distance = (sigma.clamp_min(1e-8).log()[:, None] - ddpm_sigmas().to(sigma).log()[None]).abs()
    return distance.argmin(1).to(sigma.dtype)


def predict_x0(config: LazyConfig, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """Clean tokens from the network's `output` at noise level `sigma` [B].

    `flow_x0` predicts them; `epsilon` predicts the noise of x = x0 + sigma * noise (Karras et al. 2022's scaling of DDPM).
    """
    if config.prediction == "flow_x0":
        return output
    return x - sigma.view(-1, 1, 1) * output
