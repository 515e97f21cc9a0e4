"""Squared distance of two classes' means, without the part that noise adds, and its test by exchange of labels.

1. The squared distance of two sample means is too large by what their scatter adds. Over pairs of different prompts it
   is not: E = mean <x, x'> + mean <y, y'> - 2 mean <x, y>, the pairs of a class without those of a prompt with itself.
   That is the mean over all splits in halves of <difference of one half, difference of the other half> (cross-validated
   distance; Walther et al. 2016), and the energy form of Szekely and Rizzo with squared distances: unbiased, and as
   often below zero as above where there is nothing.
2. It needs inner products alone. One Gram matrix (n, n) gives it for any labels, so that a thousand exchanged labels
   cost what one matrix product does, whatever the width.
3. A family of many sites is tested by its maximum (Westfall and Young 1993): each site's distances, under all labels,
   are brought to one scale, and a site's p value is the share of labellings whose best site is at least as far. The
   scale comes from all labellings, the true one among them, so that the level is exact for any distribution.
"""

from __future__ import annotations

import itertools
from math import comb

import numpy as np

PERMUTATIONS = 999
LEVEL = 0.05
"""P values up to this are called a difference."""


def relabelings(n: tuple[int, int], seed: int, draws: int = PERMUTATIONS) -> np.ndarray:
    """(n_labelings, n) bool, the true labels first: all of them where they are no more than the draws, else drawn."""
    total = sum(n)
    true = np.arange(total) < n[0]
    if comb(total, n[0]) <= draws + 1:
        rows = np.zeros((comb(total, n[0]), total), dtype=bool)
        for row, chosen in zip(rows, itertools.combinations(range(total), n[0]), strict=True):
            row[list(chosen)] = True
        return rows  # combinations come in lexicographic order: the first n[0] are the first
    rng = np.random.default_rng(seed)
    return np.stack([true, *(rng.permutation(true) for _ in range(draws))])


def sign_flips(n: int, seed: int, draws: int = PERMUTATIONS) -> np.ndarray:
    """(n_flips, n) of 1 and -1, the true signs first, for paired differences: all of them or drawn, as above."""
    if 2**n <= draws + 1:
        return np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, n))
    return np.concatenate([np.ones((1, n)), drawn])


def squared_distances(gram: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(n_labelings,): E of two classes for a Gram matrix (n, n) and labels (n_labelings, n), True for the first."""
    first = np.asarray(labels, dtype=gram.dtype)
    n = first[0].sum()
    m = len(gram) - n
    own, sums, diagonal = first @ gram, gram.sum(axis=0), np.diagonal(gram)
    within, across = np.sum(own * first, axis=1), own @ np.ones(len(gram), gram.dtype)
    cross = across - within
    other = sums.sum() - within - 2 * cross
    alone = first @ diagonal
    return np.asarray(
        (within - alone) / (n * (n - 1)) + (other - diagonal.sum() + alone) / (m * (m - 1)) - 2 * cross / (n * m)
    )


def squared_lengths(gram: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """(n_flips,): the same of the mean of paired differences, whose Gram matrix this is: over pairs of two."""
    n = len(gram)
    return np.asarray((np.sum((signs @ gram) * signs, axis=1) - np.trace(gram)) / (n * (n - 1)))


def scores(distances: np.ndarray, scatter: float) -> np.ndarray:
    """Distances under all labellings on a scale that sites of any shape of noise share; larger is farther.

    scatter: what noise adds to the squared distance of means, whichever labels are true. With it the distance is a sum
    of weighted chi-squares, whose cube root is nearly normal for all weights (Wilson and Hilferty 1931): one massive
    coordinate, whose distances have long tails, does not raise the bar for other sites.
    """
    roots = np.cbrt(np.maximum(distances + scatter, 0.0))
    spread = roots.std()
    return np.zeros_like(roots) if spread <= 1e-12 * roots.max(initial=0.0) else (roots - roots.mean()) / spread


def family_p_values(table: np.ndarray) -> np.ndarray:
    """(n_sites,) p values of scores (n_labelings, n_sites), true labels first, adjusted for the number of sites."""
    best = table.max(axis=1)
    slack = 1e-9 * max(1.0, float(np.abs(best).max()))
    return np.asarray((best[:, None] >= table[0][None] - slack).mean(axis=0))
