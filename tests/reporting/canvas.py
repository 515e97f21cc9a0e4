"""What of a figure lies outside its canvas: such text is cut off in the picture, and nothing else says so."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
