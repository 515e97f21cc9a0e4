"""Figures in one style: readable in print, to the colour-blind and in grey; the caption is written beside them.

A figure is built without pyplot, which keeps global state and looks for a screen.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import PIL, matplotlib, mx
from mlx_interp.errors import RunError
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.tables import UNVALIDATED
from mlx_interp.stats import Estimate

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,
}
# Okabe and Ito's palette, ordered so that neighbours also differ in lightness; line style and marker differ as well.
LINES = (
    ("#0072B2", "-", "o"),
    ("#E69F00", "--", "s"),
    ("#000000", ":", "^"),
    ("#009E73", "-.", "D"),
    ("#CC79A7", (0, (5, 1, 1, 1, 1, 1)), "v"),
    ("#D55E00", (0, (1, 1)), "P"),
)
BOXES = (("#56B4E9", ""), ("#F0E442", "///"), ("#FFFFFF", "..."), ("#CC79A7", "xx"))
# Lightness rises evenly from end to end, so that the order survives grey print and colour blindness.
COLOURS = "cividis"
# Values of both signs: white is 0, and equal strengths of either sign are equally far from it.
SIGNED_COLOURS = "RdBu_r"
SIGNED = 0.02
"""How far values reach on their weaker side, as a share of the stronger, to count as signed: rounding is no sign."""
DPI = 200
VECTOR = True
"""Whether a figure is also written as PDF."""
N_COLOURS = 256
OBLONG = 4
"""Times a side of a heat map is longer than the other from where on its cells are no longer square."""
LETTER = 0.07
"""Inches of a letter of an axis's name."""
LONG = 6
"""Letters of a column's name beyond which names of neighbours would run into each other, and are slanted."""


@dataclass(frozen=True)
class Cells:
    """What a heat map was drawn from: the arguments of `heat_map` under their names."""

    panels: Sequence[Panel]
    x_label: str
    y_label: str
    value_label: str
    x_ticks: Sequence[str | int] | None
    y_ticks: Sequence[str | int] | None
    limits: tuple[float, float] | None


@dataclass(frozen=True)
class Plot:
    """A finished figure, shown by a notebook: `name` is its file name without ending, `caption` what is seen."""

    name: str
    figure: matplotlib.figure.Figure
    caption: str = ""
    cells: Cells | None = field(default=None, repr=False)
    """Of a heat map; None of other figures."""

    def save(self, path: Path | str) -> Path:
        """Writes the figure alone, as its ending says (.png, .pdf, .svg). Raises RunError for a path that is none."""
        path = Path(path)
        kinds = matplotlib.backends.backend_agg.FigureCanvasAgg(self.figure).get_supported_filetypes()
        if path.suffix.lstrip(".") not in kinds:
            raise RunError(f"{path}: a figure is written as .png, .pdf or .svg: give one of these endings")
        make_folder(path.parent)
        write_atomically(path, _drawn(self.figure, path.suffix.lstrip("."), {}))
        return path

    @property
    def is_empty(self) -> bool:
        """Whether it has lines of which none has a point: too few units for any estimate."""
        points = [np.asarray(line.get_ydata(), float) for axis in self.figure.axes for line in axis.lines]
        points = [y for y in points if y.size]  # lines without any are entries of a legend
        return bool(points) and all(np.isnan(y).all() for y in points)

    def _repr_png_(self) -> bytes:
        return _drawn(self.figure, "png", {"Software": None})


@dataclass(frozen=True)
class Panel:
    """One heat map of a figure. values: (rows, columns); nan or None marks a cell that cannot exist."""

    title: str
    values: Sequence[Sequence[float | None]] | npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Series:
    """One line of a figure: an estimate, or None for a gap, at each x."""

    label: str
    estimates: Numbers


Grid: TypeAlias = "npt.ArrayLike | mx.array"
"""Numbers (rows, columns), in anything that numpy reads."""
Numbers: TypeAlias = Sequence["Estimate | float | None"]


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


