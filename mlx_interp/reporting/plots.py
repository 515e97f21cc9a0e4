"""A figure as a thing, in one style: readable in print, to the colour-blind and in grey; its caption stands beside it.

A figure is built without pyplot, which keeps global state and looks for a screen.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_interp.deferred import PIL, matplotlib
from mlx_interp.errors import RunError
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.tables import UNVALIDATED

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
DPI = 200
VECTOR = True
"""Whether a figure is also written as PDF."""
N_COLOURS = 256


@dataclass(frozen=True)
class Panel:
    """One heat map of a figure. values: (rows, columns); nan or None marks a cell that cannot exist."""

    title: str
    values: Sequence[Sequence[float | None]] | npt.NDArray[np.floating[Any]]


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
