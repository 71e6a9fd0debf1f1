"""Values of B scenes side by side: part of them, others in their place, several in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import torch
from torch import Tensor

AnyRows = TypeVar("AnyRows", bound="Rows")


class Rows:
    """What dataclasses of tensors [B, ...] have in common; a field may be None."""

    def take(self: AnyRows, index: Tensor | slice) -> AnyRows:
        """The rows of `index`."""
        values = (getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]
        return type(self)(*(None if value is None else value[index] for value in values))

    def put(self: AnyRows, index: Tensor, other: AnyRows) -> None:
        """Write other rows over those of `index`, as this one stores them."""
        for field in fields(self):  # type: ignore[arg-type]
            own: Tensor = getattr(self, field.name)
            own[index] = getattr(other, field.name).to(own.dtype)


def cat(parts: Sequence[AnyRows]) -> AnyRows:
    """All of them in a row."""
    first: Any = parts[0]
    return type(first)(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(first)))
