"""Steering page: texts without and with a direction side by side, at the strength that a slider stands at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from mlx_interp.errors import PageError
from mlx_interp.pages.page import Page, numbers, page


@dataclass(frozen=True)
class Steered:
    """One prompt: its text without steering, and one at each strength."""

    prompt: str
    plain: str
    texts: Sequence[str]
    """In the order of the strengths."""
    notes: Mapping[str, Sequence[float | str | None]] = field(default_factory=dict)
    """What was measured on the texts, by name, in the same order."""


def steering(
    rows: Sequence[Steered],
    *,
    strengths: Sequence[float],
    unit: str = "",
    title: str = "Steering",
    about: str = "",
    start: float | None = None,
) -> Page:
    """Steering page. strengths: rising, where the slider stops. unit: of them. start: where it stands first.

    Raises PageError for strengths that do not rise, and for rows without a text at each of them.
    """
    if not strengths or any(a >= b for a, b in pairwise(strengths)):
        raise PageError(f"strengths rise from the first to the last: given were {list(strengths)}")
    if not all(map(math.isfinite, strengths)):
        raise PageError(f"strengths are finite numbers: given were {list(strengths)}")
    for row in rows:
        for what, held in (("texts", row.texts), *row.notes.items()):
            if len(held) != len(strengths):
                raise PageError(f"{row.prompt!r} has {len(held)} {what} for {len(strengths)} strengths")
    first = min(range(len(strengths)), key=lambda i: abs(strengths[i] - (strengths[-1] if start is None else start)))
    return page(
        "steering",
        title=title,
        about=about,
        strengths=numbers(strengths),
        unit=unit,
        start=first,
        rows=[
            {
                "prompt": row.prompt,
                "plain": row.plain,
                "texts": list(row.texts),
                "notes": {name: [_note(value) for value in values] for name, values in row.notes.items()},
            }
            for row in rows
        ],
    )


def _note(value: float | str | None) -> float | str | None:
    if value is None or isinstance(value, str):
        return value
    found: float | None = numbers(value)
    return found
