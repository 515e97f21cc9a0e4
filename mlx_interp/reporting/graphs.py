"""Figures of networks and clouds of points, in the style of `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import matplotlib
from mlx_interp.reporting.plots import LINES, STYLE, Plot

POSITIVE, NEGATIVE = "#E69F00", "#0072B2"


@dataclass(frozen=True)
class Place:
    """A node of a drawn network: what is written on it, and where it stands (column, row)."""

    label: str
    column: float
    row: float


def network(
    places: Sequence[Place],
    links: Mapping[tuple[str, str], float],
    *,
    name: str,
    title: str,
    caption: str,
    legend: tuple[str, str],
) -> Plot:
    """Nodes as boxes, links as lines whose width and strength is the size of their number; row 0 is at the bottom.

    links: (label, label) -> number; numbers below 0 are dark and whole, above 0 light and dashed. legend: what a number
    below 0, and one above, means. Raises ValueError without nodes.
    """
    if not places:
        raise ValueError(f"figure {name!r}: a network needs nodes")
    at = {place.label: (place.column, place.row) for place in places}
    largest = max((abs(value) for value in links.values()), default=0.0) or 1.0
    columns, rows = (max(getattr(p, axis) for p in places) + 1 for axis in ("column", "row"))
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(1.0 + 0.8 * columns, 0.8 + 0.24 * rows), layout="constrained")
        axis = figure.subplots()
        for (start, end), value in sorted(links.items(), key=lambda item: abs(item[1])):
            size = abs(value) / largest
            style = {
                "arrowstyle": "-",
                "connectionstyle": f"arc3,rad={0.35 if at[start][0] == at[end][0] else 0.08}",
                "shrinkA": 0,
                "shrinkB": 0,
            }
            style |= {"color": POSITIVE if value > 0 else NEGATIVE, "linestyle": "--" if value > 0 else "-"}
            style |= {"linewidth": 0.4 + 3 * size, "alpha": 0.2 + 0.7 * size}
            axis.annotate("", at[end], at[start], arrowprops=style)
        for place in places:
            box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "#333333", "linewidth": 0.7}
            axis.text(place.column, place.row, place.label, ha="center", va="center", fontsize=7, bbox=box)
        axis.plot([], [], color=NEGATIVE, label=legend[0])
        axis.plot([], [], color=POSITIVE, linestyle="--", label=legend[1])
        axis.set(xlim=(-0.7, columns - 0.3), ylim=(-0.8, rows))
        axis.axis("off")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncol=2)
        axis.set_title(title, fontsize=10)
    return Plot(name, figure, caption)


def cloud(
    groups: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    caption: str,
) -> Plot:
    """Points (x, y) of several groups with the line x = y. Raises ValueError for more groups than can be told apart."""
    if not 1 <= len(groups) <= len(LINES):
        raise ValueError(f"figure {name!r}: {len(groups)} groups; between 1 and {len(LINES)} can be told apart")
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.2, 3.6), layout="constrained")
        axis = figure.subplots()
        for (label, (x, y)), (colour, _, marker) in zip(groups.items(), LINES, strict=False):
            axis.plot(x, y, color=colour, marker=marker, linestyle="", markersize=3.5, alpha=0.6, label=label)
        values = np.concatenate([np.concatenate([np.asarray(x), np.asarray(y)]) for x, y in groups.values()])
        ends = (float(values.min()), float(values.max()))
        axis.plot(ends, ends, color="#888888", linewidth=0.8, zorder=0)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_title(title, fontsize=10)
        if len(groups) > 1:
            axis.legend()
    return Plot(name, figure, caption)
