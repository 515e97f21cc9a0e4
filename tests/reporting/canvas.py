"""What of a figure lies outside its canvas, or on other text: nobody can read it there, and nothing says so."""

from __future__ import annotations

from itertools import combinations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

SLACK = 1.0
"""Pixels, at the figure's own resolution."""


def beyond_canvas(figure: Figure) -> list[str]:
    """Texts, legends and axes (with their ticks and labels) that are not whole on the canvas, by what they say."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    labels = [figure._suptitle, figure._supxlabel, figure._supylabel]  # type: ignore[attr-defined]
    texts = [one for one in (*figure.texts, *labels) if one is not None and one.get_text()]
    parts = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    parts += [("the legend", legend.get_window_extent(renderer)) for legend in figure.legends]
    axes = [axis for axis in figure.axes if axis.get_visible()]
    parts += [(axis.get_title() or axis.get_ylabel(), axis.get_tightbbox(renderer)) for axis in axes]
    width, height = figure.bbox.width, figure.bbox.height
    return [
        f"{said!r} at {box.x0:.0f} to {box.x1:.0f} of {width:.0f}, {box.y0:.0f} to {box.y1:.0f} of {height:.0f}"
        for said, box in parts
        if box is not None and (min(box.x0, box.y0) < -SLACK or box.x1 > width + SLACK or box.y1 > height + SLACK)
    ]


def overlapping(figure: Figure) -> list[str]:
    """Pairs of texts that lie on each other by more than slack, ticks and legends included, by what they say."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    renderer = canvas.get_renderer()
    shown = [(text.get_text(), text.get_window_extent(renderer)) for text in _texts(figure)]
    return [
        f"{one!r} on {other!r}"
        for (one, first), (other, second) in combinations(shown, 2)
        if min(first.x1, second.x1) - max(first.x0, second.x0) > SLACK
        and min(first.y1, second.y1) - max(first.y0, second.y0) > SLACK
    ]


def _texts(figure: Figure) -> list[Text]:
    """Every text that is drawn, of ticks those within limits; not slanted ones, whose boxes are larger than they."""
    labels = [figure._suptitle, figure._supxlabel, figure._supylabel]  # type: ignore[attr-defined]
    found: list[Text | None] = [*figure.texts, *labels]
    legends = [*figure.legends, *(axis.get_legend() for axis in figure.axes)]
    found += [text for legend in legends if legend is not None for text in legend.get_texts()]
    for axis in figure.axes:
        if axis.get_visible():
            found += [*axis.texts, axis.title, axis._left_title, axis._right_title]  # type: ignore[attr-defined]
            if axis.axison:
                for side in (axis.xaxis, axis.yaxis):
                    found += [side.label, *(tick.label1 for tick in side._update_ticks())]  # type: ignore[attr-defined]
    every = {id(text): text for text in found if text is not None}  # a title of the figure is among its texts too
    return [
        text
        for text in every.values()
        if text.get_visible() and text.get_text().strip() and text.get_rotation() % 90 == 0
    ]
