"""ControlNets in a lazy run: the host computes them on the whole picture at each step, the hole's tokens get their
part of what they add.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ...lazy_core.kv.policy import HoleInLatent
from .passes import select_rows

Control = dict[str, list[Tensor | None]]
"""What a ControlNet adds to a picture's tokens [B, N, D], block by block."""
Compute = Callable[[Tensor, Tensor], Control | None]
"""(noisy latents [B, C, (1,) h, w], sigma [B]) -> control at that noise level; None: it does nothing there."""


class ControlNets:
    """What ControlNets do in a run: `compute` has the one of the model call that comes next, if any."""

    def __init__(self) -> None:
        self.compute: Compute | None = None
        self.thread = threading.get_ident()

    def take(self) -> Compute | None:
        """That ControlNet, for the model call that is beginning."""
        compute, self.compute = self.compute, None
        return compute

    @contextmanager
    def watched(self, conditioning: Iterable[list[Any]]) -> Iterator[None]:
        """While this lasts, see with what the host asks the ControlNets in prompts: passes at noise levels to come ask
        them again. Others may use them at the same time, in threads of their own.
        """
        found = {id(each): each for _, values in conditioning if (each := values.get("control")) is not None}
        for control in found.values():
            control.get_control = self.watching(control.get_control)
        try:
            yield
        finally:
            for control in found.values():
                del control.get_control

    def watching(self, get_control: Callable[..., Any]) -> Callable[..., Any]:
        def asked(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == self.thread:
                self.compute = lambda x, t: get_control(x, t, *args, **kwargs)
            return get_control(x, t, *args, **kwargs)

        return asked


def part_of(control: Control | None, hole: HoleInLatent, rows: list[int] | None, total: int) -> Control | None:
    """What the hole's tokens [rows, K, D] get of control for a call of `total` rows. Raises ValueError where it is not
    made of tokens.
    """
    if control is None:
        return None
    count = hole.rows * hole.cols

    def cut(added: Tensor | None) -> Tensor | None:
        if added is None:
            return None
        if added.dim() != 3 or added.shape[1] != count:
            raise ValueError(
                f"a ControlNet adds {list(added.shape)}, expected {count} tokens, one for each of the picture's."
                " Set reuse to exact on Encode Context, or remove it."
            )
        return select_rows(added, rows, total).index_select(1, hole.index.to(added.device))

    return {name: [cut(added) for added in parts] for name, parts in control.items()}
