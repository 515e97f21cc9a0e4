"""Positions and heads of an intervention, resolved against one prompt."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from mlx_interp.errors import PositionError, ShapeError

GENERATED = "generated"


def resolve_positions(spec: Any, length: int, owner: object) -> list[int] | None:
    """Absolute positions in a prompt of `length` tokens; None for every position, [] if the prompt has none of them.

    Raises PositionError for an int past the prompt's ends, and for a mask; slices are cut as Python cuts them.
    """
    if spec is None:
        return None
    if isinstance(spec, str):
        if spec != GENERATED:
            raise PositionError(f"{owner}: positions are an int, a slice, a list or 'generated', not {spec!r}")
        return []
    if isinstance(spec, slice):
        return list(range(length))[_checked(spec, owner)]
    return [
        _index(position, length, "position", f"the prompt has {length} tokens", owner)
        for position in integers(spec, owner)
    ]


def resolve_heads(spec: Any, n_heads: int, owner: object) -> tuple[int, ...] | None:
    """Absolute heads; None for all. Raises ShapeError for a head the site does not have, and for a mask."""
    if spec is None:
        return None
    try:
        heads = [
            _index(head, n_heads, "head", f"the site has {n_heads} heads", owner) for head in integers(spec, owner)
        ]
    except PositionError as error:
        raise ShapeError(str(error)) from error
    if not heads:
        raise ShapeError(f"{owner}: the list of heads is empty")
    return tuple(heads)


def integers(spec: Any, owner: object) -> list[int]:
    """An int or a list of ints (of numpy or mlx as well) as a list.

    Raises PositionError for anything else, for a mask above all: Python's True and False are the ints 1 and 0.
    """
    found = spec.tolist() if hasattr(spec, "tolist") else spec  # arrays of numpy, mlx and torch
    items = list(found) if hasattr(found, "__iter__") and not isinstance(found, (str, bytes)) else [found]
    if any(isinstance(item, (bool, np.bool_)) for item in items):
        true = [i for i, item in enumerate(items) if isinstance(item, (bool, np.bool_)) and item]
        raise PositionError(f"{owner}: {spec!r} is a mask; give the numbers themselves, here {true}")
    try:
        return [operator.index(item) for item in items]
    except TypeError as error:
        raise PositionError(f"{owner}: {spec!r} is not an int, a slice or a list of ints") from error


def _checked(spec: slice, owner: object) -> slice:
    """A slice of ints. Raises PositionError for other ends, and for a step of 0."""
    for end in (spec.start, spec.stop, spec.step):
        if end is not None:
            integers(end, owner)
    if spec.step == 0:
        raise PositionError(f"{owner}: {spec!r} has a step of 0")
    return spec


def _index(value: int, size: int, noun: str, has: str, owner: object) -> int:
    if not -size <= value < size:
        raise PositionError(f"{owner}: {noun} {value} does not exist, {has} (-{size} to {size - 1})")
    return value % size
