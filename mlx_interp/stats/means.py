"""Means over units and their differences, with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from mlx_interp.stats.units import (
    RESAMPLES,
    Estimate,
    columns,
    is_binary,
    ordered,
    paired,
    per_unit,
    percentile_interval,
    resampled,
    unanimous,
)


def mean_interval(
    values: Sequence[float],
    *,
    unit: Sequence[Hashable],
    seed: int,
    hits: bool = True,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean with a percentile bootstrap interval that resamples whole units (prompts), not rows.

    values: one number per row; True and False count as 1 and 0. unit: the row's unit, same length.
    Where every unit has the same mean (all fixed, none fixed) a bootstrap would claim certainty. For values that are
    all 0 or 1 the interval is then that of Clopper and Pearson over units: with n units of which none was seen to
    differ, at most 1 - (alpha / 2) ** (1 / n) of all units do. Other constant values give an interval of width zero.
    hits: False for amounts, of which 0 nats in all units is no rate of 0.
    Returns Estimate(value, low, high, n_units). Raises ValueError for fewer than two units (no interval from one
    prompt), lengths that differ, and values that are not finite.
    """
    sums = per_unit(values, unit)
    names = ordered(sums)
    if len(names) < 2:
        raise ValueError(f"an interval needs two units or more, found {len(names)}: {names}")
    totals, counts = columns(sums, names)
    value = float(math.fsum(totals) / counts.sum())
    means = totals / counts
    if np.ptp(means) == 0:
        bounds = (0.0, 1.0) if hits and is_binary(values) else (value, value)
        low, high = unanimous(value, len(names), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    draws = np.concatenate(
        [totals[rows].sum(1) / counts[rows].sum(1) for rows in resampled(len(names), resamples, seed)]
    )
    return percentile_interval(value, draws, n=len(names), level=level)


def mean_or_none(
    values: Sequence[float], *, unit: Sequence[Hashable], seed: int, hits: bool = True, level: float = 0.95
) -> Estimate | None:
    """As `mean_interval`, but None for fewer than two units: a cell that a table leaves empty."""
    return mean_interval(values, unit=unit, seed=seed, hits=hits, level=level) if len(set(unit)) >= 2 else None


def difference_interval(
    values: Sequence[float],
    control: Sequence[float],
    *,
    unit: Sequence[Hashable],
    control_unit: Sequence[Hashable] | None = None,
    seed: int,
    hits: bool = True,
    level: float = 0.95,
    resamples: int = RESAMPLES,
) -> Estimate:
    """Mean of `values` minus mean of `control`, paired by unit: a resampled unit brings its rows of both arms.

    unit, control_unit: the rows' units; control_unit defaults to unit. Both arms must have the same units.
    Where every unit shows the same difference c, and all values are 0 or 1, the interval says how far the mean can be
    from c if at most 1 - (alpha / 2) ** (1 / n) of all units differ (see `mean_interval`);
    hits: False for amounts. Returns Estimate(difference, low, high, n_units). Raises ValueError as `mean_interval`, and
    for unequal units.
    """
    first, second = per_unit(values, unit), per_unit(control, unit if control_unit is None else control_unit)
    names = paired(first, second)
    totals, counts = columns(first, names)
    control_totals, control_counts = columns(second, names)
    value = float(math.fsum(totals) / counts.sum() - math.fsum(control_totals) / control_counts.sum())
    differences = totals / counts - control_totals / control_counts
    if np.ptp(differences) == 0:
        rates = hits and is_binary(values) and is_binary(control)
        bounds = (-1.0, 1.0) if rates else (value, value)
        low, high = unanimous(value, len(names), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    draws = [
        totals[rows].sum(1) / counts[rows].sum(1) - control_totals[rows].sum(1) / control_counts[rows].sum(1)
        for rows in resampled(len(names), resamples, seed)
    ]
    return percentile_interval(value, np.concatenate(draws), n=len(names), level=level)


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
    names, draws = ordered(set(unit)), ordered(set(draw))
    if min(len(names), len(draws)) < 2:
        return None
    cells = dict(zip(zip(unit, draw, strict=True), values, strict=True))
    if not len(cells) == len(values) == len(names) * len(draws):
        raise ValueError(f"{len(names)} units and {len(draws)} draws need one value a pair, found {len(values)}")
    grid = np.array([[float(cells[name, one]) for one in draws] for name in names])
    value = float(grid.mean())
    if np.ptp(grid) == 0:
        low, high = unanimous(value, min(grid.shape), bounds=bounds, level=level)
        return Estimate(value, low, high, len(names))
    rng = np.random.default_rng(seed)
    rows, columns = (rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n for n in grid.shape)
    means = np.sum((rows @ grid) * columns, axis=1)
    return percentile_interval(value, means, n=len(names), level=level)


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
    first, second = per_unit(values, unit), per_unit(baseline, unit)
    names = paired(first, second)
    (totals, counts), (base_totals, base_counts) = columns(first, names), columns(second, names)
    base = float(base_totals.sum() / base_counts.sum())
    if base >= ceiling:
        return None
    value = float((totals.sum() / counts.sum() - base) / (ceiling - base))
    draws = []
    for rows in resampled(len(names), resamples, seed):
        below = base_totals[rows].sum(1) / base_counts[rows].sum(1)
        gap = ceiling - below
        found = totals[rows].sum(1) / counts[rows].sum(1) - below
        draws.append(found[gap > 0] / gap[gap > 0])
    return percentile_interval(value, np.concatenate(draws), n=len(names), level=level)


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
    arms = [per_unit(values, unit), per_unit(others, other_unit)]
    if min(len(arm) for arm in arms) < 2:
        return None
    means = []
    for number, arm in enumerate(arms):
        totals, counts = columns(arm, ordered(arm))
        draws = [totals[rows].sum(1) / counts[rows].sum(1) for rows in resampled(len(arm), resamples, seed + number)]
        means.append((float(math.fsum(totals) / counts.sum()), np.concatenate(draws)))
    (mean, drawn), (other_mean, other_drawn) = means
    return percentile_interval(mean - other_mean, drawn - other_drawn, n=len(arms[0]) + len(arms[1]), level=level)
