"""Figures: equal data give equal files, cells that cannot exist are masked, captions lie beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.backends.backend_agg
import matplotlib.image
import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import RunError
from mlx_interp.reporting import plots
from mlx_interp.reporting.figures import Point, Series, line_with_band, scatter
from mlx_interp.reporting.heat_maps import COLOURS, SIGNED_COLOURS, heat_map
from mlx_interp.reporting.plots import LINES, Panel, Plot, save_plot
from mlx_interp.stats import Estimate
from tests.reporting.canvas import beyond_canvas, overlapping


@pytest.fixture(autouse=True)
def _as_studies_draw_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DPI", 200)
    monkeypatch.setattr(plots, "VECTOR", True)


def grid() -> Plot:
    values = np.full((5, 7), np.nan)
    values[:3, 2:] = np.linspace(0, 0.6, 15).reshape(3, 5)
    return heat_map(
        [Panel("patched", values), Panel("control", values / 4)],
        name="fix_rate",
        title="Fix rate",
        x_label="source layer",
        y_label="target layer",
        value_label="fixed (fraction)",
        caption="Fix rate, n = 120.",
        limits=(0, 1),
    )


def test_equal_figures_are_equal_files_with_the_caption_beside(tmp_path: Path):
    for folder in ("a", "b"):
        save_plot(grid(), tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["fix_rate.md", "fix_rate.pdf", "fix_rate.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "fix_rate.md").read_text() == "Fix rate, n = 120.\n"


def test_an_unvalidated_figure_is_marked_in_picture_and_caption(tmp_path: Path):
    save_plot(grid(), tmp_path / "plain")
    save_plot(grid(), tmp_path / "marked", unvalidated=True)
    assert (tmp_path / "marked" / "fix_rate.md").read_text().startswith("**UNVALIDATED** ")
    plain, marked = (matplotlib.image.imread(tmp_path / name / "fix_rate.png") for name in ("plain", "marked"))
    red = np.all(np.isclose(marked[..., :3], [0xB0 / 255, 0, 0], atol=0.02), axis=-1)
    assert red.sum() > 100
    assert plain.shape[1] > 600


def test_lines_without_a_single_estimate_are_an_empty_figure():
    some = Estimate(0.5, 0.4, 0.6, 9)
    for estimates, empty in (([None, None], True), ([None, some], False)):
        assert line_with_band([0, 1], [Series("a", estimates), Series("b", [None, None])]).is_empty is empty
    assert not grid().is_empty


def test_names_of_points_at_the_top_stay_below_the_title(tmp_path: Path):
    at_top = Estimate(100.0, 95.0, 100.0, 20)
    names = ("tiny-gemma2", "tiny-qwen2", "tiny-llama")
    points = [Point(name, x, at_top, name) for name, x in zip(names, (1.0, 1.0, 2.0), strict=True)]
    plot = scatter(points, name="x", title="refusals induced", x_label="parameters", y_label="%", caption="")
    save_plot(plot, tmp_path)
    axis = plot.figure.axes[0]
    top = axis.get_window_extent().y1
    assert all(text.get_window_extent().y1 < top for text in axis.texts)


@pytest.mark.parametrize("shape", [(5, 5), (3, 30), (30, 3)], ids=str)
@pytest.mark.parametrize("n_panels", [1, 2])
def test_the_mark_leaves_a_title_as_wide_as_its_figure_free(tmp_path: Path, shape: tuple[int, int], n_panels: int):
    panels = [Panel(name, np.zeros(shape)) for name in "ab"[:n_panels]]
    plot = heat_map(panels, title="refusal: random directions ablated, where it shows", x_label="layer", y_label="to")
    save_plot(plot, tmp_path, unvalidated=True)
    assert not [*overlapping(plot.figure), *beyond_canvas(plot.figure)]


def test_panels_share_one_colour_scale_and_mask_what_cannot_exist():
    images = [axis.images[0] for axis in grid().figure.axes if axis.images]
    assert len(images) == 2
    assert {(image.norm.vmin, image.norm.vmax) for image in images} == {(0, 1)}
    assert images[0].get_array().mask.sum() == 35 - 15


def test_panels_of_unequal_shape_are_refused():
    with pytest.raises(ValueError, match="panels must share one shape"):
        heat_map(
            [Panel("a", np.zeros((2, 3))), Panel("b", np.zeros((3, 2)))],
            name="x", title="", x_label="", y_label="", value_label="", caption="",
        )  # fmt: skip


def luminance(colour: str | tuple[float, ...]) -> float:
    return float(np.dot(matplotlib.colors.to_rgb(colour), (0.2126, 0.7152, 0.0722)))


def test_colours_keep_their_order_in_grey():
    greys = [luminance(matplotlib.colormaps[COLOURS](x)) for x in np.linspace(0, 1, 50)]
    assert np.all(np.diff(greys) > 0)


def test_lines_differ_by_more_than_colour():
    assert len({str(style) for _, style, _ in LINES}) == len({marker for *_, marker in LINES}) == len(LINES)


def test_a_gap_in_a_series_is_left_open():
    series = Series("a", [Estimate(0.5, 0.4, 0.6, 9), None, Estimate(0.7, 0.6, 0.8, 9)])
    plot = line_with_band([0, 1, 2], [series], name="x", title="", x_label="", y_label="", caption="")
    assert np.isnan(plot.figure.axes[0].lines[0].get_ydata()[1])


def test_more_lines_than_can_be_told_apart_are_refused():
    series = [Series(str(n), [None]) for n in range(7)]
    with pytest.raises(ValueError, match="7 series; between 1 and 6"):
        line_with_band([0], series, name="x", title="", x_label="", y_label="", caption="")


def drawn(plot: Plot) -> Any:
    (image,) = (axis.images[0] for axis in plot.figure.axes if axis.images)
    return image


def test_a_heat_map_needs_an_array_and_nothing_else(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    for given in (values, values.tolist(), mx.array(values), Panel("", values)):
        assert np.allclose(drawn(heat_map(given)).get_array(), values)
    plot = heat_map(values)
    assert plot._repr_png_().startswith(b"\x89PNG")
    assert "array(" not in repr(plot)  # a heat map's numbers are in the picture
    for ending, start in ((".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        assert plot.save(tmp_path / "made" / f"grid{ending}").read_bytes().startswith(start)
    with pytest.raises(RunError, match=r"grid\.txt: a figure is written as \.png, \.pdf or \.svg"):
        plot.save(tmp_path / "grid.txt")
    with pytest.raises(ValueError, match=r"found \[\(3,\)\]"):
        heat_map(values[:, 0])


@pytest.mark.parametrize(
    ("values", "limits", "ends", "colours"),
    [
        ([[-0.5, 2.0]], None, (-2.0, 2.0), SIGNED_COLOURS),
        ([[-3.0, 0.1]], None, (-3.0, 3.0), SIGNED_COLOURS),
        ([[-1e-9, 1.0]], None, (-1e-9, 1.0), COLOURS),
        ([[0.2, 1.0]], None, (0.0, 1.0), COLOURS),
        ([[-2.0, -1.0]], None, (-2.0, 0.0), COLOURS),
        ([[0.2, 0.4]], (-1, 1), (-1.0, 1.0), SIGNED_COLOURS),
        ([[-0.2, 0.4]], (-0.5, 1), (-0.5, 1.0), COLOURS),
    ],
)
def test_values_of_both_signs_have_colours_that_part_at_zero(
    values: Any, limits: Any, ends: tuple[float, float], colours: str
) -> None:
    image = drawn(heat_map(values, limits=limits))
    assert (image.norm.vmin, image.norm.vmax) == pytest.approx(ends)
    assert image.cmap.name == colours


def test_lines_of_plain_numbers_need_no_estimates() -> None:
    plot = line_with_band(range(3), {"clean": [1.0, 2.0, None], "patched": [0.0, 0.5, 1.0]}, x_label="layer")
    lines = plot.figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["clean", "patched"]
    assert np.array_equal(lines[1].get_ydata(), [0.0, 0.5, 1.0])
    assert np.isnan(lines[0].get_ydata()[2])


def test_names_of_many_lines_and_of_a_scale_lie_whole_on_the_canvas(tmp_path: Path) -> None:
    names = [f"another query's answer, at position {n}, as the lens reads it" for n in range(5)]
    lines = line_with_band(range(3), {name: [0.1, 0.2, 0.3] for name in names}, name="lines")
    assert beyond_canvas(lines.figure) == []
    label = "gain of the right answer's probability when one head's output is replaced (fraction)"
    assert beyond_canvas(heat_map(np.eye(3), value_label=label).figure) == []
    lines.save(tmp_path / "lines.png")


def test_what_is_cut_off_is_named_and_fails_whatever_draws_it(tmp_path: Path) -> None:
    cut = line_with_band([0, 1], {"a line": [0.0, 1.0]}, name="cut")
    cut.figure.text(0.9, 0.5, "a note that is far too long")
    assert [found.split("'")[1] for found in beyond_canvas(cut.figure)] == ["a note that is far too long"]
    with pytest.raises(AssertionError, match="a note that is far too long"):
        cut.save(tmp_path / "cut.png")


def test_names_of_points_at_one_place_stand_apart_and_within_the_canvas() -> None:
    estimate = Estimate(0.5, 0.4, 0.6, 9)
    places = [("tiny-llama", 2.0e6), ("tiny-qwen2", 1.9e6), ("tiny-gemma2", 1.9e6), ("a-long-name-of-a-model-8b", 8e9)]
    points = [Point(name, x, estimate, "one") for name, x in places]
    plot = scatter(points, log_x=True, percent=True, x_label="parameters", y_label="rate (%)")
    assert not beyond_canvas(plot.figure)
    renderer = matplotlib.backends.backend_agg.FigureCanvasAgg(plot.figure).get_renderer()
    names = [text for text in plot.figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in names]
    assert len(boxes) == len(points)
    assert not [(one, other) for i, one in enumerate(boxes) for other in boxes[:i] if one.overlaps(other)]
