"""Tables of exp18: estimates against real patching, circuits under ablation, stability, overlap, members, tracing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy

from experiments.exp18_discover_circuits.config import (
    EDGE_METHODS,
    LARGE_CELL,
    LARGE_EDGE,
    LARGE_NODE,
    MAIN,
    NODE_SHARES,
    RANDOM,
    RANDOM_ANSWERS,
    CircuitConfig,
    Floats,
    left_out,
    tasks_of,
)
from experiments.harness.experiment import Metric, Records
from mlx_interp.circuits import METHODS, cmd, cpr, faithfulness
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import Estimate, function_interval, mean_or_none

Curve = Callable[[Floats], Floats]
GROUPS = {"random, same layers": "random, same layers ", "random": "random ", "circuit of another task": "circuit of "}
"""Kinds that stand for several circuits: what the names of their records begin with."""
EDGE_KINDS = (*EDGE_METHODS, "greedy", *GROUPS, RANDOM_ANSWERS)
COMPLETE_AT = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Sizes that the table of completeness has, where they were measured."""
NODE_KINDS = (*METHODS, "exact patching", "random, same layers")


def rows_of(records: Records, **labels: object) -> list[Any]:
    return [r for r in records if all(r.get(name) == value for name, value in labels.items())]


def ends(records: Records, task: str, level: str = "ends") -> tuple[Floats, Floats] | None:
    """m of the whole model and m with everything replaced, on every test pair; None where nothing was scored."""
    found = rows_of(records, task=task, level=level)
    return (np.array(found[0]["full"]), np.array(found[0]["empty"])) if found else None


def measured(records: Records, task: str, level: str, kind: str) -> list[Floats]:
    """m (n_pairs, n_sizes) of a kind's circuits: one array, or one for each circuit that the kind stands for."""
    prefix = GROUPS.get(kind)

    def belongs(name: str) -> bool:
        if prefix is None:
            return name == kind
        return name.startswith(prefix) and (kind != "random" or name[len(prefix) :].isdigit())

    rows = [r for r in records if r.get("level") == level and r["task"] == task and belongs(str(r.get("kind")))]
    return [np.array(r["m"]) for r in rows]


def curve(records: Records, task: str, level: str, kind: str, figure: Curve, seed: int) -> Estimate | None:
    """A figure of the faithfulness curve of a kind of circuit, averaged over its circuits; interval over test pairs."""
    bounds = ends(records, task, "mean ends" if level == "mean edge" else "ends")
    found = measured(records, task, level, kind)
    if bounds is None or not found:
        return None
    full, empty = bounds

    def of(pairs: Any) -> Floats:
        curves = [figure(faithfulness(m[pairs], full[pairs], empty[pairs])) for m in found]
        return np.asarray(np.mean(curves, axis=0))

    return function_interval(of, len(full), seed=seed)


def at_size(place: int) -> Curve:
    """f of the circuit of one size, by its place among the sizes."""
    return lambda f: f[..., place]


def task_table(records: Records, config: CircuitConfig) -> Table | None:
    """What is to be explained."""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        bounds = ends(records, task)
        if bounds is None:
            return None
        n_train = rows_of(records, task=task, level="node", method=MAIN)[0]["n"]
        means = [mean_or_none(list(m), unit=list(range(len(m))), seed=config.seed) for m in bounds]
        rows.append([task, n_train, len(bounds[0]), *means])
    left = left_out(records)
    rows += [[task, None, None, None, None] for task in left]
    return Table(
        "Tasks",
        ["task", "pairs to discover on", "pairs to score on", Column("m(M)", "nats"), Column("m(0)", "nats")],
        rows,
        [
            "m: log-odds of the right answer on the clean prompt; m(0): everything takes its counterfactual value.",
            *(f"Left out: {why}." for why in left.values()),
        ],
    )


