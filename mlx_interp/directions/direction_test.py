"""Permutation test for a direction: have two classes of states different means, at one site or a family of sites?

1. Statistic: cross-validated squared distance of the class means (mlx_interp.stats.distance), in three metrics. Raw:
   the states as they are. Scaled: every coordinate less its median, divided by its spread (median absolute deviation)
   over both classes, and cut off at three spreads. Streams have a few massive coordinates, whose noise hides in the raw
   metric what a thousand others say together; a contrast that lies in the massive ones alone is seen by the raw one.
   Whitened: the scaled one, its directions of largest variance turned down (ridge whitening of the Gram matrix). Texts
   differ most in what they are about, a few directions that are no coordinates, and that hides whether they differ in
   what is asked of them.
2. Neither median, spread nor whitening knows the labels, so exchanging labels gives the exact law of all three where
   the classes are alike. 999 exchanges by seed, or all of them where there are fewer.
3. The largest of the metrics, and the largest over all sites: p values hold for the family (Westfall and Young 1993).

What the length of a difference is held against decides what can be found. Random halves of one class differ by twice
the noise of the whole difference, and in a wide stream the noise is nearly all length: true directions are shorter.
`python -m benchmarks.direction_test` shows false alarms and power of both, side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_interp.shapes import ShapesShown
from mlx_interp.stats.distance import (
    LEVEL,
    PERMUTATIONS,
    family_p_values,
    relabelings,
    scores,
    sign_flips,
    squared_distances,
    squared_lengths,
)

CUT = 3.0
"""Spreads at which a coordinate is cut off."""
TO_SIGMA = 1.4826
"""Of a median absolute deviation, to a normal's standard deviation."""


@dataclass(frozen=True, eq=False, repr=False)
class DifferenceTest(ShapesShown):
    """Every site's distance and p value; arrays are (n_sites,)."""

    squared: np.ndarray
    """Cross-validated squared distance of the means, raw; about 0, also below, where there is none; NaN if untested."""
    p_values: np.ndarray
    """For the family; 1 where there is nothing to test: states that are equal up to rounding, or not finite."""

    @property
    def significant(self) -> np.ndarray:
        return np.asarray(self.p_values <= LEVEL)


def difference_test(
    above: np.ndarray, below: np.ndarray, rounding: np.ndarray, *, seed: int, draws: int = PERMUTATIONS
) -> DifferenceTest:
    """Test of two classes of states (n, n_sites, d_model), each of two prompts or more.

    rounding: (n_sites,), the length up to which states are the same ones, computed in another order.
    """
    labels = relabelings((len(above), len(below)), seed, draws)
    states = np.concatenate([above, below])
    share = 1 / len(above) + 1 / len(below)
    return _tested(states, rounding, lambda gram: squared_distances(gram, labels), share, centred=True)


def paired_test(apart: np.ndarray, rounding: np.ndarray, *, seed: int, draws: int = PERMUTATIONS) -> DifferenceTest:
    """Test of paired differences (n, n_sites, d_model) against a mean of zero, by random signs."""
    signs = sign_flips(len(apart), seed, draws)
    return _tested(apart, rounding, lambda gram: squared_lengths(gram, signs), 1 / len(apart), centred=False)


def _tested(
    states: np.ndarray,
    rounding: np.ndarray,
    distances: Callable[[np.ndarray], np.ndarray],
    share: float,
    *,
    centred: bool,
) -> DifferenceTest:
    """share: of the variance, what the mean's has; centred: whether the states' own middle means nothing."""
    squared, table = np.full(states.shape[1], np.nan), []
    tested = []
    for site in range(states.shape[1]):
        rows = states[:, site].astype(np.float64)
        if not np.isfinite(rows).all():
            continue
        middle = rows.mean(axis=0) if centred else 0.0
        if not np.linalg.norm(rows - middle, axis=1).max() > rounding[site]:
            continue
        raw, cut = rows - middle, _scaled(rows, float(rounding[site]), centred=centred)
        metrics = (raw @ raw.T, cut @ cut.T, _whitened(cut @ cut.T))
        found = [distances(gram) for gram in metrics]
        squared[site] = found[0][0]
        tested.append(site)
        shares = [share * float(np.trace(gram)) / len(rows) for gram in metrics]
        table.append(np.max([scores(one, of) for one, of in zip(found, shares, strict=True)], axis=0))
    p_values = np.ones(states.shape[1])
    if tested:
        p_values[tested] = family_p_values(np.stack(table, axis=1))
    return DifferenceTest(squared, p_values)


def _scaled(rows: np.ndarray, rounding: float, *, centred: bool) -> np.ndarray:
    """Coordinates in spreads, cut off; what is within rounding stays near zero."""
    apart = rows - np.median(rows, axis=0) if centred else rows
    spread = TO_SIGMA * np.median(np.abs(apart), axis=0)
    noise = rounding / np.sqrt(rows.shape[1])
    cut = np.clip(apart / np.maximum(np.hypot(spread, noise), 1e-300), -CUT, CUT)
    return np.asarray(cut - cut.mean(axis=0) if centred else cut)


def _whitened(gram: np.ndarray) -> np.ndarray:
    """Gram matrix of the rows after ridge whitening: each direction of variance v counts by v / (v + median variance).

    Exchanging rows, or their signs, before or after is the same, so that the test keeps its level.
    """
    variances, directions = np.linalg.eigh(gram)
    variances = np.maximum(variances, 0.0)
    weights = variances / (variances + max(float(np.median(variances)), 1e-300))
    return np.asarray((directions * weights) @ directions.T)
