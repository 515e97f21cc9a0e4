"""Values that show themselves by what they are: arrays by shape, not by sixty lines of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from mlx_interp.deferred import mx

FEW = 8
"""Entries of a container that are shown; of longer ones the number is told."""


class ShapesShown:
    """A dataclass whose `repr` names arrays by shape, leaves out what is None, and counts what is long."""

    def __repr__(self) -> str:
        told = ((field.name, getattr(self, field.name)) for field in fields(self) if field.repr)  # type: ignore[arg-type]
        return (
            f"{type(self).__name__}({', '.join(f'{name}={shown(value)}' for name, value in told if value is not None)})"
        )


def shown(value: Any) -> str:
    """A value in one short line: arrays by shape, also inside lists, tuples and mappings."""
    if isinstance(value, (mx.array, np.ndarray)):
        return f"array{tuple(value.shape)}"
    if isinstance(value, Mapping):
        some = [f"{key!r}: {shown(one)}" for key, one in list(value.items())[:FEW]]
        return "{" + ", ".join([*some, *_more(value, "entries")]) + "}"
    if type(value) in (list, tuple):
        inside = ", ".join([*map(shown, value[:FEW]), *_more(value, "in all")])
        if isinstance(value, list):
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return repr(value)


def _more(value: Any, what: str) -> list[str]:
    return [f"... {len(value)} {what}"] if len(value) > FEW else []
