"""How data sets' means and their differences stand apart.

1. sets: length and stability of each subset's mean, and how well its held-out replies are told by the classifier.
2. pairs: every two subsets at every layer: length, cosine of the means, split halves, separation of held-out rows.
3. sizes: the difference from fewer rows, against the whole one and against one from other rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from experiments.exp15_contrastive_steering.settings import ContrastiveConfig, setting
from experiments.exp15_contrastive_steering.steered_texts import classifier, replies
from experiments.exp15_contrastive_steering.vectors import (
    cosine,
    floors,
    states,
    tested,
    too_alike,
)
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.directions.state_sets import mean
from mlx_interp.reporting import finite
from mlx_interp.stats.distance import LEVEL

SETS, PAIRS, SIZES = "sets", "pairs", "sizes"
SIZES_TRIED = (5, 10, 20, 40, 60, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Item:
    """A subset, or two of them."""

    key: str
    target: str
    baseline: str = ""


def sets(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    return [Item(one.key, one.key) for one in setting(run).subsets]


class Collected(TypedDict):
    """One subset at one layer."""

    model: str
    n_layers: int
    data: str
    subset: str
    name: str
    n: int
    """Rows behind the mean."""
    n_held: int
    """Rows held out."""
    layer: int
    norm: float
    """Length of the mean."""
    stream: float
    """Mean norm of the rows."""
    floor: float
    """Length of the difference of two halves at random: 95 % of them are shorter."""
    top_share: float
    """Share of the largest dimension in the mean's squared length."""
    told_right: float | None
    """Share of its held-out replies that the classifier tells; None where there are none."""


def measure_set(run: Run[ContrastiveConfig], item: Item) -> Iterator[Collected]:
    """One subset at every layer, and what the classifier makes of its held-out replies."""
    of = setting(run)
    own = of.subset(item.target)
    rows = states(run, own.key, run.config.rule, "fit")
    centre, floor = mean(rows), floors(run, own.key)
    stream = np.linalg.norm(rows.astype(np.float64), axis=-1).mean(axis=0)
    told = classifier(run)
    said = list(replies(run, own.key, "held"))
    accuracy = told.accuracy(said, [own.key] * len(said))[own.key] if told and said else None
    for layer in range(run.model.n_layers):
        squares = centre[layer].astype(np.float64) ** 2
        yield {
            "model": run.model.name,
            "n_layers": run.model.n_layers,
            "data": of.source.data,
            "subset": own.key,
            "name": own.name,
            "n": len(rows),
            "n_held": len(own.held),
            "layer": layer,
            "norm": float(np.sqrt(squares.sum())),
            "stream": float(stream[layer]),
            "floor": float(floor[layer]),
            "top_share": float(squares.max() / max(squares.sum(), 1e-30)),
            "told_right": accuracy,
        }


