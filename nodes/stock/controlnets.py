"""ControlNets in a lazy run: the host computes them on the whole picture at each step, the hole's tokens get their
part of what they add.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from ...lazy_core.kv.policy import HoleInLatent
from .passes import select_rows

Control = dict[str, list[Tensor | None]]
"""What a ControlNet adds to a picture's tokens [B, N, D], block by block."""
Compute = Callable[[Tensor, Tensor], Control | None]
"""(noisy latents [B, C, (1,) h, w], sigma [B]) -> control at that noise level; None: it does nothing there."""


class ControlNets:
    """What ControlNets do in a run: `compute` is the one of the model call that comes next, if any."""

    def __init__(self) -> None:
        self.compute: Compute | None = None
        self.computing = False
        self.thread = threading.get_ident()

    def take(self, control: Any) -> Compute | None:
        """The ControlNet that gave `control` to the model call that is beginning. Raises ValueError where nobody saw
        it.
        """
        compute, self.compute = self.compute, None
        if control is not None and compute is None:
            raise ValueError(
                "the model was given a ControlNet that is in no prompt, or runs more often than the host asks for, "
                "which steps on the hole alone cannot follow. Set reuse to exact on Encode Context, or remove it."
            )
        return compute

    @contextmanager
    def watched(self, conditioning: Iterable[list[Any]]) -> Iterator[None]:
        """While this lasts, see with what the host asks the ControlNets in prompts: passes at noise levels to come ask
        them again. Others may use them at the same time, in threads of their own.
        """
        found = {id(each): each for _, values in conditioning if (each := values.get("control")) is not None}
        with ExitStack() as stack:
            for control in found.values():
                stack.enter_context(self.watching(control))
            yield
        self.compute = None

    @contextmanager
    def watching(self, control: Any) -> Iterator[None]:
        own, get_control = vars(control).get("get_control"), control.get_control  # packs put theirs on the object

        def asked(x_noisy: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = get_control(x_noisy, t, *args, **kwargs)
            if threading.get_ident() == self.thread and not self.computing:  # the last in a chain is the outermost
                self.compute = lambda x, t: self.at_level(control, get_control, x, t, args, kwargs)
            return result

        control.get_control = asked
        try:
            yield
        finally:
            if own is None:
                vars(control).pop("get_control", None)
            else:
                control.get_control = own

    def at_level(
        self, control: Any, get_control: Callable[..., Any], x: Tensor, t: Tensor, args: Any, kwargs: dict[str, Any]
    ) -> Control | None:
        """Ask again at noise level t [B], and leave no trace: some count their steps."""
        args = [of_level(each, t) for each in args]
        kwargs = {name: of_level(each, t) for name, each in kwargs.items()}
        before = [(each, dict(vars(each))) for each in chain_of(control)]
        self.computing = True
        try:
            return get_control(x, t, *args, **kwargs)
        finally:
            self.computing = False
            for each, state in before:  # another thread may be using it: it is whole at any time
                vars(each).update(state)
                for new in vars(each).keys() - state.keys():
                    delattr(each, new)


def chain_of(control: Any) -> Iterator[Any]:
    """A ControlNet and those that it adds to."""
    while control is not None:
        yield control
        control = getattr(control, "previous_controlnet", None)


def of_level(given: Any, t: Tensor) -> Any:
    """What the host hands on, with the noise level in it replaced."""
    return {**given, "sigmas": t} if isinstance(given, dict) and "sigmas" in given else given


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