def check_table(records: Records, config: CircuitConfig) -> Table | None:
    """Estimates against real patching, pair by pair."""
    rows: list[list[Cell]] = []
    for kind, label, methods in (
        ("nodes", "nodes, all", METHODS),
        ("cells", "node at a position, sample", METHODS),
        ("edges", "edges, sample", EDGE_METHODS),
    ):
        for method in methods:
            if kind == "nodes":
                found = [_node_check(r, method) for r in rows_of(records, kind=kind)]
            else:
                found = rows_of(records, kind=kind, method=method)
            if found:
                units = [(r["task"], r["pair"]) for r in found]
                rho = mean_or_none([r["spearman"] for r in found], unit=units, seed=config.seed)
                hit = [(r["missed"], u) for r, u in zip(found, units, strict=True) if r["missed"] is not None]
                missed = mean_or_none([x for x, _ in hit], unit=[u for _, u in hit], seed=config.seed)
                rows.append([label, method, len(units), round(np.mean([r["cells"] for r in found])), rho, missed])
    if not rows:
        return None
    heads = [Column("rank correlation"), Column("large effects missed", "%")]
    note = (
        f"Mean over pairs of all tasks. Sample: {config.n_sampled} of the largest EAP-IG, {config.n_sampled} others. "
        f"Large: {LARGE_NODE:.0%} of m(M) - m(0) for a node, {LARGE_CELL:.0%} at one position, {LARGE_EDGE:.0%} for an "
        "edge; missed: the estimate is not large."
    )
    return Table("Estimates against real patching", ["what", "method", "pairs", "cells", *heads], rows, [note])


def _node_check(row: Any, method: str) -> dict[str, Any]:
    exact, found = np.array(row["exact"]), np.array(row[method])
    large = np.abs(exact) >= LARGE_NODE * abs(row["full"] - row["empty"])
    missed = (
        float((np.abs(found[large]) < LARGE_NODE * abs(row["full"] - row["empty"])).mean()) if large.any() else None
    )
    rho = float(scipy.stats.spearmanr(found, exact).statistic)
    return {"task": row["task"], "pair": row["pair"], "spearman": rho, "missed": missed, "cells": len(exact)}


def truth_table(records: Records, config: CircuitConfig) -> Table | None:
    """Does attribution find the heads, MLPs and layers whose removal matters?"""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        found = rows_of(records, kind="nodes", task=task)
        for method in METHODS if found else ():
            exact, scores = (np.array([r[name] for r in found])[:, 1:] for name in ("exact", method))
            gaps = np.array([r["full"] - r["empty"] for r in found])
            layers = np.array([r["layers"] for r in found])
            zeroed = np.array([r["zeroed"] for r in found])[:, 1:]
            figures = [
                function_interval(_each(f), len(found), seed=config.seed, resamples=500)
                for f in (
                    lambda p, e=exact, s=scores, g=gaps: _found(e[p], s[p], g[p])[0],
                    lambda p, e=exact, s=scores, g=gaps: _found(e[p], s[p], g[p])[1],
                    lambda p, e=layers, s=scores: float(
                        scipy.stats.spearmanr(by_layer(s[p].mean(0), e), e[p].mean(0)).statistic
                    ),
                    lambda p, e=zeroed, s=scores: float(
                        scipy.stats.spearmanr(abs(s[p].mean(0)), abs(e[p].mean(0))).statistic
                    ),
                )
            ]
            large = int((np.abs(exact.mean(0)) >= LARGE_NODE * abs(gaps.mean())).sum())
            rows.append([task, method, len(found), large, *figures[:2], large / exact.shape[1], *figures[2:]])
    if not rows:
        return None
    return Table(
        "Heads and MLPs found, against exhaustive patching",
        [
            *("task", "method", "pairs", "nodes that matter", Column("precision", "%"), Column("recall", "%")),
            *(Column("precision by chance", "%"), Column("layers: rank correlation")),
            Column("zero ablation: rank correlation of sizes"),
        ],
        rows,
        [
            f"A node matters if patching it, averaged over pairs, moves m by {LARGE_NODE:.0%} of m(M) - m(0) or more; "
            "it is found if its estimate says so. The embedding, which always matters, is left out. Layers: all heads "
            "of a layer, and each MLP, patched together against the sum of their estimates."
        ],
    )


def _each(figure: Callable[[Any], float]) -> Callable[[Any], Floats]:
    """A figure of one draw of units, for many draws."""
    return lambda draws: np.array([figure(units) for units in draws])


def by_layer(scores: Floats, layers: Floats) -> Floats:
    """Estimates of nodes (without the embedding) summed to attention and MLP of each layer."""
    n_layers = layers.shape[1] // 2
    blocks = scores.reshape(n_layers, -1)
    found: Floats = np.stack([blocks[:, :-1].sum(1), blocks[:, -1]], axis=1).ravel()
    return found


