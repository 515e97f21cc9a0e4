"""Every kind computes what its paper says."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp.errors import SAEError
from mlx_interp.sae import KINDS, SAE, Kind
from tests.sae.examples import published_features, published_reconstruction, random_sae

X = np.random.default_rng(3).standard_normal((11, 30)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("subtracts_bias", [True, False])
def test_features_and_reconstruction_are_the_published_definition(kind: Kind, subtracts_bias: bool) -> None:
    sae = random_sae(kind, 30, "resid_post.1", subtracts_bias=subtracts_bias)
    assert np.abs(np.asarray(sae.encode(X)) - published_features(sae, X)).max() < 1e-4
    assert np.abs(np.asarray(sae(X)) - published_reconstruction(sae, X)).max() < 1e-4
    assert (published_features(sae, X) > 0).mean() > 0.02


def test_leading_axes_and_other_dtypes_are_kept_apart() -> None:
    sae = random_sae("topk", 30, "resid_post.1")
    whole = sae.encode(X)
    folded = sae.encode(mx.array(X[:10].reshape(2, 5, 30)))
    assert np.abs(np.asarray(folded).reshape(10, -1) - np.asarray(whole)[:10]).max() < 1e-6
    assert sae.encode(mx.array(X).astype(mx.bfloat16)).dtype == mx.float32


@pytest.mark.parametrize(("normalize", "factor"), [("constant_norm_rescale", 7.0), ("layer_norm", 7.0)])
def test_a_normalising_autoencoder_reconstructs_in_the_size_of_its_input(normalize: Any, factor: float) -> None:
    sae = random_sae("relu", 30, "resid_post.1", normalize=normalize)
    assert np.abs(np.asarray(sae(factor * X) - factor * sae(X))).max() < 2e-3
    assert np.abs(np.asarray(sae.encode(factor * X) - sae.encode(X))).max() < 1e-3


def test_parameters_that_do_not_fit_are_named() -> None:
    weights = dict(random_sae("relu", 30, "resid_post.1").weights)
    with pytest.raises(SAEError, match="needs threshold"):
        SAE("jumprelu", "resid_post.1", weights)
    with pytest.raises(SAEError, match=r"b_dec is \(29,\), but \(30,\)"):
        SAE("relu", "resid_post.1", {**weights, "b_dec": mx.zeros((29,))})
    with pytest.raises(SAEError, match="k between 1 and 70"):
        SAE("topk", "resid_post.1", weights)
    with pytest.raises(SAEError, match="no kind of autoencoder"):
        SAE("vanilla", "resid_post.1", weights)  # type: ignore[arg-type]
