"""Exact patching of nodes and edges, by which every estimate of attribution is checked.

Nodes are patched by `Model.sweep`, all in one batch a pair; edges by a pass along edges. The effect is signed as in
`attribution`: m with the node's or edge's output replaced by the counterfactual run's, minus m on the clean prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy

from mlx_interp.circuits.attribution import EMBEDDING, node_sites
from mlx_interp.circuits.pairs import Metric, Pair, log_odds, tokens_of
from mlx_interp.deferred import mx
from mlx_interp.engine.edge_pass import Written, wiring, written
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Intervention, Patch
from mlx_interp.model import Model
from mlx_interp.patching.nodes import EMBED, HEAD, Node, nodes
from mlx_interp.patching.path_patches import edge_logits

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]
Baseline = Literal["counterfactual", "mean", "zero"]
Cell = tuple[int, int | None]
"""Number of a node, and a position or None for all of them."""
Values: TypeAlias = "Mapping[str, mx.array]"
"""By site: (pos, ...) of one pair."""


def replacements(model: Model, pairs: Sequence[Pair], baseline: Baseline = "counterfactual") -> list[Values]:
    """Replacements of every node's output, on every pair.

    counterfactual: what it is on the pair's counterfactual prompt. mean: the mean of that over pairs of the same group
    and length, position by position. zero: nothing.
    """
    found = []
    for pair in pairs:
        out = model.run(pair.counterfactual, capture=node_sites(model), logits="none")
        found.append({site: out[site][0] for site in node_sites(model)})
    if baseline == "zero":
        return [{site: mx.zeros_like(x) for site, x in values.items()} for values in found]
    if baseline == "counterfactual":
        return list(found)
    alike: dict[tuple[str, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        alike.setdefault((pair.group, pair.length), []).append(index)
    means = {
        key: {site: mx.stack([found[i][site] for i in members]).mean(0) for site in node_sites(model)}
        for key, members in alike.items()
    }
    return [means[pair.group, pair.length] for pair in pairs]


def patch(node: Node, values: Values, position: int | range | None = None) -> Intervention:
    """One node's output replaced, at one position, at those of a range, or at all."""
    at: Any = slice(None) if position is None else position
    if isinstance(position, range):
        at = slice(position.start, position.stop)
    if node.kind == HEAD:
        site = f"z.{node.layer}"
        return Patch(site, values[site][at, node.head], position, heads=node.head)
    site = EMBEDDING if node.kind == EMBED else f"mlp_out.{node.layer}"
    return Patch(site, values[site][at], position)


def patches(model: Model, outside: Bools, values: Values) -> list[Intervention]:
    """All nodes outside a circuit replaced; heads of a layer by one intervention. outside: (n_nodes,)."""
    wires = wiring(model.network)
    edits: list[Intervention] = [Patch(EMBEDDING, values[EMBEDDING])] if outside[0] else []
    for layer in range(wires.n_layers):
        if heads := np.flatnonzero(outside[wires.heads(layer)]).tolist():
            site = f"z.{layer}"
            edits.append(Patch(site, values[site][:, mx.array(heads)], heads=heads))
        if outside[wires.mlp(layer)]:
            edits.append(Patch(f"mlp_out.{layer}", values[f"mlp_out.{layer}"]))
    return edits


def node_effects(
    model: Model,
    pairs: Sequence[Pair],
    cells: Sequence[Cell],
    *,
    metric: Metric | None = None,
    baseline: Baseline = "counterfactual",
) -> Floats:
    """Exact effect of replacing each cell alone: (n_pairs, n_cells), nan for positions that a pair does not have."""
    metric = metric or log_odds(model)
    known = nodes(wiring(model.network))
    found = np.full((len(pairs), len(cells)), np.nan)
    for row, (pair, values) in enumerate(zip(pairs, replacements(model, pairs, baseline), strict=True)):
        there = [i for i, (_, position) in enumerate(cells) if position is None or position < pair.length]
        # Before the prompts differ, what is written in is what is there.
        everywhere = range(pair.differs_from, pair.length) if baseline == "counterfactual" else None
        places = [(cells[i][0], everywhere if cells[i][1] is None else cells[i][1]) for i in there]
        variants = [[], *([patch(known[number], values, at)] for number, at in places)]
        measured = sweep_metric(model, pair, variants, metric)
        found[row, there] = measured[1:] - measured[0]
    return found


