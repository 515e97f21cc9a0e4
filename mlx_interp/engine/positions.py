"""Positions and heads of an intervention, resolved against one prompt."""

from __future__ import annotations

import operator
from typing import Any

from mlx_interp.errors import PositionError, ShapeError

GENERATED = "generated"


def resolve_positions(spec: Any, length: int, owner: object) -> list[int] | None:
    """Absolute positions in a prompt of `length` tokens; None for every position, [] if the prompt has none of them.

    Raises PositionError for an int past the prompt's ends; slices are cut as Python cuts them.
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        if spec != GENERATED:
            raise PositionError(f"{owner}: positions are an int, a slice, a list or 'generated', not {spec!r}")
        return []
    if isinstance(spec, slice):
        return list(range(length))[spec]
    return [
        _index(position, length, "position", f"the prompt has {length} tokens", owner)
        for position in _ints(spec, owner)
    ]


def resolve_heads(spec: Any, n_heads: int, owner: object) -> tuple[int, ...] | None:
    """Absolute heads; None for all. Raises ShapeError for a head the site does not have."""
    if spec is None:
        return None
    try:
        heads = [_index(head, n_heads, "head", f"the site has {n_heads} heads", owner) for head in _ints(spec, owner)]
    except PositionError as error:
        raise ShapeError(str(error)) from error
    if not heads:
        raise ShapeError(f"{owner}: the list of heads is empty")
    return tuple(heads)


def _ints(spec: Any, owner: object) -> list[int]:
    try:
        return [operator.index(spec)]
    except TypeError:
        pass
    try:
        return [operator.index(item) for item in spec]
    except TypeError as error:
        raise PositionError(f"{owner}: {spec!r} is not an int, a slice or a list of ints") from error


def _index(value: int, size: int, noun: str, has: str, owner: object) -> int:
    if not -size <= value < size:
        raise PositionError(f"{owner}: {noun} {value} does not exist, {has} (-{size} to {size - 1})")
    return value % size
