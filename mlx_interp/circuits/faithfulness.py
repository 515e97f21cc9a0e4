"""Faithfulness of a circuit: does it do what the model does? Over circuit sizes, with its areas.

f(C) = (m(C) - m(0)) / (m(M) - m(0)), where m(C) is the metric with everything outside the circuit replaced, m(0) with
everything replaced, and m(M) that of the whole model. m is averaged over pairs before the ratio is taken, f never
clipped: f < 0 and f > 1 happen.

CPR, the area under f, and CMD, the area under |1 - f| (0 is best), by trapezoids over the share k of edges, as the MIB
benchmark publishes them (Mueller et al. 2025). In linear k the last step alone, .5 to 1, has half of the weight; the
areas over log k, divided by its range, stand beside them.

Completeness is f of the complement: near 0 where the circuit holds all that matters. Minimality: what f loses when one
member is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_interp.circuits.exact import Baseline, edge_metric, patches, replacements, sweep_metric
from mlx_interp.circuits.pairs import Metric, Pair, log_odds
from mlx_interp.deferred import mx
from mlx_interp.model import Model

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Circuit sizes of the MIB benchmark, as shares of all edges."""


def node_circuits(
    model: Model,
    pairs: Sequence[Pair],
    circuits: Sequence[Bools] | Bools,
    *,
    metric: Metric | None = None,
    baseline: Baseline = "counterfactual",
) -> Floats:
    """The metric with every node outside a circuit replaced: (n_pairs, n_circuits). circuits: masks (n_nodes,)."""
    metric = metric or log_odds(model)
    rows = []
    for pair, values in zip(pairs, replacements(model, pairs, baseline), strict=True):
        variants = [patches(model, ~circuit, values) for circuit in circuits]
        rows.append(sweep_metric(model, pair, variants, metric))
    return np.array(rows)


def edge_circuits(
    model: Model,
    pairs: Sequence[Pair],
    circuits: Sequence[Bools] | Bools,
    *,
    metric: Metric | None = None,
    baseline: Baseline = "counterfactual",
) -> Floats:
    """The metric with every edge outside a circuit carrying the counterfactual: (n_pairs, n_circuits).

    circuits: masks (n_inputs, n_nodes).
    """
    weights = mx.array(np.array(circuits, dtype=np.float32))
    return edge_metric(model, pairs, weights, metric=metric, baseline=baseline)


def faithfulness(circuit: Floats, full: Floats, empty: Floats) -> Floats:
    """f from the metric on every pair: circuit (..., n_pairs, n_circuits), full and empty (..., n_pairs).

    Means over pairs first, then the ratio: (..., n_circuits). nan where the model does no better than the ablated one
    on average. Axes before the pairs are, say, resamples of them.
    """
    whole, nothing = (m.mean(-1)[..., None] for m in (full, empty))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(whole == nothing, np.nan, (circuit.mean(-2) - nothing) / (whole - nothing))
    return found


def area(values: Floats, shares: Sequence[float] = SHARES, *, log: bool = False) -> Floats:
    """Area under curves (..., n_shares) by trapezoids; with `log`, over log k and divided by its range."""
    x = np.log(np.array(shares)) if log else np.array(shares)
    total: Floats = np.asarray(np.trapezoid(values, x, axis=-1))
    return total / float(x[-1] - x[0]) if log else total


def cpr(f: Floats, shares: Sequence[float] = SHARES, *, log: bool = False) -> Floats:
    """Integrated circuit performance ratio: area under f."""
    return area(f, shares, log=log)


def cmd(f: Floats, shares: Sequence[float] = SHARES, *, log: bool = False) -> Floats:
    """Integrated circuit-model distance: area under |1 - f|; 0 is best."""
    return area(np.abs(1 - f), shares, log=log)


def without_each(circuit: Bools, most: int | None = None, seed: int = 0) -> list[tuple[tuple[int, ...], Bools]]:
    """The circuit without each of its members, with the member's index: what minimality compares.

    most: for a circuit with more members so many of them, drawn at random by the seed.
    """
    found = []
    members = np.argwhere(circuit)
    if most is not None and len(members) > most:
        members = members[np.sort(np.random.default_rng(seed).choice(len(members), most, replace=False))]
    for member in members:
        smaller = circuit.copy()
        smaller[tuple(member)] = False
        found.append((tuple(int(i) for i in member), smaller))
    return found
