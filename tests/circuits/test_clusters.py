"""Clusters that are there are found, and agreement is corrected for chance."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_interp.circuits.clusters import adjusted_rand, nearest, spherical_means
from mlx_interp.errors import CircuitError


def test_directions_are_found_whatever_the_length_of_their_vectors() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    x = (np.eye(7)[labels] + rng.normal(0, 0.1, (200, 7))) * rng.uniform(0.1, 50, (200, 1))
    centroids = spherical_means(x, 4, seed=1)
    assert np.linalg.norm(centroids, axis=1) == pytest.approx(1)
    assert adjusted_rand(labels, nearest(x, centroids)) == 1.0
    with pytest.raises(CircuitError, match="9 clusters of 5"):
        spherical_means(x[:5], 9, seed=0)


def test_agreement_is_one_under_any_names_and_zero_by_chance() -> None:
    assert adjusted_rand([0, 0, 1, 1, 2], ["b", "b", "c", "c", "a"]) == 1.0
    assert adjusted_rand([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    rng = np.random.default_rng(0)
    draws = [adjusted_rand(rng.integers(0, 3, 60), rng.integers(0, 5, 60)) for _ in range(200)]
    assert abs(float(np.mean(draws))) < 0.02
