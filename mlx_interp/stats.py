"""Estimates, intervals, tests and splits: what an interval means in this project is decided here and nowhere else.

All resampling is over units (prompts, facts), never over rows: the cells of one prompt's grid are not independent.
Every function is deterministic given its seed and does not depend on the order of its rows.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv, stdtrit
from scipy.stats import permutation_test as scipy_permutation_test
from scipy.stats import rankdata

T = TypeVar("T", bound=Hashable)
Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
# Resampled indices held at once: bounds the memory of a bootstrap over many units to a few tens of megabytes.
CHUNK = 2_000_000
# Up to this many units a sign-flip test visits all 2**n assignments instead of sampling them.
EXACT_UNITS = 12


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; prints itself as `.41 [.33, .49]`.

    value, low, high: in the unit of the measurement; rates are fractions, and become per cent only in print.
    n: independent units (prompts, not rows) behind it.
    """

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return self.text()

    def text(self, *, digits: int = 2, percent: bool = False) -> str:
        """`.41 [.33, .49]`, or in per cent and without the sign (a table's head names it) `41 [33, 49]`."""
        value, low, high = (number(x, digits=digits, percent=percent) for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"


def number(value: float, *, digits: int = 2, percent: bool = False) -> str:
    """A number as every table and caption prints it: `.41`, `-1.30`, with percent=True `41`; never `-.00`."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    text = f"{value * 100:.{max(digits - 2, 0)}f}" if percent else f"{value:.{digits}f}"
    sign, size = ("-", text[1:]) if text.startswith("-") else ("", text)
    if not size.strip("0."):
        sign = ""
    return sign + (size[1:] if size.startswith("0.") else size)


def mean_interval(
    values: Sequence[float],
    *,
    unit: Sequence[Hashable],
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean with a percentile bootstrap interval that resamples whole units (prompts), not rows.

    values: one number per row; True and False count as 1 and 0. unit: the row's unit, same length.
    Where every unit has the same mean (all fixed, none fixed) a bootstrap would claim certainty. For values that are
    all 0 or 1 the interval is then that of Clopper and Pearson over units: with n units of which none was seen to
    differ, at most 1 - (alpha / 2) ** (1 / n) of all units do. Other constant values give an interval of width zero.
    Returns Estimate(value, low, high, n_units). Raises ValueError for fewer than two units (no interval from one
    prompt), lengths that differ, and values that are not finite.
    """
    sums = _per_unit(values, unit)
    names = _ordered(sums)
    if len(names) < 2:
        raise ValueError(f"an interval needs two units or more, found {len(names)}: {names}")
    totals, counts = _columns(sums, names)
    value = float(math.fsum(totals) / counts.sum())
    means = totals / counts
    if np.ptp(means) == 0:
        bounds = (0.0, 1.0) if _is_binary(values) else (value, value)
        low, high = _unanimous(value, len(names), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    draws = np.concatenate(
        [totals[rows].sum(1) / counts[rows].sum(1) for rows in _resampled(len(names), resamples, seed)]
    )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(names))


def mean_or_none(
    values: Sequence[float], *, unit: Sequence[Hashable], seed: int, level: float = 0.95
) -> Estimate | None:
    """As `mean_interval`, but None for fewer than two units: a cell that a table leaves empty."""
    return mean_interval(values, unit=unit, seed=seed, level=level) if len(set(unit)) >= 2 else None


def difference_interval(
    values: Sequence[float],
    control: Sequence[float],
    *,
    unit: Sequence[Hashable],
    control_unit: Sequence[Hashable] | None = None,
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of `values` minus mean of `control`, paired by unit: a resampled unit brings its rows of both arms.

    unit, control_unit: the rows' units; control_unit defaults to unit. Both arms must have the same units.
    Where every unit shows the same difference c, and all values are 0 or 1, the interval says how far the mean can be
    from c if at most 1 - (alpha / 2) ** (1 / n) of all units differ (see `mean_interval`).
    Returns Estimate(difference, low, high, n_units). Raises ValueError as `mean_interval`, and for unequal units.
    """
    first, second = _per_unit(values, unit), _per_unit(control, unit if control_unit is None else control_unit)
    names = _paired(first, second)
    totals, counts = _columns(first, names)
    control_totals, control_counts = _columns(second, names)
    value = float(math.fsum(totals) / counts.sum() - math.fsum(control_totals) / control_counts.sum())
    differences = totals / counts - control_totals / control_counts
    if np.ptp(differences) == 0:
        bounds = (-1.0, 1.0) if _is_binary(values) and _is_binary(control) else (value, value)
        low, high = _unanimous(value, len(names), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    draws = [
        totals[rows].sum(1) / counts[rows].sum(1) - control_totals[rows].sum(1) / control_counts[rows].sum(1)
        for rows in _resampled(len(names), resamples, seed)
    ]
    low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(names))


def crossed_interval(
    values: Sequence[float],
    *,
    unit: Sequence[Hashable],
    draw: Sequence[Hashable],
    seed: int,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Mean over units (prompts) crossed with draws (random directions, seeds), both of them resampled.

    Every draw must have every unit, once. An interval over one of the two alone would be that of these very draws, or
    of these very prompts. Where all values are equal, what a smaller sample of either cannot exclude lies anywhere
    within `bounds`, (0, 1) for rates and (-1, 1) for their differences.
    Returns Estimate(value, low, high, n_units), None for fewer than two of either. Raises ValueError for a pair that is
    missing, or there twice.
    """
    names, draws = _ordered(set(unit)), _ordered(set(draw))
    if min(len(names), len(draws)) < 2:
        return None
    cells = dict(zip(zip(unit, draw, strict=True), values, strict=True))
    if not len(cells) == len(values) == len(names) * len(draws):
        raise ValueError(f"{len(names)} units and {len(draws)} draws need one value a pair, found {len(values)}")
    grid = np.array([[float(cells[name, one]) for one in draws] for name in names])
    value = float(grid.mean())
    if np.ptp(grid) == 0:
        low, high = _unanimous(value, min(grid.shape), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    rng = np.random.default_rng(seed)
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in grid.shape)
    means = np.sum((rows @ grid) * columns, axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(names))


def gap_closed(
    values: Sequence[float],
    baseline: Sequence[float],
    *,
    unit: Sequence[Hashable],
    seed: int,
    ceiling: float = 1.0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Share of the way from a baseline to a ceiling: (mean of values - baseline) / (ceiling - baseline), of means.

    Paired by unit, as `difference_interval`. Negative where values fall below the baseline. None for fewer than two
    units, and where the baseline is at the ceiling: there is no gap. Resamples without a gap are left out.
    """
    if len(set(unit)) < 2:
        return None
    first, second = _per_unit(values, unit), _per_unit(baseline, unit)
    names = _paired(first, second)
    (totals, counts), (base_totals, base_counts) = _columns(first, names), _columns(second, names)
    base = float(base_totals.sum() / base_counts.sum())
    if base >= ceiling:
        return None
    value = float((totals.sum() / counts.sum() - base) / (ceiling - base))
    draws = []
    for rows in _resampled(len(names), resamples, seed):
        below = base_totals[rows].sum(1) / base_counts[rows].sum(1)
        gap = ceiling - below
        found = totals[rows].sum(1) / counts[rows].sum(1) - below
        draws.append(found[gap > 0] / gap[gap > 0])
    low, high = np.quantile(np.concatenate(draws), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), len(names))


def unpaired_difference(
    values: Sequence[float],
    others: Sequence[float],
    *,
    unit: Sequence[Hashable],
    other_unit: Sequence[Hashable],
    seed: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """Mean of `values` minus mean of `others`, two samples of their own: units of each are resampled by themselves.

    Returns Estimate(difference, low, high, units of both), or None where a sample has fewer than two units.
    """
    arms = [_per_unit(values, unit), _per_unit(others, other_unit)]
    if min(len(arm) for arm in arms) < 2:
        return None
    means = []
    for number, arm in enumerate(arms):
        totals, counts = _columns(arm, _ordered(arm))
        draws = [totals[rows].sum(1) / counts[rows].sum(1) for rows in _resampled(len(arm), resamples, seed + number)]
        means.append((float(math.fsum(totals) / counts.sum()), np.concatenate(draws)))
    (mean, drawn), (other_mean, other_drawn) = means
    low, high = np.quantile(drawn - other_drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean - other_mean, float(low), float(high), len(arms[0]) + len(arms[1]))


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
    low, high = np.quantile(draws[np.isfinite(draws)], [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n_units)


def jackknife_interval(
    function: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.floating[Any]]], n_units: int, *, level: float = 0.95
) -> Estimate | None:
    """A figure that is too high or low by about c / n on n units (a divergence of means, say), with that taken out.

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
    reach = float(stdtrit(n_units - 1, (1 + level) / 2) * pseudo.std(ddof=1) / math.sqrt(n_units))
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
    x, y = (rankdata(values, axis=1) for values in (first, second))
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
        low, high = _unanimous(value, min(len(above), len(below)), bounds=(0.0, 1.0), level=level)
        return Estimate(value, low, high, n)
    rng = np.random.default_rng(seed)
    draws = [
        wins[rng.integers(0, len(above), len(above))][:, rng.integers(0, len(below), len(below))].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)


def trend_test(x: Sequence[float], y: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Spearman's rank correlation of two columns and its two-sided P value under permutation of one of them.

    Raises ValueError for fewer than three pairs, or a column that does not vary: there is no trend to speak of.
    """
    if len(x) != len(y) or len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        raise ValueError(f"a trend needs three pairs or more and columns that vary, found {list(x)} and {list(y)}")
    ranks = rankdata(y)
    found = scipy_permutation_test(
        (rankdata(x),),
        lambda column: np.corrcoef(column, ranks)[0, 1],
        permutation_type="pairings",
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    )
    return float(found.statistic), float(found.pvalue)


def stable_draw(seed: int, key: Hashable, n: int) -> int:
    """A number in range(n) that depends on seed and key alone: the same in every run and on every machine."""
    return int.from_bytes(_digest(seed, key)[:8], "big") % n


def permutation_test(
    values: Sequence[float],
    control: Sequence[float],
    *,
    unit: Sequence[Hashable],
    seed: int,
    alternative: Literal["greater", "less", "two-sided"] = "two-sided",
    resamples: int = RESAMPLES,
) -> float:
    """P value of a paired test: under the null, values and control of a unit can be exchanged (sign flips).

    The statistic is the mean over units of the difference of the unit's means. Exact (all 2**n assignments) up to 12
    units, otherwise sampled, counting the observed assignment, so that p is never below 1 / (resamples + 1).
    """
    first, second = _per_unit(values, unit), _per_unit(control, unit)
    names = _paired(first, second)
    (totals, counts), (control_totals, control_counts) = _columns(first, names), _columns(second, names)
    differences = totals / counts - control_totals / control_counts
    exact = len(names) <= EXACT_UNITS
    if exact:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(names))))
        null = signs @ differences
    else:
        rng = np.random.default_rng(seed)
        null = np.concatenate(
            [
                (rng.integers(0, 2, (size, len(names))) * 2.0 - 1) @ differences
                for size in _chunks(resamples, len(names))
            ]
        )
    slack = 1e-12 * max(1.0, float(np.abs(differences).sum()))
    at_least = float(np.count_nonzero(null >= differences.sum() - slack))
    at_most = float(np.count_nonzero(null <= differences.sum() + slack))
    extra = 0.0 if exact else 1.0
    greater, less = ((count + extra) / (len(null) + extra) for count in (at_least, at_most))
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def split_halves(keys: Iterable[T], seed: int) -> tuple[list[T], list[T]]:
    """Two disjoint halves, for choosing on one and reporting on the other; the first is the smaller by at most one.

    Keys are ranked by a hash of seed and key, so the halves do not depend on the order of the keys; each half keeps
    the order given. Raises ValueError for a key that occurs twice, which could fall on both sides.
    """
    order = list(keys)
    if len(set(order)) != len(order):
        twice = next(key for n, key in enumerate(order) if key in order[:n])
        raise ValueError(f"key {twice!r} occurs twice: halves of repeated keys are not disjoint")
    ranked = sorted(order, key=lambda key: (_digest(seed, key), str(key)))
    first = set(ranked[: len(ranked) // 2])
    return [key for key in order if key in first], [key for key in order if key not in first]


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A rate with the exact interval of Clopper and Pearson: for independent trials, and never narrower than stated.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials is not a rate")
    tail = (1 - level) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(successes / n, low, high, n)


def _unanimous(value: float, n: int, *, bounds: tuple[float, float], level: float) -> tuple[float, float]:
    """Interval of a mean when n units all show `value`: the unseen ones, if any, lie anywhere within the bounds."""
    unseen = clopper_pearson(0, n, level=level).high
    lowest, highest = bounds
    return value - unseen * (value - lowest), value + unseen * (highest - value)


def _per_unit(values: Sequence[float], unit: Sequence[Hashable]) -> dict[Hashable, list[float]]:
    if len(values) != len(unit):
        raise ValueError(f"{len(values)} values for {len(unit)} units: give one unit per value")
    rows: dict[Hashable, list[float]] = {}
    for value, name in zip(values, unit, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"unit {name!r} has the value {value}: leave out what was not measured")
        rows.setdefault(name, []).append(float(value))
    return rows


def _ordered(units: Iterable[Hashable]) -> list[Hashable]:
    return sorted(units, key=lambda name: (type(name).__name__, repr(name)))


def _columns(rows: Mapping[Hashable, list[float]], names: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum and number of rows per unit. fsum: the order of the rows must not show in the last digit."""
    totals = np.array([math.fsum(rows[name]) for name in names])
    return totals, np.array([len(rows[name]) for name in names], dtype=np.float64)


def _paired(first: Mapping[Hashable, list[float]], second: Mapping[Hashable, list[float]]) -> list[Hashable]:
    alone = _ordered(first.keys() ^ second.keys())
    if alone:
        raise ValueError(f"paired arms need the same units: {alone[0]!r} ({len(alone)} in all) is in one arm only")
    if len(first) < 2:
        raise ValueError(f"an interval needs two units or more, found {len(first)}")
    return _ordered(first)


def _is_binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def _resampled(n: int, resamples: int, seed: int) -> Iterable[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for size in _chunks(resamples, n):
        yield rng.integers(0, n, (size, n))


def _chunks(resamples: int, n: int) -> list[int]:
    size = max(1, min(resamples, CHUNK // n))
    return [size] * (resamples // size) + ([resamples % size] if resamples % size else [])


def _digest(seed: int, key: Hashable) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
