"""Random directions are drawn many times, as long as the found one, and change nothing of what it changes."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from experiments.harness.state import Run
from experiments.shared.traits import random_draws, stages
from experiments.shared.traits.random_draws import DRAWS, ORTHOGONAL, RANDOM, DrawConfig
from experiments.shared.traits.stages import Item

LABELS = {"stage": DRAWS, "trait": "t", "language": "en", "kind": "negative", "layer": 1, "strength": 1.0}
CONFIG = DrawConfig(n_train=16, n_test=4, n_draws=3)


def test_draws_are_as_long_as_the_direction_and_orthogonal_ones_have_nothing_of_it() -> None:
    model = mi.load("tiny-qwen2")
    found = stages.vector(Run(model, CONFIG), Item("k", "refusal"), 4, "direction")
    drawn = [random_draws.drawn(found, arm, n, 0) for arm in (RANDOM, ORTHOGONAL) for n in range(3)]
    assert [one.norm for one in drawn] == pytest.approx([found.norm] * 6, rel=1e-5)
    cosines = [float(mx.sum(one.unit * found.unit)) for one in drawn]
    assert min(map(abs, cosines[:3])) > 1e-3
    assert cosines[3:] == pytest.approx([0, 0, 0], abs=1e-5)
    vectors = np.stack([np.asarray(one.unit) for one in drawn[:3]])
    assert np.abs(vectors @ vectors.T - np.eye(3)).max() < 0.5
    again = random_draws.drawn(found, RANDOM, 1, 0)
    np.testing.assert_array_equal(np.asarray(again.vector), np.asarray(drawn[1].vector))


def test_a_prompt_is_refused_under_the_direction_and_under_no_draw() -> None:
    model = mi.load("tiny-qwen2")
    item = Item("k", "refusal", "negative", "test", 0, 4, 1.0, "fr")
    records = [{"stage": DRAWS, **r} for r in random_draws.measure(Run(model, CONFIG), item, -1)]
    hits = {arm: [r["hit"] for r in records if r["arm"] == arm] for arm in ("plain", "direction", RANDOM, ORTHOGONAL)}
    assert hits == {"plain": [False], "direction": [True], RANDOM: [False] * 3, ORTHOGONAL: [False]}


def test_the_table_says_how_far_from_plain_the_draws_are_on_average_and_at_most() -> None:
    records = [
        LABELS | {"arm": arm, "draw": draw, "unit": unit, "hit": arm == RANDOM and draw == 1 and unit > 0}
        for unit in range(4)
        for arm, n in (("plain", 1), ("direction", 1), (RANDOM, 3), (ORTHOGONAL, 3))
        for draw in range(n)
    ]
    table = random_draws.table(records, CONFIG)
    assert table is not None
    drawn, orthogonal = table.rows
    assert drawn[8].value == drawn[9].value == 0.25  # type: ignore[union-attr]
    assert drawn[10:] == [0.0, 0.75]
    assert orthogonal[10:] == [0.0, 0.0]
    (plot,) = random_draws.figure(records, CONFIG)
    assert plot.name == "t_negative_draws"
