"""Heat maps: panels of cells in one scale of colours, as large as their text needs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import matplotlib, mx
from mlx_interp.reporting.plots import STYLE, Cells, Panel, Plot

# Lightness rises evenly from end to end, so that the order survives grey print and colour blindness.
COLOURS = "cividis"
# Values of both signs: white is 0, and equal strengths of either sign are equally far from it.
SIGNED_COLOURS = "RdBu_r"
SIGNED = 0.02
"""How far values reach on their weaker side, as a share of the stronger, to count as signed: rounding is no sign."""
OBLONG = 4
"""Times a side of a heat map is longer than the other from where on its cells are no longer square."""
LETTER = 0.07
"""Inches of a letter of an axis's name."""
LONG = 4
"""Times a side of a heat map is longer than the other from where on its cells are no longer square."""
LETTER = 0.07
"""Inches of a letter of an axis's name."""
LONG = 6
"""Letters of a column's name beyond which names of neighbours would run into each other, and are slanted."""
Grid: TypeAlias = "npt.ArrayLike | mx.array"
"""Numbers (rows, columns), in anything that numpy reads."""


def heat_map(
    panels: Sequence[Panel] | Panel | Grid,
    *,
    name: str = "heat_map",
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    caption: str = "",
    x_ticks: Sequence[str | int] | None = None,
    y_ticks: Sequence[str | int] | None = None,
    limits: tuple[float, float] | None = None,
    columns: int = 3,
) -> Plot:
    """Heat map of numbers (rows, columns), or several side by side on one scale; row 0 is at the bottom.

    panels: an array, or panels with titles, `columns` of them to a row. value_label: what the colours mean, with unit.
    x_ticks, y_ticks: names of the columns and rows; their numbers where left out. limits: ends of the scale, by default
    those of the values and 0. Values of both signs have colours that part at 0, and limits of equal distance from it.
    Raises ValueError without panels or for panels of unequal shape.
    """
    panels = panels_of(panels)
    grids = [np.array(panel.values, dtype=np.float64) for panel in panels]
    if len({grid.shape for grid in grids}) != 1 or grids[0].ndim != 2:
        raise ValueError(
            f"figure {name!r}: panels must share one shape (rows, columns), found {[g.shape for g in grids]}"
        )
    low, high = limits or value_limits(grids)
    norm, colours = matplotlib.colors.Normalize(low, high), SIGNED_COLOURS if low == -high else COLOURS
    across = min(columns, len(panels))
    down = -(-len(panels) // across)
    with matplotlib.rc_context(STYLE):
        height, width = grids[0].shape
        # Cells are square: a panel is as narrow or low as its other side asks for, but where that would leave most of
        # it blank.
        oblong = max(width / height, height / width) > OBLONG
        side = _side(width) if oblong else min(_side(width), _side(height) * width / height)
        high = _side(height) if oblong else max(side * height / width, 0.9)  # a scale needs room for its name
        size = (1.0 + across * side, 0.8 + down * (0.3 + high))
        letters = max(int(16 * side), 8)  # of a title, some 16 fill an inch
        layout: Literal["constrained", "compressed"] = "constrained" if oblong else "compressed"
        figure = matplotlib.figure.Figure(figsize=(max(size[0], 3.4), size[1]), layout=layout)
        axes = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for index, axis in enumerate(axes.flat):
            if index < len(panels):
                _draw_cells(axis, grids[index], norm, colours)
                axis.set_aspect("auto" if oblong else "equal")
                axis.set_title("\n".join(textwrap.wrap(panels[index].title, letters)))
                _ticks(axis, x_ticks, y_ticks, grids[index].shape)
            else:
                axis.set_visible(False)
        _axis_labels(axes, len(panels), x_label, y_label, (side, high))
        figure.suptitle("\n".join(textwrap.wrap(title, int(13 * figure.get_size_inches()[0]))), fontsize=10)
        label = "\n".join(textwrap.wrap(value_label, max(int(14 * 0.85 * size[1]), 12)))
        figure.colorbar(matplotlib.cm.ScalarMappable(norm, colours), ax=axes, label=label, shrink=0.85, aspect=25)
    return Plot(name, figure, caption, Cells(panels, x_label, y_label, value_label, x_ticks, y_ticks, limits))


def panels_of(given: Sequence[Panel] | Panel | Grid) -> list[Panel]:
    """Panels as a list; numbers by themselves are one without a title."""
    if isinstance(given, Panel):
        return [given]
    if isinstance(given, (list, tuple)) and all(isinstance(one, Panel) for one in given):
        return list(given)
    return [Panel("", np.array(given, dtype=np.float64))]


def value_limits(grids: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of a scale of colours: values and 0; equally far from 0 on both sides where values have both signs."""
    values = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    low, high = (min(0.0, values.min()), max(0.0, values.max())) if values.size else (0.0, 1.0)
    if min(-low, high) > SIGNED * max(-low, high):
        return -max(-low, high), max(-low, high)
    return (low, high) if high > low else (low, low + 1.0)


def _draw_cells(axis: Any, grid: npt.NDArray[np.float64], norm: matplotlib.colors.Normalize, colours: str) -> None:
    height, width = grid.shape
    axis.set_facecolor("#E6E6E6")
    axis.patch.set(hatch="////", edgecolor="#BBBBBB")
    axis.imshow(np.ma.masked_invalid(grid), cmap=colours, norm=norm, origin="lower", interpolation="nearest")
    axis.set(xlim=(-0.5, width - 0.5), ylim=(-0.5, height - 0.5))


def _ticks(axis: Any, x: Sequence[str | int] | None, y: Sequence[str | int] | None, shape: tuple[int, ...]) -> None:
    for names, count, set_ticks in ((y, shape[0], axis.set_yticks), (x, shape[1], axis.set_xticks)):
        shown = list(names) if names is not None else list(range(count))
        step = -(-count // 12)  # more than about a dozen names on an axis run into each other
        labels = [str(shown[index]) for index in range(0, count, step)]
        slanted = set_ticks == axis.set_xticks and max(map(len, labels), default=0) > LONG
        set_ticks(range(0, count, step), labels, **({"rotation": 40, "ha": "right"} if slanted else {}))


def _axis_labels(axes: npt.NDArray[Any], n: int, x_label: str, y_label: str, size: tuple[float, float]) -> None:
    """Names of both axes at the outer panels of a grid, where they fit at each, else at a middle one.

    A layout sets labels of the figure far from panels that it has drawn together. size: of a panel, in inches.
    """
    across = axes.shape[1]
    lowest = [axes[(n - 1 - column) // across, column] for column in range(across)]
    for axis in lowest:
        axis.tick_params(labelbottom=True)
    for outer, label, length, name in ((lowest, x_label, size[0], "xlabel"), (axes[:, 0], y_label, size[1], "ylabel")):
        fits = LETTER * len(label) <= length
        for axis in outer if fits else [outer[(len(outer) - 1) // 2]]:
            axis.set(**{name: label})


def _side(cells: int) -> float:
    """Inches of an axis: grows with its cells, within what fits a page."""
    return min(max(1.4, 0.2 * cells), 3.2)