def pairs(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    """Every two subsets, the target against the baseline first."""
    of = setting(run)
    first = (of.target.key, of.baseline.key)
    names = [one.key for one in of.subsets]
    rest = [(a, b) for index, b in enumerate(names) for a in names[index + 1 :] if {a, b} != set(first)]
    return [Item(f"{a} - {b}", a, b) for a, b in (first, *(rest if of.grid else []))]


class Apart(TypedDict):
    """How far held-out rows lie apart along a difference."""

    d_prime: float | None
    """None where rows do not spread."""
    auroc: float


class Paired(Apart):
    """Two subsets at one layer."""

    model: str
    target: str
    baseline: str
    layer: int
    norm: float
    """Length of the difference."""
    relative_norm: float
    """The same over the mean norm of the rows."""
    norm_target: float
    """Length of the target's mean."""
    norm_baseline: float
    cosine_of_means: float
    alike: bool
    """Whether the means are too alike for a difference."""
    p_value: float
    """By exchanged labels."""
    told_apart: bool
    halves_cosine: float
    """Cosine of the differences of two disjoint halves of the rows."""


def measure_pair(run: Run[ContrastiveConfig], item: Item) -> Iterator[Paired]:
    """Two subsets at every layer: their means, the difference, its halves, and held-out rows along it."""
    fit, held = (
        [states(run, key, run.config.rule, part) for key in (item.target, item.baseline)] for part in ("fit", "held")
    )
    means = [mean(rows) for rows in fit]
    parts = [[mean(rows[start::2]) for rows in fit] for start in (0, 1)]
    p_values = tested(run, item.target, item.baseline).p_values
    for layer in range(run.model.n_layers):
        above, below = (one[layer] for one in means)
        apart = above.astype(np.float64) - below
        length = float(np.linalg.norm(apart))
        yield {
            "model": run.model.name,
            "target": item.target,
            "baseline": item.baseline,
            "layer": layer,
            "norm": length,
            "relative_norm": length / float(np.mean([np.linalg.norm(rows[:, layer], axis=-1).mean() for rows in fit])),
            "norm_target": float(np.linalg.norm(above)),
            "norm_baseline": float(np.linalg.norm(below)),
            "cosine_of_means": cosine(above, below),
            "alike": too_alike(above, below),
            "p_value": float(p_values[layer]),
            "told_apart": bool(p_values[layer] <= LEVEL),
            "halves_cosine": cosine(*(a[layer].astype(np.float64) - b[layer] for a, b in parts)),
            **separation(*(rows[:, layer].astype(np.float64) @ apart for rows in held)),
        }


def separation(above: np.ndarray, below: np.ndarray) -> Apart:
    """d' and AUROC of held-out rows along the difference; None where rows do not spread."""
    spread = math.sqrt((float(np.var(above, ddof=1)) + float(np.var(below, ddof=1))) / 2)
    order = np.sign(above[:, None] - below[None, :])
    return {
        "d_prime": finite(float(above.mean() - below.mean()) / spread) if spread else None,
        "auroc": float((order + 1).mean() / 2),
    }


def sizes(run: Run[ContrastiveConfig], earlier: Records) -> list[Item]:
    """The pair, and in the grid every target against the baseline."""
    of = setting(run)
    targets = [one.key for one in of.subsets if one.key != of.baseline.key] if of.grid else [of.target.key]
    return [Item(f"{key} - {of.baseline.key}", key, of.baseline.key) for key in targets]


class Drawn(TypedDict):
    """A difference from fewer rows, at the chosen layer."""

    target: str
    baseline: str
    layer: int
    n: int
    """Rows of each set."""
    draw: int
    cosine: float
    """With the difference from all rows."""
    cosine_other_rows: float | None
    """With one from as many other rows; None where there are not enough."""


def measure_sizes(run: Run[ContrastiveConfig], item: Item) -> Iterator[Drawn]:
    """Cosine of the difference from n rows of each set to the whole one, and to one from n rows that it shares none
    with, over random draws, at the chosen layer."""
    layer = setting(run).layer
    rows = [states(run, key, run.config.rule, "fit")[:, layer] for key in (item.target, item.baseline)]
    most = min(map(len, rows))
    whole = mean(rows[0]) - mean(rows[1])
    for n in [size for size in SIZES_TRIED if size <= most] or [most]:
        for draw in range(10):
            rng = np.random.default_rng([run.config.seed, n, draw])
            orders = [rng.permutation(len(one)) for one in rows]
            first = mean(rows[0][orders[0][:n]]) - mean(rows[1][orders[1][:n]])
            other = None
            if 2 * n <= most:
                other = mean(rows[0][orders[0][n : 2 * n]]) - mean(rows[1][orders[1][n : 2 * n]])
            yield {
                "target": item.target,
                "baseline": item.baseline,
                "layer": layer,
                "n": n,
                "draw": draw,
                "cosine": cosine(first, whole),
                "cosine_other_rows": cosine(first, other) if other is not None else None,
            }