def _legend_below(figure: matplotlib.figure.Figure, n: int) -> None:
    """The names of n lines under the axes, in as many columns as the figure is wide enough for."""
    renderer = matplotlib.backends.backend_agg.FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    for columns in (3, 2, 1):
        legend = figure.legend(loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent(renderer).width <= figure.bbox.width:
            figure.set_figheight(3.4 + 0.2 * -(-n // columns))
            return
        legend.remove()


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
    groups = list(dict.fromkeys(point.group for point in points))
    if not 1 <= len(groups) <= len(LINES):
        raise ValueError(f"figure {name!r}: {len(groups)} groups; between 1 and {len(LINES)} can be told apart")
    scale = 100 if percent else 1
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(4.8, 3.4), layout="constrained")
        axis = figure.subplots()
        for group, (colour, _, marker) in zip(groups, LINES, strict=False):
            mine = [point for point in points if point.group == group]
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
        if log_x and max(p.x for p in points) >= 3 * min(p.x for p in points):
            axis.set_xscale("log")
        else:
            axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            axis.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
        axis.margins(x=0.2)
        axis.set(xlabel=x_label, ylabel=y_label)
        axis.set_title(title, fontsize=10)
        if len(groups) > 1:
            _legend_below(figure, len(groups))
        name_points(axis, [(point.x, scale * point.estimate.value, point.label) for point in points], size=7)
    return Plot(name, figure, caption)


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


def save_plot(plot: Plot, folder: Path, *, unvalidated: bool = False, picture_only: bool = False) -> Path:
    """Write NAME.png (DPI), NAME.pdf and the caption NAME.md; returns the path of the picture.

    picture_only: the png alone. Equal figures give equal files: no date is written into them.
    """
    make_folder(folder)
    if unvalidated:
        _mark(plot.figure)
    matplotlib.backends.backend_agg.FigureCanvasAgg(plot.figure)
    picture = folder / f"{plot.name}.png"
    write_atomically(picture, in_few_colours(_drawn(plot.figure, "png", {"Software": None})))
    if not picture_only:
        plot.figure.set_layout_engine("none")  # where all lies is known by now; finding it takes as long as drawing
        if VECTOR:
            write_atomically(picture.with_suffix(".pdf"), _drawn(plot.figure, "pdf", {"CreationDate": None}))
        write_atomically(picture.with_suffix(".md"), caption_text(plot, unvalidated=unvalidated) + "\n")
    return picture


def _mark(figure: matplotlib.figure.Figure) -> None:
    """UNVALIDATED in the upper left corner, on a strip of its own: below are legends, and labels that reach far."""
    strip = 11 / (72 * figure.get_size_inches()[1])
    title = figure._suptitle  # type: ignore[attr-defined]
    if title is not None and title.get_text():  # a layout puts it at the very top, whatever rectangle it was given
        title.set_y(1 - strip)
        title._autopos = False
        lines = 1 + title.get_text().count("\n")
        strip += (0.4 + 1.2 * lines) * title.get_fontsize() / (72 * figure.get_size_inches()[1])
    if isinstance(engine := figure.get_layout_engine(), matplotlib.layout_engine.ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 0.99, 1 - strip))  # its two passes may end a pixel or two beyond
    figure.text(0.005, 0.995, UNVALIDATED, ha="left", va="top", fontsize=7, color="#B00000", weight="bold")


def _drawn(figure: matplotlib.figure.Figure, ending: str, metadata: Mapping[str, None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def in_few_colours(png: bytes) -> bytes:
    """A picture with a palette in place of a colour for every pixel: a quarter of the bytes, and it looks the same."""
    picture = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    buffer = io.BytesIO()
    picture.quantize(N_COLOURS, dither=PIL.Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def caption_text(plot: Plot, *, unvalidated: bool = False) -> str:
    """The caption, marked where the run was not validated."""
    return f"**{UNVALIDATED}** {plot.caption}" if unvalidated else plot.caption


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


def value_limits(grids: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Ends of a scale of colours: values and 0; equally far from 0 on both sides where values have both signs."""
    values = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    low, high = (min(0.0, values.min()), max(0.0, values.max())) if values.size else (0.0, 1.0)
    if min(-low, high) > SIGNED * max(-low, high):
        return -max(-low, high), max(-low, high)
    return (low, high) if high > low else (low, low + 1.0)


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


def _point(estimate: Estimate | float | None) -> tuple[float, float, float]:
    if estimate is None:
        return (np.nan,) * 3
    if not isinstance(estimate, Estimate):
        return (float(estimate),) * 3
    return estimate.value, estimate.low, estimate.high


def panels_of(given: Sequence[Panel] | Panel | Grid) -> list[Panel]:
    """Panels as a list; numbers by themselves are one without a title."""
    if isinstance(given, Panel):
        return [given]
    if isinstance(given, (list, tuple)) and all(isinstance(one, Panel) for one in given):
        return list(given)
    return [Panel("", np.array(given, dtype=np.float64))]
