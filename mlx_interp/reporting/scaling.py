"""Scaling over models: each metric of several models' runs against depth and size, and whether there is a trend.

Made from run.json alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_interp.reporting.figures import Point, scatter
from mlx_interp.reporting.plots import Plot, caption_text, save_plot
from mlx_interp.reporting.tables import Cell, Column, Table
from mlx_interp.stats import Estimate, trend_test

Run = Mapping[str, Any]
AXES = {"layers": ("layers", False), "parameters": ("parameters", True)}
"""Fact of a model -> label of the axis, and whether it is logarithmic."""
SEED = 0


def metrics_of(complete: Sequence[Run]) -> dict[str, list[tuple[Run, str, Estimate]]]:
    """Metrics by name, each with the runs that measured it, its unit and the estimate."""
    found: dict[str, list[tuple[Run, str, Estimate]]] = {}
    for run in complete:
        for metric in run.get("scaling", []):
            if metric["estimate"] is not None:
                found.setdefault(metric["name"], []).append((run, metric["unit"], Estimate(**metric["estimate"])))
    return found


def trends(complete: Sequence[Run]) -> Table | None:
    """Rank correlation of every metric with depth and size over models; None without two models to compare."""
    rows: list[list[Cell]] = []
    for name, measured in metrics_of(complete).items():
        if len(measured) < 2:
            continue
        for axis in AXES:
            held = [(run["model"].get(axis), estimate) for run, _, estimate in measured]
            pairs = [(float(x), estimate.value) for x, estimate in held if x is not None]
            rows.append([name, axis, len(pairs), *_trend(pairs)])
    if not rows:
        return None
    columns: list[Column | str] = ["metric", "against", "models", Column("rank correlation"), Column("p", digits=3), ""]
    note = "Spearman's rank correlation over models; p by permutation of the models, two-sided."
    return Table("Trends over models", columns, rows, [note])


def _trend(pairs: Sequence[tuple[float, float]]) -> list[Cell]:
    try:
        rho, p = trend_test([x for x, _ in pairs], [y for _, y in pairs], seed=SEED)
    except ValueError:
        return [None, None, "too few models, or they do not differ"]
    return [rho, p, ""]


def scaling_plots(complete: Sequence[Run]) -> list[Plot]:
    """Every metric against every axis along which at least two models differ."""
    plots = []
    for name, measured in metrics_of(complete).items():
        for axis, (label, log) in AXES.items():
            held = [(run["model"], unit, estimate) for run, unit, estimate in measured if run["model"].get(axis)]
            if len({model[axis] for model, _, _ in held}) < 2:
                continue
            unit = held[0][1]
            points = [
                Point(_name(model), float(model[axis]), estimate, str(model.get("family") or "unknown"))
                for model, _, estimate in held
            ]
            plots.append(
                scatter(
                    points,
                    name=f"{re.sub('[^0-9a-zA-Z]+', '_', name).strip('_')}_by_{axis}",
                    title=f"{name} by {label}",
                    x_label=label,
                    y_label=f"{name} ({unit})" if unit else name,
                    log_x=log,
                    percent=unit == "%",
                    caption=f"{name} of {len(points)} models against their {label}; bars: 95 % intervals.",
                )
            )
    return plots


def _name(model: Mapping[str, Any]) -> str:
    return str(model["name"])


def write_scaling(folder: Path, complete: Sequence[Run]) -> list[tuple[Path, str]]:
    """The figures of an experiment over its models, under its folder's figures/, with captions.

    UNVALIDATED if any run is. Those of quantities that no run reports are removed.
    """
    unvalidated = any(not run["validated"] for run in complete)
    written = [
        (
            save_plot(plot, folder / "figures", unvalidated=unvalidated, picture_only=True),
            caption_text(plot, unvalidated=unvalidated),
        )
        for plot in scaling_plots(complete)
    ]
    for old in set((folder / "figures").glob("*_by_*.png")) - {path for path, _ in written}:
        old.unlink()  # of a quantity that no run reports any more
    return written
