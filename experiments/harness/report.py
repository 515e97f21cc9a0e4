"""The files of a finished run, made from its records alone, and what is shown on screen."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.experiment import ConfigT, Experiment, Plan, Records
from experiments.harness.options import as_values
from experiments.harness.pace import Pace
from mlx_interp.deferred import rich
from mlx_interp.reporting import Plot
from mlx_interp.reporting.files import make_folder, write_atomically
from mlx_interp.reporting.folders import FILES_FOLDER, LATEX_FILE, TABLE_FILE, RunFolder, read_run
from mlx_interp.reporting.plots import caption_text, save_plot
from mlx_interp.reporting.records import RecordFile, write_parquet
from mlx_interp.reporting.tables import UNVALIDATED, latex, markdown


def write_report(
    experiment: Experiment[ConfigT], config: ConfigT, folder: RunFolder, file: RecordFile, state: dict[str, Any]
) -> None:
    """records.parquet, figures, other files and table.md; adds headline and tables to the state that becomes run.json.

    Nothing of it depends on time or on how often the run was stopped: equal records make equal files.
    """
    records = file.records()
    unvalidated = not state["validated"]
    write_parquet(records, folder.path / "records.parquet")
    plots = list(plots_of(experiment, records, config))
    for plot in plots:
        save_plot(plot, folder.path / "figures", unvalidated=unvalidated)
    state["headline"] = experiment.headline(records, config)
    made = [table(records, config) for table in experiment.tables]
    state["tables"] = [table.as_data() for table in made if table is not None]
    shown = dict(zip(experiment.tables, made, strict=True)).get(experiment.screen) if experiment.screen else None
    state["figures"] = [plot.name for plot in plots]
    state["screen"] = shown.title if shown else None
    state["scaling"] = [dataclasses.asdict(metric) for metric in experiment.scaling(records, config)]
    numbers = [
        (experiment.csv[function], table.csv())
        for function, table in zip(experiment.tables, made, strict=True)
        if function in experiment.csv and table is not None and table.rows
    ]
    for name, content in (*numbers, *experiment.files(records, config)):
        target = folder.path / FILES_FOLDER / name
        make_folder(target.parent)
        write_atomically(target, content)
    write_atomically(folder.path / TABLE_FILE, report_text(state, plots, as_values(config)))


def write_latex(folder: Path) -> Path:
    """table.tex beside table.md: the tables of a finished run, for a paper."""
    run = read_run(folder) or {}
    parts = ["% needs \\usepackage{booktabs}\n"]
    parts += [latex(table, unvalidated=not run["validated"]) for table in run["tables"]]
    write_atomically(folder / LATEX_FILE, "\n".join(parts))
    return folder / LATEX_FILE


def report_text(state: Mapping[str, Any], plots: Sequence[Plot], config: Mapping[str, Any]) -> str:
    """table.md."""
    unvalidated = not state["validated"]
    model = state["model"]
    options = ", ".join(f"{name} = {_shown(value)}" for name, value in config.items())
    parts = [
        f"# {state['title']}\n",
        f"{model['name']} (`{model['id']}`, {model['quantization'] or 'not quantised'}); {options}.\n",
    ]
    if unvalidated:
        parts.append(f"**{UNVALIDATED}**: this model did not pass the validation gate before it was measured.\n")
    parts.append(f"**{state['headline']}**\n")
    parts += [markdown(table, unvalidated=unvalidated) for table in state["tables"]]
    for plot in plots:
        parts.append(f"![{plot.name}](figures/{plot.name}.png)\n\n{caption_text(plot, unvalidated=unvalidated)}\n")
    return "\n".join(parts)


def plan_table(experiment: Experiment[ConfigT], model: str, plan: Plan, pace: Pace | None = None) -> rich.table.Table:
    """The plan of --dry-run."""
    table = rich.table.Table(title=f"{experiment.name} on {model}: plan, nothing written", title_justify="left")
    cells = {
        "prompts": f"{plan.prompts:,}",
        "counterfactuals": f"{plan.counterfactuals:,}",
        "forward passes' worth": f"{plan.forward_passes:,.0f}",
        "memory (GB)": f"{plan.memory_bytes / 1e9:.2f}",
    }
    if plan.disk_bytes is not None:
        cells["disk (GB)"] = f"{plan.disk_bytes / 1e9:.3f}"
    if pace is not None:
        cells["about (s)"] = f"{pace.of(plan):,.0f}"
        table.caption = f"time {pace.source}"
    for head in cells:
        table.add_column(head, justify="right")
    table.add_row(*cells.values())
    return table


def plots_of(experiment: Experiment[ConfigT], records: Records, config: ConfigT) -> Iterable[Plot]:
    """The figures, in the order of the study, without those in which there is nothing to see."""
    for figure in experiment.figures:
        made = figure(records, config)
        yield from (plot for plot in ([made] if isinstance(made, Plot) else made) if not plot.is_empty)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
