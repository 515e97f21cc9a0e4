"""Measures of a lens are what their definitions give on distributions whose figures are known."""

from __future__ import annotations

from functools import cache

import mlx_interp as mi  # isort: split

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import DataError
from mlx_interp.lenses.affine import affine_lens, affine_map
from mlx_interp.lenses.lens_measures import (
    bias_bits,
    bits_per_byte,
    kl_bits,
    mean_distributions,
    next_token_nats,
    transfer,
)
from mlx_interp.lenses.logit import top_among
from mlx_interp.lenses.tuned import TunedLens, identity_lens, kl_to_last, positions_of, train_on_states
from mlx_interp.model import Model

TEXTS = ["The capital of Jania is", "hot -> cold, big -> small, tall ->", "The flower of Jania is"]


@cache
def model() -> Model:
    return mi.load("tiny-llama")


@cache
def states() -> mx.array:
    return positions_of(model(), TEXTS, embedding=True)


def test_bits_per_byte_of_an_even_guess_are_those_of_the_vocabulary() -> None:
    nats = next_token_nats(mx.zeros((3, 2, 256)), mx.array([5, 200]))
    np.testing.assert_allclose(np.asarray(nats), math.log(256), rtol=1e-6)
    assert bits_per_byte(float(nats[0].sum()), 4) == pytest.approx(2 * 8 / 4)
    with pytest.raises(DataError, match="0 bytes"):
        bits_per_byte(1.0, 0)


def test_cross_entropy_reads_each_positions_own_token() -> None:
    logits = mx.log(mx.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    np.testing.assert_allclose(
        np.asarray(next_token_nats(logits, mx.array([1, 2])))[0], -np.log([0.25, 0.8]), rtol=1e-5
    )


def test_bias_forgets_errors_that_average_out_and_keeps_a_preference() -> None:
    final = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]] * 10)
    crossed = final[:, [1, 0, 2]]
    preferring = 0.5 * final + 0.5 * np.array([0.0, 0.0, 1.0])
    unbiased, biased = bias_bits(final, crossed), bias_bits(final, preferring)
    assert unbiased is not None
    assert biased is not None
    assert unbiased.value == pytest.approx(0, abs=1e-9)
    assert biased.value == pytest.approx(1.0)  # every token at half its share
    assert kl_bits(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == pytest.approx(0.5 * 1 + 0.5 * math.log2(2 / 3))
    with pytest.raises(DataError, match="alike"):
        bias_bits(final, preferring[:5])


def test_mean_distributions_are_means_of_probabilities_not_of_logits() -> None:
    logits = mx.log(mx.array([[0.5, 0.5], [0.9, 0.1]]))
    np.testing.assert_allclose(mean_distributions(logits), [0.7, 0.3], rtol=1e-5)


def test_each_cell_of_the_transfer_is_one_translator_at_one_layer() -> None:
    rng = np.random.default_rng(0)
    n, d = model().n_layers, model().d_model
    lens = TunedLens(mx.array(rng.normal(0, 0.02, (n, d, d)).astype(np.float32)), mx.array(rng.normal(0, 0.1, (n, d))))
    found = np.asarray(transfer(model(), lens, states()[:, :4]))
    assert found.shape == (n, n, 4)
    own = np.asarray(kl_to_last(lens.logits(model(), states()[:, :4])))
    np.testing.assert_allclose(np.diagonal(found).T, own, rtol=1e-4, atol=1e-5)
    h = states()[6, :4]
    logits = mx.stack([model().unembed(h + h @ lens.weight[2] + lens.bias[2]), model().unembed(states()[-1, :4])])
    np.testing.assert_allclose(found[2, 6], np.asarray(kl_to_last(logits))[0], rtol=1e-3, atol=1e-5)


def test_a_lens_with_the_embedding_reads_one_row_more_and_learns_at_it() -> None:
    plain = identity_lens(model(), embedding=True).logits(model(), states())
    assert plain.shape[0] == model().n_layers + 1
    without = positions_of(model(), TEXTS)
    np.testing.assert_array_equal(np.asarray(states()[1:]), np.asarray(without))
    np.testing.assert_array_equal(
        np.asarray(states()[0, :6]), np.asarray(model().run(TEXTS[0], capture="resid_pre.0")["resid_pre.0"][0])
    )
    tuned = train_on_states(model(), states(), steps=20, batch=16)
    before, after = (np.asarray(kl_to_last(x).mean(axis=1)) for x in (plain, tuned.logits(model(), states())))
    assert (after < before).all()
    with pytest.raises(DataError, match="n_positions"):
        train_on_states(model(), states()[:, :0])


def test_an_affine_map_is_found_again_and_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    x, weight, bias = rng.normal(size=(50, 6)), rng.normal(size=(6, 4)), rng.normal(size=4)
    found = affine_map(mx.array(x), mx.array(x @ weight + bias), ridge=0.0)
    np.testing.assert_allclose(np.asarray(found.weight), weight, atol=1e-4)
    np.testing.assert_allclose(np.asarray(found(mx.array(x[:3]))), x[:3] @ weight + bias, atol=1e-4)
    y = rng.normal(size=(50, 4))
    centred = x - x.mean(0)
    lam = 0.1 * (centred**2).sum() / 6
    closed = np.linalg.solve(centred.T @ centred + lam * np.eye(6), centred.T @ (y - y.mean(0)))
    np.testing.assert_allclose(np.asarray(affine_map(mx.array(x), mx.array(y), ridge=0.1).weight), closed, atol=1e-4)
    with pytest.raises(DataError, match="two pairs"):
        affine_map(mx.array(x), mx.array(y[:4]))


def test_an_affine_lens_gives_the_last_state_where_there_are_fewer_positions_than_dimensions() -> None:
    lens = affine_lens(model(), states(), ridge=0.0)
    moved = lens.translated(states())
    for layer in range(1, model().n_layers):
        np.testing.assert_allclose(np.asarray(moved[layer]), np.asarray(states()[-1]), rtol=1e-2, atol=2e-2)


def test_the_restricted_vocabulary_is_the_tokens_given() -> None:
    logits = mx.array([[5.0, 1.0, 2.0, 0.0], [0.0, 3.0, 1.0, 9.0]])
    assert top_among(logits, [1, 2]) == [2, 1]
