"""Figures of estimates: lines with bands, boxes, points with whiskers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mlx_interp.deferred import matplotlib
from mlx_interp.reporting.plots import BOXES, LINES, STYLE, Plot
from mlx_interp.stats import Estimate

Numbers: TypeAlias = Sequence["Estimate | float | None"]


@dataclass(frozen=True)
class Series:
    """One line of a figure: an estimate, or None for a gap, at each x."""

    label: str
    estimates: Numbers


def line_with_band(
    x: Sequence[float],
    series: Sequence[Series] | Mapping[str, Numbers],
    *,
    name: str = "lines",
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    caption: str = "",
    limits: tuple[float, float] | None = None,
) -> Plot:
    """Lines with their intervals as bands; plain numbers, by label, have none.

    Raises ValueError without series, or for more than can be told apart.
    """
    if isinstance(series, Mapping):
        series = [Series(label, values) for label, values in series.items()]
    if not 1 <= len(series) <= len(LINES):
        raise ValueError(f"figure {name!r}: {len(series)} series; between 1 and {len(LINES)} can be told apart")
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.8, 3.2), layout="constrained")
        axis = figure.subplots()
        for line, (colour, style, marker) in zip(series, LINES, strict=False):
            points = np.array([_point(estimate) for estimate in line.estimates])
            axis.fill_between(x, points[:, 1], points[:, 2], color=colour, alpha=0.18, linewidth=0)
            axis.plot(x, points[:, 0], color=colour, linestyle=style, marker=marker, label=line.label)
        if all(float(value).is_integer() for value in x):
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.set(xlabel=x_label, ylabel=y_label, ylim=limits)
        axis.set_title(title, fontsize=10)
        if len(series) > 4:  # inside the axes so many names would hide the lines
            _legend_below(figure, len(series))
        elif len(series) > 1:
            axis.legend()
    return Plot(name, figure, caption)


def box_plot(
    columns: Sequence[str],
    values: Mapping[str, Sequence[Sequence[float]]],
    *,
    name: str = "boxes",
    title: str = "",
    y_label: str = "",
    caption: str = "",
) -> Plot:
    """Boxes side by side at each column, one for each group; n stands above. Groups differ in lightness and hatch."""
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(1.4 + 1.3 * len(columns), 3.4), layout="constrained")
        axis = figure.subplots()
        width = 0.8 / len(values)
        for index, (label, samples) in enumerate(values.items()):
            places = [column + (index - (len(values) - 1) / 2) * width for column in range(len(columns))]
            drawn = axis.boxplot(
                [list(sample) for sample in samples],
                positions=places,
                widths=0.85 * width,
                patch_artist=True,
                manage_ticks=False,
                medianprops={"color": "black"},
                flierprops={"markersize": 3},
            )
            colour, hatch = BOXES[index % len(BOXES)]
            for box in drawn["boxes"]:
                box.set(facecolor=colour, hatch=hatch)
            drawn["boxes"][0].set_label(label)
            for place, sample in zip(places, samples, strict=True):
                axis.annotate(
                    f"n {len(sample)}", (place, 1.0), xycoords=("data", "axes fraction"), ha="center", fontsize=6
                )
        axis.set_xticks(range(len(columns)), ["\n".join(textwrap.wrap(column, 14)) for column in columns])
        axis.set(ylabel=y_label)
        axis.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axis.set_title(title, fontsize=10, pad=12)
        _legend_below(figure, len(values))  # inside the axes it would hide boxes, which no layout looks for
    return Plot(name, figure, caption)


@dataclass(frozen=True)
class Point:
    """One model in a scatter: where it stands, what was measured, which group it is of."""

    label: str
    x: float
    estimate: Estimate
    group: str


def scatter(
    points: Sequence[Point],
    *,
    name: str = "scatter",
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    caption: str = "",
    log_x: bool = False,
    percent: bool = False,
) -> Plot:
    """Estimates with their intervals against a number, one marker for each group, each point labelled.

    Raises ValueError for more groups than can be told apart.
    """
    one = Scatter(points, title, y_label, percent)
    return scatters([one], name=name, x_label=x_label, caption=caption, log_x=log_x)


@dataclass(frozen=True)
class Scatter:
    """One panel of points."""

    points: Sequence[Point]
    title: str
    y_label: str
    percent: bool = False


ACROSS = 3
"""Panels side by side, at most."""


def scatters(panels: Sequence[Scatter], *, name: str, x_label: str, caption: str, log_x: bool = False) -> Plot:
    """Scatters side by side, of the same groups, against the same number.

    Raises ValueError for more groups than can be told apart.
    """
    groups = list(dict.fromkeys(point.group for panel in panels for point in panel.points))
    if not 1 <= len(groups) <= len(LINES):
        raise ValueError(f"figure {name!r}: {len(groups)} groups; between 1 and {len(LINES)} can be told apart")
    looks = dict(zip(groups, LINES, strict=False))
    across = min(len(panels), ACROSS)
    down = -(-len(panels) // across)
    width, height = (4.8, 3.4) if len(panels) == 1 else (3.6, 2.9)
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(width * across, height * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw_points(axis, panel, looks, log_x)
            axis.set(xlabel=x_label, ylabel=panel.y_label)
            axis.set_title(panel.title, fontsize=10)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if len(groups) > 1:
            _legend_below(figure, len(groups), height * down)
        for axis, panel in zip(axes, panels, strict=False):
            scale = 100 if panel.percent else 1
            named = [(point.x, scale * point.estimate.value, point.label) for point in panel.points]
            name_points(axis, named, size=7 if len(panels) == 1 else 6)
    return Plot(name, figure, caption)


def _draw_points(
    axis: matplotlib.axes.Axes, panel: Scatter, looks: Mapping[str, tuple[str, Any, str]], log_x: bool
) -> None:
    scale = 100 if panel.percent else 1
    for group, (colour, _, marker) in looks.items():
        mine = [point for point in panel.points if point.group == group]
        if not mine:
            continue
        values = scale * np.array([[p.estimate.value, p.estimate.low, p.estimate.high] for p in mine])
        reach = np.abs(values[:, 1:].T - values[:, 0])
        axis.errorbar(
            [p.x for p in mine],
            values[:, 0],
            reach,
            color=colour,
            marker=marker,
            linestyle="",
            capsize=2,
            label=group,
        )
    if log_x and max(p.x for p in panel.points) >= 3 * min(p.x for p in panel.points):
        axis.set_xscale("log")
    else:
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
        axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axis.margins(x=0.2)


def name_points(axis: matplotlib.axes.Axes, points: Sequence[tuple[float, float, str]], *, size: float) -> None:
    """Names beside points (x, y, name), each above others (below, where the axis ends), left of points at the edge.

    size: of the letters, in points. To be called last: where names meet depends on the limits and scales of the axis.
    """
    extent = axis.get_figure().get_size_inches() * 72 * axis.get_position().size  # type: ignore[union-attr]
    line = 1.3 * size
    taken: list[tuple[float, float, float]] = []
    axis.get_xlim()  # brings the limits up to date
    for x, y, name in sorted(points, key=lambda point: (point[1], point[0])):
        at = axis.transAxes.inverted().transform(axis.transData.transform((x, y))) * extent
        width = 0.6 * size * len(name)
        left = at[0] + 5 + width > extent[0] and at[0] > width
        start = at[0] - 5 - width if left else at[0] + 5

        def free(low: float, start: float = start, width: float = width) -> bool:
            return not any(
                start < end and begin < start + width and abs(low - other) < line for begin, end, other in taken
            )

        # Upward from the point; where that would leave the axis, towards its title, downward instead.
        steps = line / 4 * np.arange(400)
        upward = [low for low in at[1] + 4 + steps if low + line < extent[1]]
        base = next(low for low in (*upward, *(at[1] - line - steps)) if free(low))
        taken.append((start, start + width, base))
        axis.annotate(
            name,
            (x, y),
            xytext=(-5 if left else 5, base - at[1]),
            textcoords="offset points",
            fontsize=size,
            ha="right" if left else "left",
        )


def _legend_below(figure: matplotlib.figure.Figure, n: int, height: float = 3.4) -> None:
    """The names of n lines under the axes, each once, in as many columns as the figure is wide enough for.

    height: of the figure without them, in inches.
    """
    named = {label: line for axis in figure.axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    renderer = matplotlib.backends.backend_agg.FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in (3, 2, 1):
        legend = figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            figure.set_figheight(height + 0.2 * -(-n // columns))
            return
        legend.remove()


def _point(estimate: Estimate | float | None) -> tuple[float, float, float]:
    if estimate is None:
        return (np.nan,) * 3
    if not isinstance(estimate, Estimate):
        return (float(estimate),) * 3
    return estimate.value, estimate.low, estimate.high
