"""Scaling over models: each metric of several models' runs against depth and size, and whether there is a trend.

Made from run.json alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_interp.reporting.figures import Point, Scatter, scatters
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
    """A figure for every axis, with a panel for each metric of at least two models that differ there."""
    plots = []
    for axis, (label, log) in AXES.items():
        panels = []
        for name, measured in metrics_of(complete).items():
            held = [(run["model"], unit, estimate) for run, unit, estimate in measured if run["model"].get(axis)]
            if len({model[axis] for model, _, _ in held}) < 2:
                continue
            unit = held[0][1]
            points = [
                Point(short(str(model["name"])), float(model[axis]), estimate, str(model.get("family") or "unknown"))
                for model, _, estimate in held
            ]
            panels.append(Scatter(points, name, unit, unit == "%"))
        if panels:
            said = "; ".join(panel.title for panel in panels)
            models = len({point.label for panel in panels for point in panel.points})
            caption = f"{said}: {models} models by their {label}; bars: 95 % intervals."
            plots.append(scatters(panels, name=f"over_models_by_{axis}", x_label=label, caption=caption, log_x=log))
    return plots


def short(name: str) -> str:
    """A model's name as it fits beside a point."""
    return name.removesuffix(".gguf").split("-q4")[0].replace("-instruct", "")


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
