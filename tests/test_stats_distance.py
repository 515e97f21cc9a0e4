"""Squared distances of means: against their definition, unbiased, and tested at the level they promise."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlx_interp.stats.distance import (
    family_p_values,
    relabelings,
    scores,
    sign_flips,
    squared_distances,
    squared_lengths,
)


def states(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, size=(n, width))


def test_it_is_the_mean_over_all_splits_in_halves_of_the_product_of_both_differences() -> None:
    above, below = states(4, 5), states(6, 5, 1)
    products = []
    for a in itertools.combinations(range(4), 2):
        for b in itertools.combinations(range(6), 3):
            halves = [x[np.isin(np.arange(len(x)), chosen)] for x, chosen in ((above, a), (below, b))]
            others = [x[~np.isin(np.arange(len(x)), chosen)] for x, chosen in ((above, a), (below, b))]
            one, other = (part[0].mean(axis=0) - part[1].mean(axis=0) for part in (halves, others))
            products.append(one @ other)
    rows = np.concatenate([above, below])
    found = squared_distances(rows @ rows.T, np.arange(10)[None] < 4)
    assert found[0] == pytest.approx(np.mean(products))


def test_every_labelling_is_what_its_own_classes_give() -> None:
    rows = states(9, 4)
    labels = relabelings((4, 5), seed=0, draws=20)
    for row, found in zip(labels, squared_distances(rows @ rows.T, labels), strict=True):
        x, y = rows[row], rows[~row]
        pairs = [np.mean([a @ b for a, b in itertools.permutations(part, 2)]) for part in (x, y)]
        assert found == pytest.approx(sum(pairs) - 2 * np.mean(x @ y.T))


def test_a_shift_of_all_states_changes_nothing() -> None:
    rows, labels = states(10, 6), relabelings((5, 5), seed=0)
    moved = rows + 100.0
    np.testing.assert_allclose(squared_distances(rows @ rows.T, labels), squared_distances(moved @ moved.T, labels))


def test_it_is_unbiased_where_the_length_of_a_difference_is_not() -> None:
    rng = np.random.default_rng(0)
    shift = np.full(50, 0.2)
    found, raw = [], []
    for _ in range(400):
        above, below = rng.normal(size=(8, 50)) + shift, rng.normal(size=(12, 50))
        rows = np.concatenate([above, below])
        found.append(squared_distances(rows @ rows.T, np.arange(20)[None] < 8)[0])
        raw.append(np.sum((above.mean(axis=0) - below.mean(axis=0)) ** 2))
    error = np.std(found) / 20
    assert abs(np.mean(found) - shift @ shift) < 3 * error
    assert np.mean(raw) > 4 * (shift @ shift)


def test_paired_lengths_are_means_over_pairs_of_two() -> None:
    apart, signs = states(6, 4), sign_flips(6, seed=0)
    assert len(signs) == 64
    assert (signs[0] == 1).all()
    for row, found in zip(signs, squared_lengths(apart @ apart.T, signs), strict=True):
        signed = row[:, None] * apart
        assert found == pytest.approx(np.mean([a @ b for a, b in itertools.permutations(signed, 2)]))


@pytest.mark.parametrize(("n", "rows"), [((4, 4), 70), ((4, 8), 495), ((6, 6), 924), ((8, 8), 1000)])
def test_labels_are_all_where_they_are_few_and_the_true_ones_come_first(n: tuple[int, int], rows: int) -> None:
    labels = relabelings(n, seed=3)
    assert labels.shape == (rows, sum(n))
    assert (labels.sum(axis=1) == n[0]).all()
    assert (labels[0] == (np.arange(sum(n)) < n[0])).all()
    if rows < 1000:
        assert len(np.unique(labels, axis=0)) == rows
    np.testing.assert_array_equal(labels, relabelings(n, seed=3))


def test_p_values_of_a_family_are_even_where_nothing_differs() -> None:
    rng = np.random.default_rng(1)
    found = []
    for seed in range(300):
        rows = rng.standard_t(3, size=(3, 16, 20)) * [1.0] * 20
        rows[1, :, 0] *= 200  # a site that one coordinate rules
        labels = relabelings((8, 8), seed=seed, draws=99)
        tables = []
        for site in rows:
            gram = site @ site.T
            tables.append(scores(squared_distances(gram, labels), float(np.trace(gram)) / 64))
        found.append(family_p_values(np.stack(tables, axis=1)).min())
    for level in (0.05, 0.2, 0.5, 0.8):
        assert abs(np.mean(np.array(found) <= level) - level) < 4 * np.sqrt(level * (1 - level) / 300)


def test_p_values_of_a_family_are_those_of_its_maximum() -> None:
    table = np.array([[2.0, 0.0], [1.0, 3.0], [0.5, 0.5], [2.0, -1.0]])
    np.testing.assert_allclose(family_p_values(table), [3 / 4, 1.0])
