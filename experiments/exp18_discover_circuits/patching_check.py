"""Estimates of exp18 against real patching, one pair at a time: every node and layer, a sample of cells and edges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NotRequired, TypedDict, cast

import numpy as np

from experiments.exp18_discover_circuits.config import (
    EDGE_METHODS,
    LARGE_CELL,
    LARGE_EDGE,
    MAIN,
    CircuitConfig,
    Item,
    items,
    rounded,
    split,
)
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.circuits import (
    METHODS,
    Pair,
    check,
    edge_effects,
    edge_scores,
    log_odds,
    node_effects,
    node_scores,
    sample,
    wiring,
)
from mlx_interp.circuits.attribution import Method
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.exact import Check, Floats, patches, replacements, sweep_metric
from mlx_interp.model import Model
from mlx_interp.reporting import finite


def checked_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    return items(run, earlier) if "patching" in run.config.parts else []


class Figures(TypedDict):
    """Estimates against effects."""

    spearman: float | None
    """Rank correlation; None for too few cells."""
    missed: float | None
    """Share of the large effects whose estimate is not large; None where none is large."""
    n_large: int
    cells: int


Estimates = TypedDict(
    "Estimates",
    {
        "attribution": list[float],
        "clean-corrupted": list[float],
        "ig-inputs": list[float],
        "ig-activations": list[float],
    },
    total=False,
)
"""Estimated effect of every node, by method."""


class Checked(Estimates):
    """Real patching of one pair: every node and layer, or a sample of cells or edges against their estimates."""

    task: str
    pair: str
    kind: str
    """nodes, cells or edges."""
    full: NotRequired[float]
    """Nodes; so for the fields up to layers: m of the model, nats."""
    empty: NotRequired[float]
    """m with all nodes replaced."""
    exact: NotRequired[list[float]]
    """Effect of replacing each node."""
    zeroed: NotRequired[list[float]]
    """The same with zeros."""
    layers: NotRequired[list[float]]
    """Effect of replacing each layer's heads, and each MLP."""
    method: NotRequired[str]
    """Cells and edges; so for the following fields."""
    spearman: NotRequired[float | None]
    """Rank correlation; None for too few cells."""
    missed: NotRequired[float | None]
    """Share of the large effects whose estimate is not large; None where none is large."""
    n_large: NotRequired[int]
    cells: NotRequired[int]


def patching(run: Run[CircuitConfig], item: Item) -> Iterator[Checked]:
    """Every node really patched, every layer too, and a sample of node-positions and edges; estimates beside them."""
    model = run.model
    train, _ = split(run, item.task)
    wires = wiring(model.network)
    cells = [(number, None) for number in range(wires.n_nodes)]
    for pair in train[: run.config.n_checked]:
        full, empty, layers = _whole_layers(model, pair)
        gap = abs(full - empty)
        exact = node_effects(model, [pair], cells)[0]
        zeroed = node_effects(model, [pair], cells, baseline="zero")[0]
        by_cell = {m: node_scores(model, [pair], method=m, steps=run.config.steps, positions=True)[0] for m in METHODS}
        base: Checked = {"task": item.task, "pair": pair.key, "kind": "nodes"}
        estimates = {method: rounded(found.sum(1)) for method, found in by_cell.items()}
        exactly = {"exact": rounded(exact), "zeroed": rounded(zeroed), "layers": rounded(layers)}
        yield cast(Checked, {**base, "full": full, "empty": empty, **exactly, **estimates})
        yield from _checked_cells(run, pair, by_cell, gap, base)
        yield from _checked_edges(run, pair, gap, base)


def _whole_layers(model: Model, pair: Pair) -> tuple[float, float, Floats]:
    """m of the model, m with all nodes replaced, and the effect of replacing each layer's heads, and each MLP."""
    wires = wiring(model.network)
    values = replacements(model, [pair])[0]
    masks = []
    for layer in range(wires.n_layers):
        for chosen in (wires.heads(layer), wires.mlp(layer)):
            mask = np.zeros(wires.n_nodes, bool)
            mask[chosen] = True
            masks.append(mask)
    variants = [[], patches(model, np.ones(wires.n_nodes, bool), values), *(patches(model, m, values) for m in masks)]
    found = sweep_metric(model, pair, variants, log_odds(model))
    return float(found[0]), float(found[1]), found[2:] - found[0]


def _checked_cells(
    run: Run[CircuitConfig], pair: Pair, by_cell: dict[Method, Floats], gap: float, base: Checked
) -> Iterator[Checked]:
    """One sample for all methods: where EAP-IG sees most, and elsewhere."""
    chosen = sample(by_cell[MAIN], top=run.config.n_sampled, random=run.config.n_sampled, seed=run.config.seed)
    n_positions = by_cell[MAIN].shape[1]
    exact = node_effects(run.model, [pair], [divmod(index, n_positions) for index in chosen])[0]
    for method, scores in by_cell.items():
        found = check(scores.ravel()[chosen], exact, large=LARGE_CELL * gap)
        yield {**base, "kind": "cells", "method": method, **_figures(found)}


def _checked_edges(run: Run[CircuitConfig], pair: Pair, gap: float, base: Checked) -> Iterator[Checked]:
    config = run.config
    wires = wiring(run.model.network)
    every = existing(wires)
    scores = {
        m: np.where(every, edge_scores(run.model, [pair], method=m, steps=config.steps)[0], np.nan)
        for m in EDGE_METHODS
    }
    chosen = sample(scores[MAIN], top=config.n_sampled, random=config.n_sampled, seed=config.seed)
    exact = edge_effects(run.model, [pair], [divmod(index, wires.n_nodes) for index in chosen])[0]
    for method, found in scores.items():
        figures = check(found.ravel()[chosen], exact, large=LARGE_EDGE * gap)
        yield {**base, "kind": "edges", "method": method, **_figures(figures)}


def _figures(found: Check) -> Figures:
    return {"spearman": finite(found.spearman), "missed": found.missed, "n_large": found.n_large, "cells": found.n}
