"""Grid page: numbers of both signs by row and column, and behind each cell what it was measured from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlx_interp.errors import PageError
from mlx_interp.pages.page import Page, numbers, page, shares
from mlx_interp.reporting.heat_maps import Grid, panels_of, value_limits
from mlx_interp.reporting.plots import Panel, Plot


@dataclass(frozen=True)
class Details:
    """What stands behind a cell of a grid."""

    numbers: Mapping[str, float | None] = field(default_factory=dict)
    """By name."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """By name, e.g. what the model wrote."""
    tokens: Sequence[tuple[str, float]] = ()
    """The likeliest tokens, best first, with their probabilities."""


def heat_page(
    plot: Plot,
    *,
    title: str,
    details: Sequence[Sequence[Sequence[Details | None]]] = (),
    percent: bool = False,
) -> Page:
    """Grid page of a heat map that was drawn (`Plot.cells`): its panels, labels and caption. Raises as `grid`."""
    drawn = plot.cells
    if drawn is None:
        raise PageError(f"figure {plot.name!r} is no heat map: there are no cells to show")
    return grid(
        drawn.panels,
        details=details,
        title=title,
        about=plot.caption,
        x_label=drawn.x_label,
        y_label=drawn.y_label,
        value_label=drawn.value_label,
        x_ticks=drawn.x_ticks,
        y_ticks=drawn.y_ticks,
        limits=drawn.limits,
        percent=percent,
    )


def grid(
    panels: Sequence[Panel] | Panel | Grid,
    *,
    details: Sequence[Sequence[Sequence[Details | None]]] = (),
    texts: Mapping[str, str] | None = None,
    title: str = "Grid",
    about: str = "",
    x_label: str = "",
    y_label: str = "",
    value_label: str = "value",
    x_ticks: Sequence[str | int] | None = None,
    y_ticks: Sequence[str | int] | None = None,
    limits: tuple[float, float] | None = None,
    percent: bool = False,
) -> Page:
    """Grid page of numbers (rows, columns), or of several panels to choose from; row 0 is at the bottom.

    details: by panel, row and column, what a cell is made of. texts: of the whole page by name, e.g. both prompts. The
    rest as in `reporting.heat_map`; percent: values are shares. Raises PageError for sizes that do not fit together.
    """
    found = panels_of(panels)
    arrays = [np.array(panel.values, dtype=np.float64) for panel in found]
    shape = arrays[0].shape if arrays else ()
    if len(shape) != 2 or any(array.shape != shape for array in arrays):
        raise PageError(f"grid {title!r}: panels share one shape (rows, columns), found {[a.shape for a in arrays]}")
    x_names, y_names = _names(x_ticks, shape[1], "x_ticks"), _names(y_ticks, shape[0], "y_ticks")
    if details and [[len(row) for row in panel] for panel in details] != [[shape[1]] * shape[0]] * len(arrays):
        raise PageError(f"grid {title!r}: details stand by panel, row and column: {len(arrays)} times {shape}")
    low, high = limits or value_limits(arrays)
    strings = _Strings()
    return page(
        "grid",
        title=title,
        about=about,
        panels=[{"title": panel.title, "values": numbers(a)} for panel, a in zip(found, arrays, strict=True)],
        details=[[[_detail(one, strings) for one in row] for row in panel] for panel in details],
        texts=dict(texts or {}),
        x_label=x_label,
        y_label=y_label,
        value_label=value_label,
        x_ticks=x_names,
        y_ticks=y_names,
        low=numbers(low),
        high=numbers(high),
        percent=percent,
        strings=list(strings.numbered),
    )


class _Strings:
    """Texts by number: a grid's cells often say the same, and a page holds each text once."""

    def __init__(self) -> None:
        self.numbered: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.numbered.setdefault(text, len(self.numbered))


def _detail(one: Details | None, strings: _Strings) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "numbers": [[strings.number(name), numbers(np.nan if x is None else x)] for name, x in one.numbers.items()],
        "texts": [[strings.number(name), strings.number(text)] for name, text in one.texts.items()],
        "tokens": [[strings.number(token), share] for token, share in shares(one.tokens)],
    }


def _names(given: Sequence[str | int] | None, count: int, what: str) -> list[str]:
    names = [str(name) for name in given] if given is not None else [str(i) for i in range(count)]
    if len(names) != count:
        raise PageError(f"{what}: {len(names)} names for {count}")
    return names
