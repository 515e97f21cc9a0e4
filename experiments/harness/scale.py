"""One figure over all models: `python -m experiments scale`: two-hop gap, depth of refusal, function vectors by size.

Made from run.json of the runs under results/ (or --from), nothing is measured: a model that was not run has a row that
says so, and the command that runs it. Written to scale/ there: table.md and scale.png; --save FILE is the figure for
print, as its ending says (.pdf, .svg).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.deferred import matplotlib
from mlx_interp.errors import DataError, MlxInterpError
from mlx_interp.loading.names import MODELS
from mlx_interp.reporting.figures import name_points
from mlx_interp.reporting.files import write_atomically
from mlx_interp.reporting.folders import PUBLISHED, TABLE_FILE
from mlx_interp.reporting.index import runs
from mlx_interp.reporting.plots import LINES, STYLE, Plot, caption_text, save_plot
from mlx_interp.reporting.scaling import short
from mlx_interp.reporting.tables import Cell, Column, Table
from mlx_interp.stats import Estimate
from mlx_interp.studies import invocation

FOLDER = "scale"


@dataclass(frozen=True)
class Question:
    """One panel: a metric, the studies that measure it (the first that ran on a model counts), and its axis."""

    title: str
    metric: str
    studies: tuple[str, ...]
    axis: str
    percent: bool


QUESTIONS = (
    Question(
        "Two hops: bridge before answer",
        "gap over depth",
        ("exp6_twohop_scaling", "exp3_two_hop"),
        "gap (share of the depth)",
        percent=False,
    ),
    Question(
        "Refusal: layer of the direction",
        "refusal, depth",
        ("exp7_refusal_scaling", "exp1_refusal_direction"),
        "depth (%)",
        percent=True,
    ),
    Question(
        "Function vectors: right without examples",
        "right with the mean",
        ("exp8_function_vectors",),
        "right (%)",
        percent=True,
    ),
)
Found = dict[str, tuple[Mapping[str, Any], list[Estimate | None]]]
"""By model: its facts, and the estimate of every question."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(
        prog=invocation("experiments scale"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="source", type=Path, default=PUBLISHED, metavar="DIR", help="where runs lie")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also the figure alone, e.g. scale.pdf")
    options = parser.parse_args(arguments)
    try:
        for path in write_scale(options.source):
            print(path)
        if options.save is not None:
            print(figure(measured(options.source)).save(options.save))
    except MlxInterpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_scale(folder: Path) -> list[Path]:
    """Table and figure over the runs of a folder. Raises DataError where no model has any of the metrics."""
    found = measured(folder)
    if not found:
        names = ", ".join(study for question in QUESTIONS for study in question.studies)
        raise DataError(f"{folder}: no complete run of {names} with these metrics; name the folder with --from")
    plot = figure(found)
    save_plot(plot, folder / FOLDER, picture_only=True)
    text = [
        "# Over all models\n",
        f"![{plot.name}]({plot.name}.png)\n\n{caption_text(plot)}\n",
        table(found).markdown(),
        "More models: `python -m experiments run_all --experiments exp6,exp7,exp8 --model NAME`, "
        "then `python -m experiments publish all` and `python -m experiments scale`.\n",
    ]
    write_atomically(folder / FOLDER / TABLE_FILE, "\n".join(text))
    return [folder / FOLDER / TABLE_FILE, folder / FOLDER / f"{plot.name}.png"]


def measured(folder: Path) -> Found:
    """Every model with a complete, validated run that has one of the metrics, smallest first."""
    found: Found = {}
    for number, question in enumerate(QUESTIONS):
        for study in question.studies:
            for run in runs(folder / study).values():
                if run["status"] != "complete" or not run["validated"]:
                    continue
                values = {one["name"]: one["estimate"] for one in run.get("scaling", [])}
                if values.get(question.metric) is not None:
                    _, row = found.setdefault(run["model"]["name"], (run["model"], [None] * len(QUESTIONS)))
                    row[number] = row[number] or Estimate(**values[question.metric])
    return dict(sorted(found.items(), key=lambda item: (item[1][0]["parameters"], item[0])))


def table(found: Found) -> Table:
    """One row a model, those of the list of models that were not run below."""
    rows: list[list[Cell]] = [
        [name, f"{model['parameters'] / 1e6:,.0f}", model["layers"], model["quantization"] or "none", *row]
        for name, (model, row) in found.items()
    ]
    left = [known for known in MODELS.values() if known.name not in found and known.billions >= 2]
    rows += [
        [known.name, f"{known.billions * 1e3:,.0f}", known.n_layers, "", *(["not run"] * len(QUESTIONS))]
        for known in sorted(left, key=lambda known: (known.billions, known.name))
    ]
    heads = [Column(question.metric, "%" if question.percent else "") for question in QUESTIONS]
    return Table(
        "Every model, smallest first",
        ["model", "parameters (millions)", "layers", "quantisation", *heads],
        rows,
        ["95 % intervals: over bridges, over the prompts that the layer is chosen on, over queries. tiny-*: embedded."],
    )


def figure(found: Found) -> Plot:
    """One panel a question: every model's estimate and interval against its parameters."""
    families = list(dict.fromkeys(str(model["family"]) for model, _ in found.values()))
    looks = {family: LINES[number % len(LINES)] for number, family in enumerate(families)}
    with matplotlib.rc_context(STYLE):
        drawn = matplotlib.figure.Figure(figsize=(9.6, 3.3), layout="constrained")
        axes = drawn.subplots(1, len(QUESTIONS), sharex=True)
        sizes = [model["parameters"] for model, _ in found.values()]
        axes[0].set(xscale="log", xlim=(min(sizes) / 2, max(sizes) * 8))
        for number, (question, axis) in enumerate(zip(QUESTIONS, axes, strict=True)):
            shown = [(name, model, row[number]) for name, (model, row) in found.items() if row[number] is not None]
            _panel(axis, question, shown, looks)
        handles = [
            matplotlib.lines.Line2D([], [], color=colour, marker=marker, linestyle="", label=family)
            for family, (colour, _, marker) in looks.items()
        ]
        drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    names = ", ".join(found)
    return Plot("scale", drawn, f"{len(found)} models ({names}) by their parameters; bars: 95 % intervals.")


def _panel(axis: Any, question: Question, shown: Sequence[tuple[str, Any, Estimate | None]], looks: Any) -> None:
    """The models that were measured, each with its name beside it."""
    scale = 100 if question.percent else 1
    axis.set(xlabel="parameters", ylabel=question.axis, title=question.title)
    axis.margins(y=0.2)
    if not question.percent:
        axis.axhline(0, color="#888888", linewidth=0.8)
    if not shown:
        axis.text(0.5, 0.5, "no model was run", transform=axis.transAxes, ha="center", color="#888888")
        axis.set_yticks([])
    names = []
    for name, model, estimate in shown:
        assert estimate is not None
        colour, _, marker = looks[str(model["family"])]
        value, low, high = (scale * x for x in (estimate.value, estimate.low, estimate.high))
        axis.errorbar(
            [model["parameters"]], [value], np.abs(np.array([[low], [high]]) - value), color=colour, marker=marker
        )
        names.append((float(model["parameters"]), value, short(name)))
    name_points(axis, names, size=6)


if __name__ == "__main__":
    sys.exit(main())
