"""The test of a direction: what a massive coordinate hides is found, and what lies in it; equal states are nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_interp.directions.direction_test import DifferenceTest, difference_test, paired_test
from mlx_interp.stats.distance import LEVEL

WIDTH, N = 256, 20


def classes(shift: np.ndarray | float, seed: int, massive: float = 300.0) -> tuple[np.ndarray, np.ndarray]:
    """States (n, 1, width) with heavy tails, whose first coordinate is massive."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, size=(2, N, 1, WIDTH))
    rows[..., 0] *= massive
    rows[0] += shift
    return rows[0], rows[1]


def difference(above: np.ndarray, below: np.ndarray, seed: int = 0, rounding: float = 1e-6) -> DifferenceTest:
    return difference_test(above, below, np.full(above.shape[1], rounding), seed=seed, draws=199)


def rate(shift: np.ndarray | float, times: int = 60) -> float:
    return float(np.mean([difference(*classes(shift, seed), seed).significant[0] for seed in range(times)]))


def test_a_contrast_of_many_coordinates_is_found_beside_a_massive_one() -> None:
    assert rate(0.45) > 0.9


def test_a_contrast_that_lies_in_the_massive_coordinate_alone_is_found() -> None:
    assert rate(np.eye(WIDTH)[0] * 300.0 * 2.5) > 0.9


def about(topics: int, seed: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """States whose noise lies mostly in a few directions that are no coordinates: what the texts are about."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(WIDTH, topics)))[0]
    rows = rng.normal(size=(2, N, topics)) * 12.0 @ directions.T + rng.normal(size=(2, N, WIDTH))
    off = rng.normal(size=WIDTH)
    off -= directions @ (directions.T @ off)
    rows[0] += shift * off / np.linalg.norm(off)
    return rows[0, :, None], rows[1, :, None]


def test_a_contrast_is_found_beside_what_the_texts_are_about() -> None:
    found = [difference(*about(6, seed, 6.0), seed).significant[0] for seed in range(40)]
    assert np.mean(found) > 0.9


def test_texts_about_few_things_are_told_apart_as_often_as_the_level_says() -> None:
    found = [difference(*about(6, seed, 0.0), seed).significant[0] for seed in range(300)]
    assert np.mean(found) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 300)


def test_classes_that_are_alike_are_told_apart_as_often_as_the_level_says() -> None:
    assert rate(0.0, 300) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 300)


def test_the_squared_distance_is_of_the_states_as_they_are() -> None:
    above, below = classes(1.0, 0, massive=1.0)
    found = difference(above, below).squared[0]
    noise = sum(x[:, 0].var(axis=0, ddof=1).sum() / N for x in (above, below))
    length = float(np.sum((above.mean(axis=0) - below.mean(axis=0)) ** 2))
    assert found == pytest.approx(length - noise)


def test_states_equal_up_to_rounding_and_states_that_overflowed_are_no_part_of_the_family() -> None:
    above, below = classes(1.0, 0)
    alone = difference(above, below)
    equal = np.full_like(above, 7.0) + np.random.default_rng(0).normal(size=above.shape) * 1e-9
    broken = above.copy()
    broken[3, 0, 5] = np.inf
    found = difference(
        np.concatenate([above, equal, broken], axis=1), np.concatenate([below, np.full_like(equal, 7.0), below], axis=1)
    )
    np.testing.assert_array_equal(found.p_values, [alone.p_values[0], 1.0, 1.0])
    assert np.isnan(found.squared[1:]).all()


def test_coordinates_that_differ_by_rounding_alone_are_not_blown_up() -> None:
    above, below = classes(0.0, 1)
    above[..., 128:] = 1e-9  # the other order of summation of one class's batch
    below[..., 128:] = 0.0
    assert not difference(above, below, rounding=1e-4).significant[0]


def test_four_prompts_of_each_class_suffice_where_all_labellings_are_visited() -> None:
    above, below = (x[:4] for x in classes(30.0, 0, massive=1.0))
    assert difference(above, below).p_values[0] == pytest.approx(2 / 70)


def test_paired_differences_are_tested_by_random_signs() -> None:
    above, below = classes(0.45, 0)
    assert paired_test(above - below, np.array([1e-6]), seed=0).significant[0]
    null = [paired_test(np.subtract(*classes(0.0, s)), np.array([1e-6]), seed=s, draws=199) for s in range(200)]
    assert np.mean([one.significant[0] for one in null]) <= LEVEL + 3 * np.sqrt(LEVEL * (1 - LEVEL) / 200)
