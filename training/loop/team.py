"""One process, or many that train together: Hugging Face Accelerate under torchrun, left out where a process is
alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
import torch.nn as nn
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

if TYPE_CHECKING:
    from accelerate import Accelerator


class Team:
    """`rank` of `size` processes, and this one's `device`."""

    def __init__(self) -> None:
        self.accelerator: Accelerator | None = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = team = Accelerator(cpu=not torch.cuda.is_available())
            self.rank, self.size, self.device = team.process_index, team.num_processes, team.device
        else:
            self.rank, self.size, self.device = 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose backward pass averages gradients over all processes."""
        return self.accelerator.prepare_model(module) if self.accelerator else module

    def mean(self, value: Tensor) -> Tensor:
        """Over all processes; the same number everywhere."""
        if self.accelerator is None:
            return value
        return self.accelerator.reduce(value.detach(), reduction="mean")  # type: ignore[return-value]

    def first(self, value: float) -> float:
        """Process 0's number."""
        if self.accelerator is None:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def agrees(self, decision: bool) -> bool:
        """Process 0's decision."""
        return bool(self.first(decision))

    def states(self, optimizers: list[torch.optim.Optimizer]) -> list[dict[str, Any]]:
        """Their states on process 0, gathered where they are shared out; every process must call it."""
        for optimizer in optimizers:
            if isinstance(optimizer, ZeroRedundancyOptimizer):
                optimizer.consolidate_state_dict(to=0)
        return [optimizer.state_dict() for optimizer in optimizers] if self.rank == 0 else []

    def wait(self) -> None:
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
