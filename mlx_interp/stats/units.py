"""An estimate with its interval, and what all of them share: units, their order, and how they are resampled."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
# Resampled indices held at once: bounds the memory of a bootstrap over many units to a few tens of megabytes.
CHUNK = 2_000_000


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


def percentile_interval(value: float, draws: Sequence[float] | Floats, *, n: int, level: float = 0.95) -> Estimate:
    """Percentile interval: a value between what the middle `level` of its resampled draws reaches from and to."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n)


def number(value: float, *, digits: int = 2, percent: bool = False) -> str:
    """A number as every table and caption prints it: `.41`, `-1.30`, with percent=True `41`; never `-.00`."""
    if not math.isfinite(value):
        return {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    text = f"{value * 100:.{max(digits - 2, 0)}f}" if percent else f"{value:.{digits}f}"
    sign, size = ("-", text[1:]) if text.startswith("-") else ("", text)
    if not size.strip("0."):
        sign = ""
    return sign + (size[1:] if size.startswith("0.") else size)


def unanimous(value: float, n: int, *, bounds: tuple[float, float], level: float) -> tuple[float, float]:
    """Interval of a mean when n units all show `value`: the unseen ones, if any, lie anywhere within the bounds."""
    unseen = clopper_pearson(0, n, level=level).high
    lowest, highest = bounds
    return value - unseen * (value - lowest), value + unseen * (highest - value)


def per_unit(values: Sequence[float], unit: Sequence[Hashable]) -> dict[Hashable, list[float]]:
    if len(values) != len(unit):
        raise ValueError(f"{len(values)} values for {len(unit)} units: give one unit per value")
    rows: dict[Hashable, list[float]] = {}
    for value, name in zip(values, unit, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"unit {name!r} has the value {value}: leave out what was not measured")
        rows.setdefault(name, []).append(float(value))
    return rows


def ordered(units: Iterable[Hashable]) -> list[Hashable]:
    return sorted(units, key=lambda name: (type(name).__name__, repr(name)))


def columns(rows: Mapping[Hashable, list[float]], names: Sequence[Hashable]) -> tuple[Floats, Floats]:
    """Sum and number of rows per unit. fsum: the order of the rows must not show in the last digit."""
    totals = np.array([math.fsum(rows[name]) for name in names])
    return totals, np.array([len(rows[name]) for name in names], dtype=np.float64)


def paired(first: Mapping[Hashable, list[float]], second: Mapping[Hashable, list[float]]) -> list[Hashable]:
    alone = ordered(first.keys() ^ second.keys())
    if alone:
        raise ValueError(f"paired arms need the same units: {alone[0]!r} ({len(alone)} in all) is in one arm only")
    if len(first) < 2:
        raise ValueError(f"an interval needs two units or more, found {len(first)}")
    return ordered(first)


def is_binary(values: Sequence[float]) -> bool:
    return all(value in (0, 1) for value in values)


def resampled(n: int, resamples: int, seed: int) -> Iterable[npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    for size in chunks(resamples, n):
        yield rng.integers(0, n, (size, n))


def chunks(resamples: int, n: int) -> list[int]:
    size = max(1, min(resamples, CHUNK // n))
    return [size] * (resamples // size) + ([resamples % size] if resamples % size else [])


def clopper_pearson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A rate with the exact interval of Clopper and Pearson: for independent trials, and never narrower than stated.

    Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials is not a rate")
    tail = (1 - level) / 2
    low = float(scipy.special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(scipy.special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return Estimate(successes / n, low, high, n)
