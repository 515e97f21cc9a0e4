"""ACDC in exp18, beside circuits of as many edges by attribution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypedDict

import numpy as np
import scipy

from experiments.exp18_discover_circuits.config import (
    MAIN,
    Bools,
    CircuitConfig,
    Floats,
    Item,
    items,
    rounded,
    split,
)
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.circuits import edge_circuits, edge_scores, faithfulness, jaccard, random_edges, top, wiring
from mlx_interp.circuits.acdc import acdc
from mlx_interp.circuits.attribution import Method
from mlx_interp.circuits.discovery import existing
from mlx_interp.reporting import Cell, Column, Table
from mlx_interp.stats import Estimate, function_interval

METHODS: tuple[Method, ...] = (MAIN, "attribution")
KINDS = ("ACDC", *METHODS, "random, same layers")


def acdc_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    return items(run, earlier) if "acdc" in run.config.parts else []


class Pruned(TypedDict):
    """A circuit by ACDC at one threshold, beside others of its size."""

    task: str
    threshold: float
    """Nats."""
    acdc_edges: int
    evaluated: int
    """Circuits on the way."""
    divergence: float
    """Of the circuit from the model, nats."""
    n: int
    """Pairs to discover on."""
    m: list[list[float]]
    """Of test pairs: the whole model, nothing, and the circuits, nats."""
    auroc: dict[str, float | None]
    """Of each method's scores for its edges; None where all or none is in it."""
    jaccard: dict[str, float]
    """Overlap with each method's circuit."""
    by_chance: float


def measure(run: Run[CircuitConfig], item: Item) -> Iterator[Pruned]:
    """A circuit for each threshold; on test pairs beside others of its size, from the same pairs."""
    model, config = run.model, run.config
    train, test = split(run, item.task)
    some = train[: config.n_checked]
    wires = wiring(model.network)
    every = existing(wires)
    scores = {method: edge_scores(model, some, method=method, steps=config.steps).mean(0) for method in METHODS}
    for threshold in config.acdc_thresholds:
        found = acdc(model, some, threshold)
        n = int(found.edges.sum())
        largest = {method: top(values, n) for method, values in scores.items()}
        rivals: list[Bools] = [found.edges, *largest.values(), random_edges(found.edges, wires, config.seed)]
        m = edge_circuits(model, test, [every, every & False, *rivals])
        yield {
            "task": item.task,
            "threshold": threshold,
            "acdc_edges": n,
            "evaluated": found.evaluated,
            "divergence": found.divergence,
            "n": len(some),
            "m": [rounded(row) for row in m],
            "auroc": {method: told(values[every], found.edges[every]) for method, values in scores.items()},
            "jaccard": {method: jaccard(found.edges, circuit) for method, circuit in largest.items()},
            "by_chance": n / (2 * int(every.sum()) - n),
        }


def told(scores: Floats, members: Bools) -> float | None:
    """AUROC of the sizes of scores for being in a circuit; None where all or none is."""
    n_in, n_out = int(members.sum()), int((~members).sum())
    if not n_in or not n_out:
        return None
    ranks = scipy.stats.rankdata(np.abs(scores))
    return float((ranks[members].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out))


def _f(m: Floats, place: int, seed: int) -> Estimate | None:
    """Faithfulness of one circuit; before them stand the whole model and nothing."""

    def of(pairs: Any) -> Floats:
        found: Floats = faithfulness(m[pairs][..., [2 + place]], m[pairs, 0], m[pairs, 1])[..., 0]
        return found

    return function_interval(of, len(m), seed=seed)


def acdc_table(records: Records, config: CircuitConfig) -> Table | None:
    """Edges by removal against edges by gradients."""
    rows: list[list[Cell]] = []
    for r in records:
        if "acdc_edges" not in r:
            continue
        m = np.array(r["m"])
        values: list[Cell] = [_f(m, place, config.seed) for place in range(len(KINDS))]
        told_apart = [r["auroc"][method] for method in METHODS]
        shared = [r["jaccard"][method] for method in METHODS]
        cost = [r["n"], r["evaluated"], len(m)]
        rows.append([r["task"], r["threshold"], r["acdc_edges"], *cost, *values, *told_apart, *shared, r["by_chance"]])
    if not rows:
        return None
    return Table(
        "ACDC beside edge attribution",
        [
            *("task", Column("threshold", "nats", digits=3), "edges", "pairs to discover on", "circuits evaluated"),
            "test pairs",
            *(Column(f"f, {kind}") for kind in KINDS),
            *(Column(f"AUROC of {kind} for ACDC's edges") for kind in METHODS),
            *(Column(f"Jaccard with {kind}") for kind in METHODS),
            Column("by chance"),
        ],
        rows,
        [
            "ACDC removes every edge whose loss raises KL(model || circuit) by less than the threshold, from the "
            "logits downward. Circuits of as many edges, from the same pairs: the largest by EAP-IG (ig-inputs) and by "
            "one gradient (attribution), and random ones of ACDC's layers. f on test pairs. AUROC .5 is chance."
        ],
    )
