"""Node definitions that every host from 0.3.75 on reads: words to search by, and combos whose values are checked."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from .host.version import checks_combos


def schema(search_aliases: list[str], **values: Any) -> io.Schema:
    """Return `io.Schema`, with the words by which the page's search finds the node where the host knows them."""
    if any(each.name == "search_aliases" for each in fields(io.Schema)):  # 0.3.75 does not
        values["search_aliases"] = search_aliases
    return io.Schema(**values)


class Options(list):
    """A combo's options, as the type of its input. A link sees the COMBO that it was."""

    def __eq__(self, other: object) -> bool:
        return other == "COMBO" or super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]


class Choice(io.Combo.Input):
    """A combo whose value the host checks before a run, naming this one input.

    0.3.75 checks inputs whose type is a list, as the host's own older nodes have it, and no COMBO of `io`.
    """

    def get_io_type(self) -> Any:
        return super().get_io_type() if checks_combos() else Options(self.options)
