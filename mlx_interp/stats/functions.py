"""Intervals of figures that are no means: any function of the units, rank correlations, areas under curves, trends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from mlx_interp.stats.units import Estimate, Floats, percentile_interval, unanimous


def function_interval(
    function: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]],
    n_units: int,
    *,
    seed: int,
    level: float = 0.95,
    resamples: int = 1_000,
) -> Estimate | None:
    """Any figure made of units (an area under a ratio of means, say) with a percentile bootstrap interval over units.

    function: (n_draws, n_units) of unit numbers, each as often as it was drawn -> (n_draws,); draws for which it is not
    finite are left out. None for fewer than two units, or where the figure itself is not finite.
    """
    value = float(function(np.arange(n_units)[None])[0])
    if n_units < 2 or not math.isfinite(value):
        return None
    draws = np.asarray(function(np.random.default_rng(seed).integers(0, n_units, (resamples, n_units))))
    return percentile_interval(value, draws[np.isfinite(draws)], n=n_units, level=level)


def jackknife_interval(
    function: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]], n_units: int, *, level: float = 0.95
) -> Estimate | None:
    """A figure that is too high or low by about c / n on n units (a divergence of means, say), corrected for that.

    The mean of the jackknife's pseudo-values and its t interval: a bootstrap would add the same error a second time.
    function: (n_draws, n_drawn) of unit numbers -> (n_draws,), for any n_drawn. None for fewer than two units, or
    where a figure is not finite.
    """
    if n_units < 2:
        return None
    whole = float(function(np.arange(n_units)[None])[0])
    rest = np.asarray(function(np.array([np.delete(np.arange(n_units), i) for i in range(n_units)])), dtype=np.float64)
    pseudo = n_units * whole - (n_units - 1) * rest
    if not np.isfinite(pseudo).all():
        return None
    value = float(pseudo.mean())
    reach = float(scipy.special.stdtrit(n_units - 1, (1 + level) / 2) * pseudo.std(ddof=1) / math.sqrt(n_units))
    return Estimate(value, value - reach, value + reach, n_units)


def spearman_of_means(
    first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]], *, seed: int, resamples: int = 1_000
) -> Estimate | None:
    """Rank correlation of two figures over cases, each the mean over units, with a bootstrap interval over units.

    first, second: (n_units, n_cases). Ties share ranks. None for fewer than two units or three cases, or where a figure
    is the same in all cases.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"a correlation of means needs (n_units, n_cases) twice; found {first.shape}, {second.shape}")
    if first.shape[1] < 3:
        return None

    def of(rows: npt.NDArray[np.int64]) -> Floats:
        return _spearman(first[rows].mean(axis=1), second[rows].mean(axis=1))

    return function_interval(of, len(first), seed=seed, resamples=resamples)


def spearman_interval(x: Sequence[float], y: Sequence[float], *, seed: int, resamples: int = 1_000) -> Estimate | None:
    """Spearman's rank correlation of two columns, a pair for each unit, with a bootstrap interval over units.

    None for fewer than three pairs, or where a column does not vary.
    """
    first, second = (np.asarray(column, dtype=np.float64) for column in (x, y))
    if len(first) != len(second):
        raise ValueError(f"a rank correlation needs pairs; found {len(first)} and {len(second)} values")
    if len(first) < 3:
        return None
    return function_interval(
        lambda rows: _spearman(first[rows], second[rows]), len(first), seed=seed, resamples=resamples
    )


def _spearman(first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]) -> Floats:
    """(n_rows,): of each row of two arrays (n_rows, n); nan where one does not vary."""
    x, y = (scipy.stats.rankdata(values, axis=1) for values in (first, second))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    with np.errstate(invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))


def auroc(
    positives: Sequence[float], negatives: Sequence[float], *, seed: int, level: float = 0.95, resamples: int = 2_000
) -> Estimate | None:
    """Chance that a positive scores above a negative (ties count half), with a bootstrap interval over both samples.

    Where all are told apart, or all the wrong way round, the interval is that of a rate which none of the smaller
    sample contradicts. Returns Estimate(area, low, high, units of both), or None for fewer than two of either.
    """
    above, below = (np.asarray(sample, dtype=np.float64) for sample in (positives, negatives))
    if min(len(above), len(below)) < 2:
        return None
    wins = (np.sign(above[:, None] - below[None]) + 1) / 2
    value, n = float(wins.mean()), len(above) + len(below)
    if value in (0.0, 1.0):
        low, high = unanimous(value, min(len(above), len(below)), bounds=(0.0, 1.0), level=level)
        return Estimate(value, low, high, n)
    rng = np.random.default_rng(seed)
    draws = [
        wins[rng.integers(0, len(above), len(above))][:, rng.integers(0, len(below), len(below))].mean()
        for _ in range(resamples)
    ]
    return percentile_interval(value, draws, n=n, level=level)


def trend_test(x: Sequence[float], y: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Spearman's rank correlation of two columns and its two-sided P value under permutation of one of them.

    Raises ValueError for fewer than three pairs, or a column that does not vary: there is no trend to speak of.
    """
    if len(x) != len(y) or len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        raise ValueError(f"a trend needs three pairs or more and columns that vary, found {list(x)} and {list(y)}")
    ranks = scipy.stats.rankdata(y)
    found = scipy.stats.permutation_test(
        (scipy.stats.rankdata(x),),
        lambda column: np.corrcoef(column, ranks)[0, 1],
        permutation_type="pairings",
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)
