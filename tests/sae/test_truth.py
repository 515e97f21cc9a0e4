"""Scores of features against a truth written down by hand; pages that show them and nothing they should not."""

from __future__ import annotations

import json
from dataclasses import asdict

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import SAEError
from mlx_interp.sae import (
    SAE,
    best_detectors,
    control_dictionary,
    feature_pages,
    page_of,
    reconstruction,
    shuffled_apart,
    sparse_probe,
    stability,
)
from mlx_interp.stats import auroc
from tests.sae.examples import random_sae
from tests.tiny import tiny_model

RNG = np.random.default_rng(0)


def test_precision_recall_and_f1_of_a_column_are_counted_by_hand() -> None:
    train = np.array([[5.0, 0], [4, 0], [1, 0], [0, 0], [0, 3], [0, 0]])
    is_train = np.array([[True], [True], [False], [False], [False], [False]])
    test = np.array([[3.0, 0], [2, 0], [6, 0], [4, 0]])
    is_test = np.array([[True], [True], [False], [True]])
    (found,) = best_detectors(train, is_train, test, is_test)
    assert (found.column, found.threshold) == (0, 2.5)
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    assert found.f1 == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"\[0\] are never shown"):
        best_detectors(train, ~is_train & False, test, is_test)


def test_a_threshold_never_lies_within_equal_values() -> None:
    """A feature that is silent on most tokens cannot be cut among its zeros."""
    train, truth = np.array([[1.0], [0], [0], [0]]), np.array([[True], [True], [False], [False]])
    (found,) = best_detectors(train, truth, train, truth)
    assert (found.precision, found.recall) == (1.0, 0.5)


def test_a_sparse_probe_finds_two_columns_that_only_tell_together() -> None:
    x = RNG.standard_normal((800, 30))
    truth = x[:, 3] + x[:, 11] > 0
    one, two = (sparse_probe(x[:400], truth[:400], x[400:], truth[400:], k) for k in (1, 2))
    assert two > 0.98
    assert one < 0.9
    assert 0.35 < sparse_probe(x[:400], RNG.random(400) < 0.5, x[400:], truth[400:], 2) < 0.65


def test_the_area_is_that_of_the_one_place_for_statistics() -> None:
    scores, truth = RNG.integers(0, 5, 60).astype(float), RNG.random(60) < 0.4
    found = sparse_probe(scores[:, None], truth, scores[:, None], truth, 1)
    expected = auroc(scores[truth].tolist(), scores[~truth].tolist(), seed=0, resamples=10)
    assert expected is not None
    assert min(abs(found - expected.value), abs(1 - found - expected.value)) < 1e-9


def test_stability_counts_living_features_alone() -> None:
    one = random_sae("relu", 30, "resid_post.1")
    other = SAE(
        "relu", "resid_post.1", {**one.weights, "W_dec": mx.concatenate([one.directions[:35] * 3, one.directions[:35]])}
    )
    alive = np.ones(70, dtype=bool)
    share, cosine = stability(one, other, [alive, alive])
    assert share == 0.5
    assert 0.5 < cosine < 1
    assert stability(one, other, [np.arange(70) < 35, alive])[0] == 1.0
    assert np.isnan(stability(one, other, [~alive, alive])[0])


def test_controls_reconstruct_as_well_as_their_directions_allow() -> None:
    x = (RNG.standard_normal((500, 4)) @ RNG.standard_normal((4, 20)) + 3).astype(np.float32)
    found = {
        name: reconstruction(control_dictionary(name, x, "resid_post.1", k=8, d_sae=40), x).fve  # type: ignore[arg-type]
        for name in ("PCA", "neurons", "untrained")
    }
    assert found["PCA"] > 0.999
    assert found["PCA"] > found["neurons"]
    assert 0 < found["untrained"] < found["PCA"]
    apart = shuffled_apart(x)
    assert np.allclose(np.sort(apart, axis=0), np.sort(x, axis=0))
    assert np.linalg.matrix_rank(apart - apart.mean(0)) > np.linalg.matrix_rank(x - x.mean(0), tol=1e-3)
    with pytest.raises(SAEError, match="no control 'noise'"):
        control_dictionary("noise", x, "resid_post.1", k=8, d_sae=40)  # type: ignore[arg-type]


def test_a_page_shows_where_a_feature_is_active_and_what_it_does_to_the_logits() -> None:
    model = tiny_model("llama")
    sae = random_sae("relu", model.d_model, "resid_post.1")
    prompts = model.prompts([[5, 9, 3, 17, 40], [8, 2, 33], [7, 7]])
    pages = feature_pages(model, sae, prompts, [4, 9], titles={4: "four"}, n_examples=2, n_tokens=3)
    f = [np.asarray(sae.features(model.run(p, capture=[sae.site])))[0, :, 4] for p in prompts]
    assert pages[0].n_active == sum((one > 0).sum() for one in f)
    assert sum(pages[0].histogram) == pages[0].n_active
    assert pages[0].largest == pytest.approx(max(one.max() for one in f), abs=1e-4)
    strongest = max(range(3), key=lambda i: f[i].max())
    assert pages[0].examples[0].tokens == tuple(prompts[strongest].pieces)
    assert pages[0].raised[0][1] > 0 > pages[0].lowered[0][1]
    directions = np.asarray(sae.directions)
    cosines = directions @ directions[4] / np.linalg.norm(directions, axis=-1) / np.linalg.norm(directions[4])
    assert pages[0].nearest[0][0] == np.argsort(-cosines)[1]
    assert page_of(json.loads(json.dumps(asdict(pages[0])))) == pages[0]
    with pytest.raises(SAEError, match="features 0 to 69"):
        feature_pages(model, sae, prompts, [70])
