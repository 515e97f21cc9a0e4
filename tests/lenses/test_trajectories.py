"""Depth, features and outlier scores of trajectories are what their definitions give."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import DataError
from mlx_interp.lenses.trajectories import (
    local_outlier_factor,
    mahalanobis,
    prediction_depth,
    trajectory_features,
)


def test_a_prediction_is_as_deep_as_the_layer_from_which_it_stays() -> None:
    assert prediction_depth([3, 3, 3]) == 0
    assert prediction_depth([1, 3, 3, 3]) == 1
    assert prediction_depth([3, 3, 5, 3]) == 3  # it went once more
    assert prediction_depth([1, 2, 4]) == 2
    with pytest.raises(DataError, match="one layer or more"):
        prediction_depth([])


def test_features_are_divergence_entropy_and_the_final_tokens_log_probability() -> None:
    p, q = [0.25, 0.25, 0.5], [0.1, 0.8, 0.1]
    found = trajectory_features(mx.log(mx.array([[p], [q]])))
    kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    entropies = [-sum(x * math.log(x) for x in row) for row in (p, q)]
    np.testing.assert_allclose(found, [[kl, *entropies, math.log(0.25), math.log(0.8)]], rtol=1e-5)


def test_the_local_outlier_factor_is_that_of_its_definition() -> None:
    rng = np.random.default_rng(0)
    rows, asked, k = rng.normal(size=(30, 3)), np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0]]), 4
    centre, scale = rows.mean(0), rows.std(0)
    known = [(row - centre) / scale for row in rows]

    def neighbours(point: np.ndarray, others: list[np.ndarray]) -> list[np.ndarray]:
        return sorted(others, key=lambda other: float(np.linalg.norm(other - point)))[:k]

    def reach(point: np.ndarray) -> float:
        others = [other for other in known if other is not point]
        return float(np.linalg.norm(neighbours(point, others)[-1] - point))

    def density(point: np.ndarray) -> float:
        others = [other for other in known if other is not point]
        near = neighbours(point, others)
        return 1 / float(np.mean([max(reach(other), float(np.linalg.norm(other - point))) for other in near]))

    found = local_outlier_factor(rows, k).scores(asked)
    for point, score in zip((asked - centre) / scale, found, strict=True):
        expected = np.mean([density(other) for other in neighbours(point, known)]) / density(point)
        assert score == pytest.approx(expected, rel=1e-6)
    assert found[0] < 1.5 < 2 < found[1]


def test_an_outlier_beside_a_dense_cluster_stands_out_though_a_loose_one_is_wider() -> None:
    rng = np.random.default_rng(1)
    dense, loose = rng.normal(0, 0.05, (60, 2)), rng.normal(8, 2, (60, 2))
    scores = local_outlier_factor(np.concatenate([dense, loose]), 10).scores([[1.0, 1.0], [8.5, 7.5]])
    assert scores[0] > 3 > 1.5 > scores[1]
    with pytest.raises(DataError, match="rows"):
        local_outlier_factor(dense[:2])
    with pytest.raises(DataError, match="was asked for"):
        local_outlier_factor(dense).scores([[1.0, 2.0, 3.0]])


def test_mahalanobis_counts_standard_deviations_along_what_varies() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(4000, 2)) * [1.0, 10.0] + [5.0, -3.0]
    found = mahalanobis(rows, [[5.0, -3.0], [7.0, -3.0], [5.0, 17.0]])
    np.testing.assert_allclose(found, [0, 2, 2], atol=0.15)
    lean = rng.normal(size=(4000, 1)) + 0.1 * rng.normal(size=(4000, 2))  # both columns say nearly the same
    along, across = mahalanobis(lean, [[1.0, 1.0], [1.0, -1.0]])
    assert across > 3 * along
    with pytest.raises(DataError, match="one width"):
        mahalanobis(rows, [[1.0]])
