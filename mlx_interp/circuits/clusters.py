"""Clusters of prompts by the features of their predictions: behaviours that nobody named (Marks et al. 2025).

1. Each prompt becomes the effects of all latents on its own top token, of length 1.
2. k-means on the sphere: centroids of length 1, the nearest by cosine; of several starts the tightest.
3. Agreement with known labels is counted by the adjusted Rand index: 1 for the same partition, 0 for chance.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import scipy

from mlx_interp.errors import CircuitError

Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Ints = np.ndarray[Any, np.dtype[np.integer[Any]]]
STARTS, ROUNDS = 10, 100


def unit_rows(vectors: Floats) -> Floats:
    """Rows of length 1; rows of zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Floats = vectors / np.where(lengths > 0, lengths, 1.0)
    return found


def nearest(vectors: Floats, centroids: Floats) -> Ints:
    """Of each vector the number of the centroid of largest cosine."""
    found: Ints = (unit_rows(vectors) @ centroids.T).argmax(1)
    return found


def spherical_means(vectors: Floats, k: int, seed: int) -> Floats:
    """k centroids (k, width) of length 1. Raises CircuitError for more clusters than vectors."""
    if not 1 <= k <= len(vectors):
        raise CircuitError(f"{k} clusters of {len(vectors)} vectors")
    x = unit_rows(np.asarray(vectors, dtype=np.float64))
    rng = np.random.default_rng(seed)
    runs = [_one_start(x, k, rng) for _ in range(STARTS)]
    return max(runs, key=lambda centroids: float((x @ centroids.T).max(1).sum()))


def _one_start(x: Floats, k: int, rng: np.random.Generator) -> Floats:
    """Centroids begin far apart: each at a vector drawn by its squared distance from those before (k-means++)."""
    chosen = [int(rng.integers(len(x)))]
    while len(chosen) < k:
        away = np.maximum(1 - (x @ x[chosen].T).max(1), 0) ** 2
        total = float(away.sum())
        chosen.append(int(rng.choice(len(x), p=away / total) if total > 0 else rng.integers(len(x))))
    centroids = x[chosen]
    labels = np.full(len(x), -1)
    for _ in range(ROUNDS):
        now = (x @ centroids.T).argmax(1)
        if (now == labels).all():
            break
        labels = now
        # A centroid that lost all its members stays where it is.
        means = [x[labels == n].mean(0) if (labels == n).any() else centroids[n] for n in range(k)]
        centroids = unit_rows(np.stack(means))
    return centroids


def adjusted_rand(first: Sequence[Hashable] | Ints, second: Sequence[Hashable] | Ints) -> float:
    """Agreement of two partitions, corrected for chance: 1 the same, about 0 unrelated (Hubert and Arabie 1985)."""
    a, b = (np.unique([str(label) for label in labels], return_inverse=True)[1] for labels in (first, second))
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    same, rows, columns = (float(scipy.special.comb(x, 2).sum()) for x in (table, table.sum(1), table.sum(0)))
    expected = rows * columns / float(scipy.special.comb(len(a), 2)) if len(a) > 1 else 0.0
    largest = (rows + columns) / 2
    return 1.0 if largest == expected else (same - expected) / (largest - expected)
