"""Circuit discovery: from scores to the largest circuit, made connected; random circuits to compare it with.

1. Scores of single pairs are averaged, with their signs; the n nodes or edges of the largest size are taken.
2. Edges: those that lead from nothing, or to nothing, are pruned ("top"), or edges are taken from the logits downward
   so that every one of them leads to the logits ("greedy").
3. Controls have the circuit's size, or its size in each layer: `random_nodes`, `random_edges`.
4. Stability: what is chosen on resampled pairs. Overlap: Jaccard of sets, weighted Jaccard of scores.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlx_interp.engine.edge_pass import Wiring
from mlx_interp.patching.nodes import nodes, reader

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]


def existing(wires: Wiring) -> Bools:
    """(n_inputs, n_nodes): which edges a model has."""
    return np.array(wires.mask())


def top(scores: Floats, n: int) -> Bools:
    """The n largest scores in size, as a mask of their shape; what is exactly 0 or nan is never taken."""
    size = np.nan_to_num(np.abs(scores)).ravel()
    order = np.argsort(-size, kind="stable")[:n]
    mask = np.zeros(size.shape, bool)
    mask[order[size[order] > 0]] = True
    return mask.reshape(scores.shape)


def pruned(edges: Bools, wires: Wiring) -> Bools:
    """The edges on a way from the embedding to the logits: others change nothing that is kept.

    A node is reached if some edge into it is, and counts if some edge from it does.
    """
    owner = np.array(reader(wires))
    kept: Bools = edges & existing(wires)
    while True:
        reached = np.zeros(wires.n_nodes + 1, bool)
        reached[0] = True
        reached[owner[kept.any(1)]] = True
        leads = np.append(kept.any(0), True)  # the logits lead on
        smaller = kept & reached[: wires.n_nodes][None] & leads[owner][:, None]
        if (smaller == kept).all():
            return kept
        kept = smaller


def greedy(scores: Floats, n: int, wires: Wiring) -> Bools:
    """n edges from the logits downward: each time the largest among those that lead into what is in the circuit."""
    owner = np.array(reader(wires))
    size = np.where(existing(wires), np.nan_to_num(np.abs(scores)), 0)
    mask: Bools = np.zeros(scores.shape, bool)
    waiting: list[tuple[float, int, int]] = []
    opened: set[int] = set()

    def open_node(node: int) -> None:
        if node not in opened:
            opened.add(node)
            for row in np.flatnonzero(owner == node):
                for column in np.flatnonzero(size[row]):
                    heapq.heappush(waiting, (-size[row, column], int(row), int(column)))

    open_node(wires.n_nodes)
    while waiting and mask.sum() < n:
        _, row, column = heapq.heappop(waiting)
        mask[row, column] = True
        open_node(column)
    return mask


def random_nodes(circuit: Bools, wires: Wiring, seed: int, *, profile: bool = True) -> Bools:
    """As many nodes at random; with `profile`, as many heads and MLPs of each layer."""
    blocks = np.array([hash_of(node.block) for node in nodes(wires)]) if profile else np.zeros(wires.n_nodes, int)
    return _shuffled(circuit, blocks, np.random.default_rng(seed))


def random_edges(circuit: Bools, wires: Wiring, seed: int, *, profile: bool = True) -> Bools:
    """As many edges at random; with `profile`, as many between each two layers (attention and MLP apart)."""
    known = nodes(wires)
    ends = [hash_of(known[n].block) if n < len(known) else -1 for n in reader(wires)]
    starts = [hash_of(node.block) for node in known]
    blocks = np.add.outer(np.array(ends) * 10_000, np.array(starts)) if profile else np.zeros(circuit.shape, int)
    blocks = np.where(existing(wires), blocks, np.iinfo(np.int64).min)
    return _shuffled(circuit, blocks, np.random.default_rng(seed))


def hash_of(block: tuple[str, int]) -> int:
    """A number for kind and layer."""
    kind, layer = block
    return 3 * (layer + 1) + ("embed", "head", "mlp").index(kind)


def _shuffled(mask: Bools, blocks: np.ndarray[Any, Any], rng: np.random.Generator) -> Bools:
    """The mask permuted within each block."""
    flat, labels = mask.ravel().copy(), blocks.ravel()
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        flat[places] = flat[rng.permutation(places)]
    return flat.reshape(mask.shape)


def jaccard(a: Bools, b: Bools) -> float:
    """Shared over all members; 1 for two empty circuits."""
    either = int((a | b).sum())
    return float((a & b).sum() / either) if either else 1.0


def weighted_jaccard(a: Floats, b: Floats) -> float:
    """Sum of the smaller over sum of the larger of two scores' shares, in size; 1 for equal profiles, 0 for disjoint.

    Each side is scaled to sum 1, so that a metric's unit does not matter.
    """
    x, y = (np.nan_to_num(np.abs(scores)).ravel() for scores in (a, b))
    x, y = x / (x.sum() or 1.0), y / (y.sum() or 1.0)
    return float(np.minimum(x, y).sum() / (np.maximum(x, y).sum() or 1.0))


def resampled(per_pair: Floats, n_samples: int, seed: int) -> list[Floats]:
    """Mean scores over pairs drawn with replacement. per_pair: (n_pairs, ...)."""
    rng = np.random.default_rng(seed)
    return [per_pair[rng.integers(0, len(per_pair), len(per_pair))].mean(0) for _ in range(n_samples)]


def sizes(shares: Sequence[float], total: int) -> list[int]:
    """How many of `total` each share is, to the nearest whole number."""
    return [round(share * total) for share in shares]