def sweep_metric(model: Model, pair: Pair, variants: Sequence[Sequence[Intervention]], metric: Metric) -> Floats:
    """The metric of every variant of a pair's clean prompt: (n_variants,)."""
    one = metric([pair])
    measured = model.sweep(pair.clean, variants, metric=lambda logits: one(logits)[..., None])
    return np.asarray(measured, dtype=np.float64)[:, 0]


def edge_metric(
    model: Model,
    pairs: Sequence[Pair],
    weights: mx.array,
    *,
    metric: Metric | None = None,
    baseline: Baseline = "counterfactual",
) -> Floats:
    """The metric on every pair under weights of edges, 1 in, 0 out: (n_pairs, n_variants).

    weights: (n_variants, n_inputs, n_nodes).
    """
    metric = metric or log_odds(model)
    found = np.zeros((len(pairs), len(weights)))
    for row, (pair, other) in enumerate(zip(pairs, _others(model, pairs, baseline), strict=True)):
        here, _ = written(model.network, tokens_of([pair.clean]))
        found[row] = np.asarray(edge_logits(model, here.embedding, other, weights, metric([pair])), dtype=np.float64)
    return found


def edge_effects(
    model: Model, pairs: Sequence[Pair], edges: Sequence[tuple[int, int]], *, metric: Metric | None = None
) -> Floats:
    """Exact effect of replacing what one edge (input, node) carries: (n_pairs, n_edges)."""
    wires = wiring(model.network)
    for reads, node in edges:
        if node >= wires.sources(reads):
            raise CircuitError(f"there is no edge from node {node} to input {reads}: it comes later")
    weights = np.ones((len(edges) + 1, wires.n_inputs, wires.n_nodes), np.float32)
    for number, (reads, node) in enumerate(edges, 1):
        weights[number, reads, node] = 0
    measured = edge_metric(model, pairs, mx.array(weights), metric=metric)
    return measured[:, 1:] - measured[:, :1]


def _others(model: Model, pairs: Sequence[Pair], baseline: Baseline) -> list[Written]:
    found = [written(model.network, tokens_of([pair.counterfactual]))[0] for pair in pairs]
    if baseline == "counterfactual":
        return found
    if baseline == "zero":
        return [run.minus(run) for run in found]
    alike: dict[tuple[str, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        alike.setdefault((pair.group, pair.length), []).append(index)
    means = {key: Written.joined([found[i] for i in members]).mean() for key, members in alike.items()}
    return [means[pair.group, pair.length] for pair in pairs]


@dataclass(frozen=True)
class Check:
    """Agreement of estimates with exact effects, over nodes or edges."""

    spearman: float
    missed: float | None
    """Share of cells with a large exact effect whose estimate is not large (saturated attention hides them); None
    where no exact effect is large."""
    n_large: int
    n: int


def check(estimated: Floats, exact: Floats, *, large: float) -> Check:
    """Agreement of estimated and exact effects (n,); an effect counts as large from `large` on, in size."""
    kept = np.isfinite(exact) & np.isfinite(estimated)
    estimated, exact = estimated[kept], exact[kept]
    rho = float(scipy.stats.spearmanr(estimated, exact).statistic) if len(exact) > 2 else float("nan")
    truly = np.abs(exact) >= large
    missed = float((np.abs(estimated[truly]) < large).mean()) if truly.any() else None
    return Check(rho, missed, int(truly.sum()), len(exact))


def sample(scores: Floats, *, top: int, random: int, seed: int) -> list[int]:
    """Flat indices of the `top` largest scores in size and of `random` others; nan is left out."""
    flat = np.abs(scores).ravel()
    there = np.flatnonzero(np.isfinite(flat))
    order = there[np.argsort(-flat[there], kind="stable")]
    rest = np.random.default_rng(seed).permutation(order[top:])[:random]
    return [int(i) for i in (*order[:top], *rest)]
