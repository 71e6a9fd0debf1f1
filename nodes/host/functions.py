"""What a function that somebody put on MODEL is called, and what it uses, by its code: the table of patches judges by
that.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any


def name_of(patch: Any) -> str:
    """What a user may know a patch by: the class of the node that made it, or its own."""
    patch = patch.func if isinstance(patch, functools.partial) else patch
    qualified = getattr(patch, "__qualname__", type(patch).__qualname__)
    first = qualified.split(".")[0]
    inner = [cell for cell in cells(patch) if callable(cell)]
    return name_of(inner[0]) if first == "ModelPatcher" and inner else first


def cells(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def names_used(function: Any, seen: set[int] | None = None) -> set[str]:
    """Global names and attributes in the code of a function, of what it encloses, and of its own module's functions
    that it calls.
    """
    seen = set() if seen is None else seen
    function = function.func if isinstance(function, functools.partial) else getattr(function, "__func__", function)
    if not isinstance(function, FunctionType):
        function = type(function).__call__ if callable(function) else None
    if not isinstance(function, FunctionType) or id(function) in seen:
        return set()
    seen.add(id(function))
    names = set(code_names(function.__code__))
    local = [function.__globals__.get(name) for name in names]
    own = [each for each in local if isinstance(each, FunctionType) and each.__module__ == function.__module__]
    for inner in [*cells(function), *own]:
        if callable(inner):
            names |= names_used(inner, seen)
    return names


def code_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_names(constant)
