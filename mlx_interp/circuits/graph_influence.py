"""Influence in attribution graphs: what of a graph matters for its logits, and how much of it features explain.

Direct effects into each node become shares, absolute values that sum to 1. A node's influence is the sum, over all
paths from it to the logits, of the products of shares, weighed by the logits' probabilities (Ameisen et al. 2025).

pruned          nodes that together have a share of all influence, and edges that have one of what is left
replacement     embeddings' part in the influence of embeddings and errors together
completeness    share of what leads into nodes that is not from errors, weighed by the nodes' influence
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlx_interp.errors import CircuitError
from mlx_interp.shapes import ShapesShown

if TYPE_CHECKING:
    from mlx_interp.circuits.attribution_graphs import AttributionGraph

NODES, EDGES = 0.8, 0.98
"""Shares of influence that are kept, as in the published code."""


@dataclass(frozen=True, eq=False, repr=False)
class Pruned(ShapesShown):
    """What is left of a graph."""

    nodes: np.ndarray
    """(n_nodes,) of bool; embeddings and logits always."""
    edges: np.ndarray
    """(n_nodes, n_nodes) of bool, target by source."""
    cumulative: np.ndarray
    """(n_nodes,): share of all influence that a node and those above it have."""


@dataclass(frozen=True)
class GraphScores:
    """How far a graph explains its prompt by features, 0 to 1."""

    replacement: float
    completeness: float


def shares(effects: np.ndarray) -> np.ndarray:
    """Direct effects (target, source) as shares of what leads into each target; a row without any stays 0."""
    size = np.abs(effects)
    found: np.ndarray = size / np.maximum(size.sum(axis=1, keepdims=True), 1e-10)
    return found


def influence(effects: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Influence of every source (n_sources,) on the targets that have weights.

    effects: (n_targets, n_sources). places: where each target stands among the sources (beyond them: nowhere).
    weights: (n_targets,). Targets lead only into later ones: no path is longer than there are targets.
    """
    normed = shares(effects)
    found = np.zeros(effects.shape[1])
    inside = places < effects.shape[1]
    current = weights
    for _ in range(len(places) + 1):
        step = current @ normed
        if not step.any():
            return found
        found = found + step
        current = np.where(inside, step[np.minimum(places, effects.shape[1] - 1)], 0.0)
    raise CircuitError("the graph has a circle: each node must lead into later ones only")


def node_influence(graph: AttributionGraph) -> np.ndarray:
    """(n_nodes,): of each node on the logits, by their probabilities."""
    return influence(graph.effects, np.arange(graph.n_nodes), graph.weights)


def graph_scores(graph: AttributionGraph) -> GraphScores:
    """Replacement score and completeness score of a whole graph."""
    found, normed = node_influence(graph), shares(graph.effects)
    embeddings, errors = found[graph.embeddings].sum(), found[graph.errors].sum()
    clear = 1 - normed[:, graph.errors].sum(axis=1)
    weights = found + graph.weights
    return GraphScores(float(embeddings / (embeddings + errors)), float((clear * weights).sum() / weights.sum()))


def prune(graph: AttributionGraph, *, nodes: float = NODES, edges: float = EDGES) -> Pruned:
    """Nodes and edges that matter, without those that then lead nowhere or come from nowhere.

    nodes, edges: shares of influence that are kept, 0 to 1. Raises CircuitError for others, and where no feature and no
    error is left.
    """
    for name, share in (("nodes", nodes), ("edges", edges)):
        if not 0 <= share <= 1:
            raise CircuitError(f"{name} = {share}: a share of the influence, between 0 and 1")
    inner = slice(0, graph.embeddings.start)
    found = node_influence(graph)
    kept = found >= _bound(found, nodes)
    kept[inner.stop :] = True
    left = np.where(kept[:, None] & kept[None], graph.effects, 0.0)
    through = influence(left, np.arange(graph.n_nodes), graph.weights) + graph.weights
    scores = shares(left) * through[:, None]
    lines = scores >= _bound(scores.ravel(), edges)
    before = None
    while before is None or (kept != before).any():
        before = kept.copy()
        kept[inner] &= lines[:, inner].any(axis=0)
        kept[: graph.n_features] &= lines[: graph.n_features].any(axis=1)
        lines &= kept[:, None] & kept[None]
    if not kept[inner].any():
        raise CircuitError(
            f"nothing is left of {graph.n_features} features and {graph.errors.stop - graph.errors.start} errors at "
            f"nodes={nodes}, edges={edges}: no path leads from them to the logits within these; take larger shares"
        )
    order = np.argsort(-found, kind="stable")
    cumulative = np.zeros(graph.n_nodes)
    cumulative[order] = np.cumsum(found[order]) / found.sum()
    return Pruned(kept, lines & (graph.effects != 0), cumulative)


def _bound(scores: np.ndarray, share: float) -> float:
    """The score down to which the largest have a share of the whole."""
    ordered = -np.sort(-scores)
    place = int(np.searchsorted(np.cumsum(ordered) / max(ordered.sum(), 1e-30), share))
    return float(ordered[min(place, len(ordered) - 1)])