def _found(exact: Floats, scores: Floats, gaps: Floats) -> tuple[float, float]:
    """Precision and recall of the nodes whose mean estimate is large; nan where none is."""
    bound = LARGE_NODE * abs(gaps.mean())
    truly, said = np.abs(exact.mean(0)) >= bound, np.abs(scores.mean(0)) >= bound
    both = float((truly & said).sum())
    return both / said.sum() if said.any() else np.nan, both / truly.sum() if truly.any() else np.nan


def area_table(records: Records, config: CircuitConfig) -> Table | None:
    """MIB's areas, in linear k as published and in log k."""
    kinds = [("edge", kind, kind) for kind in EDGE_KINDS] + [("mean edge", MAIN, f"{MAIN}, mean ablation")]
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        bounds = ends(records, task)
        for level, kind, label in kinds if bounds else ():
            areas: list[Curve] = [
                partial(area, shares=config.shares, log=log) for log in (False, True) for area in (cpr, cmd)
            ]
            figures = [curve(records, task, level, kind, area, config.seed) for area in areas]
            if figures[0] is not None:
                rows.append([task, label, figures[0].n, *figures])
    heads = ("CPR", "CMD", "CPR, log k", "CMD, log k")
    note = (
        f"Shares of all edges from {config.shares[0]:g} to 1. CPR: area under f, larger is better (.5 for random edges "
        "under a linear model); CMD: area under |1 - f|, 0 is best; over log k divided by its range. f is never "
        f"clipped. Random: {RANDOM} circuits of equal size, or of equal size between each two layers."
    )
    title = "Faithfulness of circuits of edges"
    return Table(title, ["task", "circuit", "pairs", *(Column(h) for h in heads)], rows, [note]) if rows else None


def node_table(records: Records, config: CircuitConfig) -> Table | None:
    """Faithfulness of circuits of whole nodes, by size."""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        for kind in NODE_KINDS if ends(records, task) else ():
            values = [
                curve(records, task, "node", kind, at_size(at), config.seed) for at in range(len(NODE_SHARES) - 1)
            ]
            if values[0] is not None:
                rows.append([task, kind, values[0].n, *values])
    heads = [Column(f"f at {share:.0%}") for share in NODE_SHARES[:-1]]
    note = "The embedding is in every circuit, for free. Exact patching: nodes in the order of what patching each does."
    title = "Faithfulness of circuits of heads and MLPs"
    return Table(title, ["task", "circuit", "pairs", *heads], rows, [note]) if rows else None


def complete_table(records: Records, config: CircuitConfig) -> Table | None:
    """What the rest of the model does without the circuit."""
    chosen = [at for at, share in enumerate(config.shares) if share in COMPLETE_AT]
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        for kind, label in ((MAIN, "circuit"), ("complement", "complement")) if ends(records, task) else ():
            values = [curve(records, task, "edge", kind, at_size(at), config.seed) for at in chosen]
            if values[0] is not None:
                rows.append([task, label, values[0].n, *values])
    heads = [Column(f"f at {config.shares[at]:.0%}") for at in chosen]
    note = "Completeness: f of all edges outside the circuit is near 0 where the circuit holds all that matters."
    return Table("Completeness", ["task", "edges", "pairs", *heads], rows, [note]) if rows else None


def metrics(records: Records, config: CircuitConfig) -> list[Metric]:
    """What models are compared by."""
    found = []
    for task in tasks_of(records):
        value = curve(records, task, "edge", MAIN, lambda f: cpr(f, config.shares, log=True), config.seed)
        found.append(Metric(f"CPR over log k, {task}", "", value))
    return found


def headlines(records: Records, config: CircuitConfig) -> list[str]:
    parts = []
    table = check_table(records, config)
    if table is not None:
        row = next(r for r in table.rows if r[0] == "nodes, all" and r[1] == MAIN)
        if row[4] is not None:  # of a single pair there is no interval, and no figure
            parts.append(f"estimates of nodes against real patching: rank correlation {row[4]}")
    for task in tasks_of(records):
        at = config.shares.index(0.1)
        own, other = (
            curve(records, task, "edge", kind, at_size(at), config.seed) for kind in (MAIN, "random, same layers")
        )
        if own is not None and other is not None:
            parts.append(f"{task}: 10 % of the edges keep f {own} (random {other})")
    return parts
