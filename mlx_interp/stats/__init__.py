"""Estimates, intervals, tests and splits: what an interval means in this project is decided here and nowhere else.

All resampling is over units (prompts, facts), never over rows: the cells of one prompt's grid are not independent.
Every function is deterministic given its seed and does not depend on the order of its rows.
"""

from mlx_interp.stats.draws import permutation_test, split_halves, stable_draw
from mlx_interp.stats.functions import (
    auroc,
    function_interval,
    jackknife_interval,
    spearman_interval,
    spearman_of_means,
    trend_test,
)
from mlx_interp.stats.means import (
    crossed_interval,
    difference_interval,
    gap_closed,
    mean_interval,
    mean_or_none,
    unpaired_difference,
)
from mlx_interp.stats.units import RESAMPLES, Estimate, clopper_pearson, number, percentile_interval

__all__ = [
    "RESAMPLES",
    "Estimate",
    "auroc",
    "clopper_pearson",
    "crossed_interval",
    "difference_interval",
    "function_interval",
    "gap_closed",
    "jackknife_interval",
    "mean_interval",
    "mean_or_none",
    "number",
    "percentile_interval",
    "permutation_test",
    "spearman_interval",
    "spearman_of_means",
    "split_halves",
    "stable_draw",
    "trend_test",
    "unpaired_difference",
]
