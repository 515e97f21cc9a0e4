"""Curves that each have an x of their own, with intervals, and single marks beside them: trade-offs, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import matplotlib
from mlx_interp.reporting.figures import name_points
from mlx_interp.reporting.plots import LINES, STYLE, Plot
from mlx_interp.stats import Estimate


@dataclass(frozen=True)
class Curve:
    """One line: an estimate, or None for a gap, at each x."""

    label: str
    x: Sequence[float]
    estimates: Sequence[Estimate | None]


@dataclass(frozen=True)
class Mark:
    """One point with its name beside it."""

    label: str
    x: float
    estimate: Estimate | None


def curves(
    lines: Sequence[Curve],
    marks: Sequence[Mark],
    *,
    name: str,
    title: str,
    x_label: str,
    y_label: str,
    caption: str,
    x_ticks: Sequence[str] | None = None,
    log_x: bool = False,
) -> Plot:
    """Lines with error bars, and grey marks. With x_ticks the x are groups 0, 1, ...: points side by side, unjoined.

    Raises ValueError without lines, or for more than can be told apart.
    """
    if not 1 <= len(lines) <= len(LINES):
        raise ValueError(f"figure {name!r}: {len(lines)} lines; between 1 and {len(LINES)} can be told apart")
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(5.8, 3.4), layout="constrained")
        axis = figure.subplots()
        for number, (line, (colour, style, marker)) in enumerate(zip(lines, LINES, strict=False)):
            aside = 0.12 * (number - (len(lines) - 1) / 2) if x_ticks else 0.0
            kept = [(x + aside, e) for x, e in zip(line.x, line.estimates, strict=True) if e is not None]
            points = np.array([(x, e.value, e.low, e.high) for x, e in kept]).reshape(-1, 4)
            reach = np.abs(points[:, 2:].T - points[:, 1])
            axis.errorbar(
                points[:, 0],
                points[:, 1],
                reach,
                color=colour,
                linestyle="" if x_ticks else style,
                marker=marker,
                capsize=2,
                label=line.label,
            )
        for mark in marks:
            if mark.estimate is not None:
                axis.plot([mark.x], [mark.estimate.value], marker="x", color="#666666", linestyle="")
        if log_x:
            axis.set_xscale("log")
        if x_ticks:
            axis.set_xticks(range(len(x_ticks)), list(x_ticks))
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_title(title, fontsize=10)
        named = [(mark.x, mark.estimate.value, mark.label) for mark in marks if mark.estimate is not None]
        name_points(axis, named, size=7)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Plot(name, figure, caption)
