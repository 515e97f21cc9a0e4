"""Over several models: trends are told with their test, and figures have a point for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_interp.reporting.scaling import scaling_plots, trends, write_scaling


def run(name: str, layers: int, value: float | None, *, validated: bool = True) -> dict[str, Any]:
    estimate = None if value is None else {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 9}
    return {
        "model": {"name": name, "layers": layers, "parameters": 10**6 * layers, "family": name[0]},
        "validated": validated,
        "scaling": [{"name": "gap", "unit": "layers", "estimate": estimate}],
    }


MODELS = [run("a1", 12, 0.5), run("a2", 24, 1.0), run("b1", 26, 1.5), run("b2", 32, 2.0), run("b3", 40, 4.0)]


def test_a_trend_is_given_with_its_test() -> None:
    table = trends(MODELS)
    assert table is not None
    assert [row[:3] for row in table.rows] == [["gap", "layers", 5], ["gap", "parameters", 5]]
    rho, p = table.rows[0][3:5]
    assert abs(rho - 1) < 1e-9
    assert abs(p - 2 / 120) < 1e-9


def test_models_of_one_depth_have_no_trend_and_one_model_no_table() -> None:
    same = trends([run("a", 8, 0.5), run("b", 8, 0.7), run("c", 8, 0.9)])
    assert same is not None
    assert "do not differ" in str(same.rows[0][-1])
    assert trends(MODELS[:1]) is None
    assert trends([run("a", 8, None), run("b", 9, None)]) is None


def test_figures_are_drawn_where_models_differ(tmp_path: Path) -> None:
    assert {plot.name for plot in scaling_plots(MODELS)} == {"over_models_by_layers", "over_models_by_parameters"}
    assert scaling_plots([run("a", 8, 0.5), run("b", 8, 0.7)]) == []
    pictures = write_scaling(tmp_path, [*MODELS, run("c1", 50, 3.0, validated=False)])
    assert sorted(tmp_path.rglob("*.*")) == sorted(path for path, _ in pictures)
    assert "UNVALIDATED" in pictures[0][1]
    one_depth = [{**r, "model": {**r["model"], "layers": 8}} for r in MODELS]
    assert sorted(tmp_path.rglob("*.*")) != (written := sorted(path for path, _ in write_scaling(tmp_path, one_depth)))
    assert sorted(tmp_path.rglob("*.*")) == written, "no figure of what no runs differ in"


def test_every_metric_has_its_panel_and_models_that_did_not_measure_one_are_not_in_it() -> None:
    def with_more(one: dict[str, Any], number: int) -> dict[str, Any]:
        more = [{**one["scaling"][0], "name": f"turned: 0.{n} %, added", "unit": "%"} for n in range(number)]
        return {**one, "scaling": [*one["scaling"], *more]}

    plots = scaling_plots([with_more(one, number) for number, one in enumerate(MODELS)])
    for plot in plots:
        drawn = [axis for axis in plot.figure.axes if axis.axison]
        assert [axis.get_title() for axis in drawn] == ["gap", *(f"turned: 0.{n} %, added" for n in range(3))]
        assert [len(axis.containers) for axis in drawn] == [2, 2, 1, 1]  # families
        assert sum(len(axis.texts) for axis in drawn) == 5 + 4 + 3 + 2
