"""Draws that a seed and a key decide, splits by them, and the test that permutes."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal, TypeVar

import numpy as np

from mlx_interp.stats.units import RESAMPLES, chunks, columns, paired, per_unit

T = TypeVar("T", bound=Hashable)

# Up to this many units a sign-flip test visits all 2**n assignments instead of sampling them.
EXACT_UNITS = 12


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
    first, second = per_unit(values, unit), per_unit(control, unit)
    names = paired(first, second)
    (totals, counts), (control_totals, control_counts) = columns(first, names), columns(second, names)
    differences = totals / counts - control_totals / control_counts
    exact = len(names) <= EXACT_UNITS
    if exact:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(names))))
        null = signs @ differences
    else:
        rng = np.random.default_rng(seed)
        null = np.concatenate(
            [(rng.integers(0, 2, (size, len(names))) * 2.0 - 1) @ differences for size in chunks(resamples, len(names))]
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


def _digest(seed: int, key: Hashable) -> bytes:
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()
