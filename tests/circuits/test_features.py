"""Circuits of features: latents and error add up to their site, and a circuit of everything is the model."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Model, Patch
from mlx_interp.circuits import log_odds
from mlx_interp.circuits.features import feature_circuits, feature_effects, feature_scores, n_features
from mlx_interp.errors import CircuitError
from mlx_interp.sae import SAE
from tests.circuits.test_attribution import m, pairs_of
from tests.tiny import tiny_model

D_SAE = 20


def random_sae(site: str, d_model: int, seed: int, **changes: object) -> SAE:
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (d_model, D_SAE), "W_dec": (D_SAE, d_model), "b_enc": (D_SAE,), "b_dec": (d_model,)}
    weights = {name: mx.array(rng.normal(0, 0.4, shape).astype(np.float32)) for name, shape in shapes.items()}
    return SAE("relu", site, weights, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("gemma2")


@pytest.fixture(scope="module")
def saes() -> list[SAE]:
    return [random_sae("resid_post.0", 30, 0), random_sae("mlp_out.1", 30, 1)]


@pytest.mark.parametrize("steps", [1, 4])
def test_latents_and_error_add_up_to_the_site(model: Model, saes: list[SAE], steps: int) -> None:
    """The site's own estimate: its change times the gradient averaged along its way, j = 0 ... steps - 1."""
    made = pairs_of(model)
    method = "attribution" if steps == 1 else "ig-activations"
    found = feature_scores(model, made, saes, method=method, steps=steps)  # type: ignore[arg-type]
    for sae, scores in zip(saes, found, strict=True):
        assert scores.shape == (3, D_SAE + 1)
        for row, pair in enumerate(made):
            a, b = (model.run(p, capture=sae.site)[sae.site] for p in (pair.clean, pair.counterfactual))
            slopes = [
                model.gradients(
                    pair.clean,
                    log_odds(model)([pair]),
                    sae.site,
                    interventions=[Patch(sae.site, a + j / steps * (b - a))],
                )[sae.site]
                for j in range(steps)
            ]
            expected = float(((b - a) * sum(slopes[1:], slopes[0]) / steps).sum())
            assert scores[row].sum() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_everything_is_the_model_and_nothing_at_the_stream_is_the_counterfactual(model: Model, saes: list[SAE]) -> None:
    made = pairs_of(model)
    all_of = [np.ones(n, bool) for n in n_features(saes)]
    found = feature_circuits(model, made, saes, [all_of, [~mask for mask in all_of]])
    assert found[:, 0] == pytest.approx([m(model, pair) for pair in made], abs=1e-3)
    # The stream after layer 0 is all that later layers read: replaced whole, the run is the counterfactual's.
    assert found[:, 1] == pytest.approx([m(model, pair, counterfactual=True) for pair in made], abs=1e-3)


def test_errors_can_be_kept_or_removed_whatever_the_circuit_says(model: Model, saes: list[SAE]) -> None:
    made = pairs_of(model)[:1]
    latents_only = [np.append(np.ones(D_SAE, bool), False) for _ in saes]
    kept, removed, scored = (
        feature_circuits(model, made, saes, [latents_only], errors=errors)[0, 0]  # type: ignore[arg-type]
        for errors in ("keep", "remove", "scored")
    )
    assert kept == pytest.approx(m(model, made[0]), abs=1e-3)
    assert removed == pytest.approx(scored, abs=1e-6)
    assert abs(kept - removed) > 1e-2


def test_one_feature_patched_is_the_circuit_without_it(model: Model, saes: list[SAE]) -> None:
    made = pairs_of(model)
    found = feature_effects(model, made, saes[0], [3, 7, D_SAE])
    whole = np.ones(D_SAE + 1, bool)
    for column, feature in enumerate((3, 7, D_SAE)):
        mask = whole.copy()
        mask[feature] = False
        both = feature_circuits(model, made, saes[:1], [[whole], [mask]])
        assert found[:, column] == pytest.approx(both[:, 1] - both[:, 0], abs=1e-3)
    with pytest.raises(CircuitError, match="its error"):
        feature_effects(model, made, saes[0], [D_SAE + 1])


def test_autoencoders_that_cannot_be_nodes_are_refused(model: Model, saes: list[SAE]) -> None:
    made = pairs_of(model)[:1]
    with pytest.raises(CircuitError, match="at least one"):
        feature_scores(model, made, [])
    with pytest.raises(CircuitError, match="two autoencoders"):
        feature_scores(model, made, [saes[0], saes[0]])
    with pytest.raises(CircuitError, match="30 wide"):
        feature_scores(model, made, [random_sae("resid_post.0", 24, 0)])
    with pytest.raises(CircuitError, match="normalised"):
        feature_scores(model, made, [random_sae("resid_post.0", 30, 0, normalize="layer_norm")])
    with pytest.raises(CircuitError, match="no method"):
        feature_scores(model, made, saes, method="ig-inputs")  # type: ignore[arg-type]


def test_effects_of_zeroing_add_up_to_the_change_from_the_site_to_its_bias(model: Model, saes: list[SAE]) -> None:
    made = pairs_of(model)[:1]
    found = feature_scores(model, made, saes, method="attribution", baseline="zero")
    for sae, scores in zip(saes, found, strict=True):
        a = model.run(made[0].clean, capture=sae.site)[sae.site]
        slope = model.gradients(made[0].clean, log_odds(model)(made), sae.site)[sae.site]
        expected = float(((sae.weights["b_dec"] - a) * slope).sum())
        assert scores[0].sum() == pytest.approx(expected, rel=1e-3, abs=1e-4)
