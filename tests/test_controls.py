"""Shuffled labels know nothing: neither of the classes nor of the order in which prompts were written."""

from __future__ import annotations

import numpy as np

from mlx_interp.controls import shuffled_labels
from mlx_interp.directions.direction_test import difference_test
from mlx_interp.stats.distance import LEVEL

N, WIDTH = 20, 24


def test_each_class_has_half_of_either_kind_and_every_item_is_in_one() -> None:
    first, second = shuffled_labels(list(range(7)), list(range(100, 109)), seed=0)
    assert sorted(first + second) == [*range(7), *range(100, 109)]
    assert [sum(item >= 100 for item in part) for part in (first, second)] == [4, 5]
    assert len(first) == len(second)


def test_a_draw_is_stable_and_follows_seed_and_key() -> None:
    draws = [
        shuffled_labels(range(20), range(20, 40), seed=s, key=k) for s, k in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]


def test_prompts_whose_every_second_one_is_of_another_form_are_no_contrast_once_shuffled() -> None:
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows = rng.normal(size=(2, N, 1, WIDTH))
        rows[:, 1::2] += 3.0  # every second request begins otherwise
        kinds = [list(kind) for kind in rows]
        above, below = (np.stack(part) for part in shuffled_labels(*kinds, seed=seed))
        found.append(difference_test(above, below, np.full(1, 1e-6), seed=seed, draws=199).significant[0])
    assert np.mean(found) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / len(found))
