"""The closing screen of a run: the finding, its small table, where the files are, what to run next."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.harness.experiment import LOOK
from mlx_interp.reporting.folders import TABLE_FILE, read_run
from mlx_interp.reporting.tables import markdown

ROWS = 12
"""Most rows of the table on the screen; table.md has all."""
WHOLE = "all"
"""What a cell says in the row that sums up the others."""


def closing(folder: Path) -> str:
    """The screen of a finished run, from its run.json."""
    run = read_run(folder) or {}
    parts = [f"{run['title']}\n", f"**{run['model']['name']}: {run['headline']}**\n"]
    if table := _chosen(run):
        parts.append(markdown(_short(table), unvalidated=not run["validated"]))
    return "\n".join([*parts, "\n".join(_files(folder, run)), _next(run)])


def _chosen(run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The table that the study names for the screen, else the first one with rows; as `Table.as_data` gives it."""
    tables = run["tables"]
    named = [one for one in tables if one["title"] == run.get("screen")]
    return next((one for one in [*named, *tables] if one["rows"]), None)


def _short(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rows that sum up, or the first ones; without notes, which stand in table.md."""
    rows = [row for row in table["rows"] if WHOLE in row] or table["rows"]
    left = len(table["rows"]) - len(rows[:ROWS])
    return {**table, "rows": rows[:ROWS], "notes": [f"{left} more rows in {TABLE_FILE}."] if left else []}


def _files(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """Where tables and figures are, as paths to open."""
    lines = [f"tables   {_near(folder / TABLE_FILE)} ({len(run['tables'])} of them)"]
    if figures := run.get("figures"):
        more = f" (and {len(figures) - 1} more)" if len(figures) > 1 else ""
        lines.append(f"figures  {_near(folder / 'figures' / figures[0])}.png{more}")
    return lines


def _next(run: Mapping[str, Any]) -> str:
    """What somebody does after reading the table."""
    module = f"python -m experiments.{run['experiment']}"
    limit = run["identity"]["config"].get("limit")
    looked = limit is not None and limit <= LOOK
    whole = [f"{module} --model {run['model']['name']}     the whole study: this was a look"] if looked else []
    lines = [
        *whole,
        f"{module} --model NAME     another model; `python -m mlx_interp models` names some",
        f"{module} --help     options, data and controls",
    ]
    return "next     " + "\n         ".join(lines) + "\n"


def _near(path: Path) -> str:
    """A path as it would be typed from here."""
    near = os.path.relpath(path)
    return near if not near.startswith("..") else str(path)


def overviews_line(paths: Sequence[Path]) -> str:
    """Where the tables over all models are."""
    return "\n".join(f"overview {_near(path)}" for path in paths)
