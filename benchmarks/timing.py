"""Timing that a busy machine disturbs as little as it can: all contestants in turn, the median of their ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """How long something takes in units of the baseline: median and range over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def ratios(
    baseline: Callable[[], object],
    others: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, dict[str, Ratio]]:
    """The baseline's median seconds, and each contestant's ratio to it.

    In each round the baseline runs before and after every contestant and the mean of the two is its measure, so that a
    drift of the machine's speed falls out. One round of warm-up is not counted. clock: time.process_time counts the
    seconds that processors spent on this process, which others on a busy machine do not lengthen.
    """
    seconds: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in others}
    for turn in range(rounds + 1):
        for name, contestant in others.items():
            before, own, after = (_seconds(f, clock) for f in (baseline, contestant, baseline))
            if turn:
                seconds += [before, after]
                found[name].append(2 * own / (before + after))
    return statistics.median(seconds), {
        name: Ratio(statistics.median(values), min(values), max(values)) for name, values in found.items()
    }


def _seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start
