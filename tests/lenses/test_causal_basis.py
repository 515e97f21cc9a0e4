"""The causal basis is found where it is known, its ablations are the engine's, and alignment is Aitchison's."""

from __future__ import annotations

from functools import cache

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import DataError
from mlx_interp.lenses.causal_bases import (
    ablated,
    ablations,
    aitchison_cosine,
    causal_basis,
    influence,
    lens_reading,
    principal_directions,
    random_directions,
)
from mlx_interp.lenses.tuned import identity_lens, positions_of
from mlx_interp.model import Model
from mlx_interp.stats import spearman_of_means


@cache
def model() -> Model:
    return mi.load("tiny-llama")


def known() -> tuple[mx.array, mx.array]:
    """States of 8 dimensions, uncorrelated, most spread along the last; a reading that knows two others only."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(64, 8))
    states = 8 * np.linalg.qr(drawn - drawn.mean(axis=0))[0] * [0.7, 1, 0.7, 0.7, 1, 0.7, 0.7, 1.1]
    weight = np.zeros((8, 5))
    weight[1], weight[4] = 0.4 * rng.normal(size=5), 0.2 * rng.normal(size=5)
    return mx.array(states.astype(np.float32)), mx.array(weight.astype(np.float32))


def test_the_directions_that_a_reading_depends_on_are_found_though_another_varies_more() -> None:
    states, weight = known()
    found = causal_basis(lambda h: h @ weight, states, 3, steps=60)
    directions = np.asarray(found.directions)
    np.testing.assert_allclose(directions @ directions.T, np.eye(3), atol=1e-4)
    inside = directions[:2, [1, 4]]
    assert np.linalg.norm(inside, axis=1).min() > 0.98
    assert found.influence[0] > found.influence[1] > 20 * max(found.influence[2], 1e-9)
    first = influence(lambda h: h @ weight, states, found.directions, found.mean).mean(axis=1)
    np.testing.assert_allclose(np.asarray(first), found.influence, rtol=1e-3, atol=1e-5)
    assert abs(float(principal_directions(states, 1)[0, 7])) > 0.99


def test_no_direction_drawn_at_random_has_more_influence_than_the_first() -> None:
    states, weight = known()
    best = causal_basis(lambda h: h @ weight, states, 1, steps=60)
    drawn = [random_directions(8, 1, seed) for seed in range(50)]
    others = [float(influence(lambda h: h @ weight, states, one, best.mean).mean()) for one in drawn]
    assert max(others) < best.influence[0]


def test_an_ablated_state_has_the_mean_along_the_direction_and_is_as_before_across_it() -> None:
    states, _ = known()
    directions, mean = random_directions(8, 3, 0), states.mean(axis=0)
    found = ablated(states, directions, mean)
    for one, direction in zip(found, directions, strict=True):
        np.testing.assert_allclose(np.asarray(one @ direction), float(mean @ direction), atol=1e-4)
        across = mx.eye(8) - direction[:, None] * direction[None]
        np.testing.assert_allclose(np.asarray(one @ across), np.asarray(states @ across), atol=1e-4)


def test_the_engines_ablation_is_that_of_the_lens_at_the_last_layer() -> None:
    """After the last block nothing follows but norm and unembedding: lens and model must move alike."""
    text = "The capital of Jania is"
    states = positions_of(model(), [text])
    last, directions = states[-1], random_directions(model().d_model, 4, 1)
    mean = last.mean(axis=0)
    site = f"resid_post.{model().n_layers - 1}"
    swept = model().sweep(text, ablations(site, len(last) - 1, directions, mean))
    by_hand = model().unembed(ablated(last[-1:], directions, mean)[:, 0])
    np.testing.assert_allclose(np.asarray(swept), np.asarray(by_hand), rtol=1e-3, atol=1e-2)


def test_a_lens_reading_is_the_lens_at_that_row() -> None:
    states = positions_of(model(), ["hot -> cold, big ->"], embedding=True)
    lens = identity_lens(model(), embedding=True)
    np.testing.assert_allclose(
        np.asarray(lens_reading(model(), lens, 3)(states[3])), np.asarray(model().unembed(states[3])), atol=1e-3
    )


def test_alignment_ignores_what_changes_no_distribution_and_counts_tokens_by_weight() -> None:
    a, b = mx.array([1.0, -2.0, 0.5, 0.0]), mx.array([0.3, 0.3, -1.0, 2.0])
    x, y = (np.asarray(v) - np.asarray(v).mean() for v in (a, b))
    assert float(aitchison_cosine(a, b)) == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), abs=1e-6)
    assert float(aitchison_cosine(a + 7.0, 2 * a - 3.0)) == pytest.approx(1, abs=1e-6)
    assert float(aitchison_cosine(a, -a)) == pytest.approx(-1, abs=1e-6)
    assert float(aitchison_cosine(a, mx.ones(4))) == 0
    w = np.array([0.7, 0.1, 0.1, 0.1])
    x, y = (np.asarray(v) - w @ np.asarray(v) for v in (a, b))
    by_hand = (w * x * y).sum() / np.sqrt((w * x * x).sum() * (w * y * y).sum())
    assert float(aitchison_cosine(a, b, mx.array(5 * w))) == pytest.approx(by_hand, abs=1e-5)


def test_what_cannot_be_a_basis_is_refused() -> None:
    states, weight = known()
    with pytest.raises(DataError, match="1 to d_model directions"):
        causal_basis(lambda h: h @ weight, states, 9)
    with pytest.raises(DataError, match="give more states"):
        causal_basis(lambda h: h @ weight, states[:4], 6)


def test_rank_correlation_of_means_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 6)) + np.arange(6)
    found = spearman_of_means(first, np.exp(first), seed=0)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    means = np.array([[1.0, 5.0, 2.0, 9.0]]), np.array([[2.0, 9.0, 8.0, 1.0]])
    tilted = spearman_of_means(*(np.repeat(m, 3, axis=0) for m in means), seed=0)
    assert tilted is not None
    assert tilted.value == pytest.approx(1 - 6 * (1 + 1 + 1 + 9) / (4 * 15))
    assert spearman_of_means(np.zeros((5, 4)), rng.normal(size=(5, 4)), seed=0) is None
