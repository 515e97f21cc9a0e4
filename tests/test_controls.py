"""Controls know nothing of what they stand beside, but for its length or its numbers."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.controls import orthogonal_to, random_like, shuffled_labels
from mlx_interp.directions.direction_test import difference_test
from mlx_interp.errors import DirectionError
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


@pytest.mark.parametrize("shape", [(WIDTH,), (3, WIDTH)])
def test_a_random_direction_is_as_long_as_what_it_stands_for_and_no_more_alike_than_chance(
    shape: tuple[int, ...],
) -> None:
    own = np.random.default_rng(1).normal(size=shape) * np.arange(1, np.prod(shape[:-1], dtype=int) + 1).reshape(
        (*shape[:-1], 1)
    )
    drawn = random_like(own, seed=0, key="refusal")
    np.testing.assert_allclose(*(np.linalg.norm(x, axis=-1) for x in (drawn, own)))
    cosines = [np.sum(random_like(own, seed=seed, key="refusal") * own) / np.sum(own * own) for seed in range(400)]
    assert abs(np.mean(cosines)) < 4 / np.sqrt(400 * WIDTH)


def test_a_random_direction_depends_on_seed_and_key_alone() -> None:
    own = np.arange(1.0, WIDTH + 1)
    np.testing.assert_array_equal(random_like(own, seed=0, key="a"), random_like(own, seed=0, key="a"))
    for seed, key in ((1, "a"), (0, "b")):
        assert not np.array_equal(random_like(own, seed=0, key="a"), random_like(own, seed=seed, key=key))
    stream = np.random.default_rng(3)
    first, second = (random_like(own, seed=stream) for _ in range(2))
    np.testing.assert_array_equal(first, random_like(own, seed=3))
    assert not np.array_equal(first, second), "a stream goes on"


def test_arrays_of_either_library_give_the_same_draw() -> None:
    own = np.arange(1.0, WIDTH + 1)
    np.testing.assert_allclose(
        np.asarray(random_like(mx.array(own, mx.bfloat16), seed=2)), random_like(own, seed=2), 1e-5
    )


def test_a_random_direction_without_another_is_orthogonal_to_it() -> None:
    own, other = np.random.default_rng(4).normal(size=(2, WIDTH))
    drawn = random_like(own, seed=0, without=other)
    assert abs(drawn @ other) < 1e-10 * np.linalg.norm(own) * np.linalg.norm(other)
    assert np.linalg.norm(drawn) == pytest.approx(np.linalg.norm(own))
    np.testing.assert_allclose(orthogonal_to(own, other), orthogonal_to(own, -7 * other))


def test_what_has_no_length_or_direction_has_no_control() -> None:
    with pytest.raises(DirectionError, match="not finite: look at where it is from"):
        random_like(np.array([1.0, np.nan]), seed=0)
    with pytest.raises(DirectionError, match="not finite"):
        random_like(mx.array([1.0, float("inf")]), seed=0)
    with pytest.raises(DirectionError, match="length 0: give one that points somewhere"):
        orthogonal_to(np.ones(3), np.zeros(3))
