"""Would other pairs have given the same circuit, and do tasks share one? Tables of exp18."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from experiments.exp18_discover_circuits.circuit_report import Curve, curve, rows_of
from experiments.exp18_discover_circuits.config import MAIN, CircuitConfig, tasks_of
from experiments.harness.experiment import Records
from mlx_interp.circuits import cpr, jaccard, top, weighted_jaccard
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import percentile_interval


def stability_table(records: Records, config: CircuitConfig) -> Table:
    """Would other pairs have given this circuit?"""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        for level in ("node", "edge"):
            for r in rows_of(records, task=task, level=level):
                if "jaccards" in r:
                    mean = percentile_interval(float(np.mean(r["jaccards"])), r["jaccards"], n=r["n"])
                    rows.append([task, level, r["method"], r["n"], r["size"], mean, r["halves"]])
    return Table(
        "Stability",
        ["task", "of", "method", "pairs", "size", Column("Jaccard, resampled pairs"), Column("scores of two halves")],
        rows,
        [
            "Jaccard of the circuit with those found on pairs drawn with replacement; mean and middle 95 % of them. "
            "Halves: weighted Jaccard of the scores from every other pair with those of the rest."
        ],
    )


def overlap_table(records: Records, config: CircuitConfig) -> Table | None:
    """Do tasks share edges, and does one's circuit serve the other?"""
    rows: list[list[Cell]] = []
    for first, second in _pairs_of_tasks(tasks_of(records)):
        a, b = (np.array(rows_of(records, level="edge", task=t, method=MAIN)[0]["values"]) for t in (first, second))
        n = max(1, round(config.drawn_share * len(a)))
        shared = jaccard(top(a, n), top(b, n))
        log_cpr: Curve = lambda f: cpr(f, config.shares, log=True)  # noqa: E731
        crossed: list[Cell] = []
        for own, other in ((first, second), (second, first)):
            crossed += [
                curve(records, own, "edge", MAIN, log_cpr, config.seed),
                curve(records, own, "edge", f"circuit of {other}", log_cpr, config.seed),
            ]
        rows.append([first, second, weighted_jaccard(a, b), shared, n / (2 * len(a) - n), *crossed])
    if not rows:
        return None
    return Table(
        "Overlap of tasks",
        [
            *("A", "B", Column("weighted Jaccard of scores"), Column(f"Jaccard, {config.drawn_share:.0%} of edges")),
            *(Column("by chance"), Column("A's circuit on A"), Column("B's on A"), Column("B's on B")),
            Column("A's on B"),
        ],
        rows,
        ["Last four: area under f over log k on test pairs. The stability table has a task's overlap with itself."],
    )


def _pairs_of_tasks(tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    for number, first in enumerate(tasks):
        for second in tasks[number + 1 :]:
            yield first, second
