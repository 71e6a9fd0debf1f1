"""What a noise level means, and what a network predicts: one object for each kind of model."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..config import Prediction
from .schedule import ddpm_sigmas, shifted

SIGMA_FLOOR = 0.2  # a flow's loss weighs by 1 / sigma^2; below this it would only fit the autoencoder's residue


class Parametrisation(ABC):
    """How a network is fed at noise level sigma, and how its output is read.

    `sigma` broadcasts to x [B, K, D], except where it is said to be [B].
    """

    @abstractmethod
    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Return x: `clean` with its share of standard normal `noise`."""

    @abstractmethod
    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Return what the network is given of x."""

    @abstractmethod
    def timestep(self, sigma: Tensor) -> Tensor:
        """Return what the network is told of `sigma` [B]: 0..1000, [B]."""

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Return what the network's output should be."""

    @abstractmethod
    def to_x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean tokens that the network's `output` for x stands for."""

    @abstractmethod
    def to_velocity(self, output: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
        """Return dx/dsigma from what the network was given and told [B]: a flow's velocity, DDPM's noise."""

    @abstractmethod
    def sigmas(self, steps: int, denoise: float = 1.0, shift: float = 1.0) -> Tensor:
        """Return the noise levels of so many steps, [steps + 1], falling to 0.

        `denoise` < 1 keeps the last part of a proportionally longer schedule (SDEdit). `shift` moves a flow's levels,
        see `schedule.shifted`. Raises ValueError for less than a step, and a `denoise` outside 0..1.
        """

    @abstractmethod
    def training_sigma(self, quantile: Tensor) -> Tensor:
        """Return the noise level below which training draws a share `quantile`, in 0..1, of its levels; the same
        shape.
        """

    @abstractmethod
    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of the squared error of `target` at `sigma` [B]: [B]."""


class FlowX0(Parametrisation):
    """Rectified flow, x = (1 - sigma) x0 + sigma noise (Liu et al. 2022), whose network predicts x0."""

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return (1 - sigma) * clean + sigma * noise

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x

    def timestep(self, sigma: Tensor) -> Tensor:
        return sigma * 1000

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return clean

    def to_x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return output

    def to_velocity(self, output: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
        sigma = (timestep / 1000).clamp_min(1e-4).view(-1, 1, 1)
        return (x.float() - output.float()) / sigma

    def sigmas(self, steps: int, denoise: float = 1.0, shift: float = 1.0) -> Tensor:
        return shifted(torch.linspace(1, 0, total_steps(steps, denoise) + 1)[-(steps + 1) :], shift)

    def training_sigma(self, quantile: Tensor) -> Tensor:
        """Logit-normal (Esser et al. 2024, section 3.1).

        Its mean leans to noise (0.6): shapes are decided there, and shapes are what a short training lacks.
        """
        return torch.special.ndtri(quantile.clamp(1e-4, 1 - 1e-4)).add(0.6).sigmoid()

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """The velocity's error."""
        return sigma.clamp_min(SIGMA_FLOOR) ** -2


class Epsilon(Parametrisation):
    """DDPM, whose network predicts the noise, as x = x0 + sigma noise (Karras et al. 2022's scaling, section 5 and
    table 1).
    """

    def add_noise(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return clean + sigma * noise

    def scale_input(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2).sqrt()

    def timestep(self, sigma: Tensor) -> Tensor:
        """The nearest step of the table in log sigma."""
        distance = (sigma.clamp_min(1e-8).log()[:, None] - ddpm_sigmas().to(sigma).log()[None]).abs()
        return distance.argmin(1).to(sigma.dtype)

    def target(self, clean: Tensor, noise: Tensor) -> Tensor:
        return noise

    def to_x0(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma * output

    def to_velocity(self, output: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
        return output

    def sigmas(self, steps: int, denoise: float = 1.0, shift: float = 1.0) -> Tensor:
        table = ddpm_sigmas()
        picks = torch.linspace(len(table) - 1, 0, total_steps(steps, denoise)).round().long()
        return torch.cat([table[picks], torch.zeros(1)])[-(steps + 1) :]

    def training_sigma(self, quantile: Tensor) -> Tensor:
        """Uniform in the table's steps."""
        table = ddpm_sigmas().to(quantile.device)
        return table[(quantile * len(table)).long().clamp(max=len(table) - 1)]

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """1: DDPM's simple loss (Ho et al. 2020, eq. 14)."""
        return torch.ones_like(sigma)


def parametrisation(prediction: Prediction) -> Parametrisation:
    """Return the one that a config's `prediction` names."""
    return PARAMETRISATIONS[prediction]


def total_steps(steps: int, denoise: float) -> int:
    """Return the steps of the whole schedule of which `steps` are the last part `denoise`. Raises ValueError."""
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1.")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}, expected more than 0 and at most 1.")
    return int(steps / denoise)


PARAMETRISATIONS: dict[Prediction, Parametrisation] = {"flow_x0": FlowX0(), "epsilon": Epsilon()}
