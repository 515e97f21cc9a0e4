"""Edges between features equal what nudging and what patching them by hand gives."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_interp import Apply, Model, Patch
from mlx_interp.circuits import log_odds
from mlx_interp.circuits.feature_edge_circuits import feature_edge_circuits
from mlx_interp.circuits.feature_edges import between, feature_edge_effects, feature_edges, links
from mlx_interp.circuits.features import feature_effects, feature_scores
from mlx_interp.errors import CircuitError
from mlx_interp.sae import SAE
from tests.circuits.test_attribution import m, pairs_of
from tests.circuits.test_features import D_SAE, random_sae
from tests.tiny import tiny_model

ALL = tuple(range(D_SAE + 1))


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model("gemma2")


def stream(model: Model) -> list[SAE]:
    return [random_sae(f"resid_post.{layer}", model.d_model, layer) for layer in (0, 1)]


def value(sae: SAE, x: mx.array, node: int) -> mx.array:
    """A latent, or the error's inner product later: (pos, ...)."""
    f = sae.encode(x)
    return f[:, node] if node < sae.d_sae else x - sae.decode(f)


@pytest.mark.parametrize("quantised", [False, True])
def test_an_edge_is_what_nudging_the_upstream_feature_does_to_the_downstream_one(quantised: bool) -> None:
    """Central differences, position by position, times the change and what the downstream node is worth."""
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=96) if quantised else tiny_model("llama")
    if quantised:
        nn.quantize(model.mlx_model, group_size=32, bits=4)
    first, last = stream(model)
    pair = pairs_of(model)[0]
    here, there = (model.run(p, capture=[first.site, last.site]) for p in (pair.clean, pair.counterfactual))
    slope = model.gradients(pair.clean, log_odds(model)([pair]), last.site)[last.site][0]
    active = int(last.encode(here[last.site][0]).sum(0).argmax())
    found = feature_edges(model, [pair], [first, last], [(), (active, D_SAE)], method="attribution")[0]
    assert found.link == (0, 1)
    f, g = first.encode(here[first.site][0]), first.encode(there[first.site][0])
    source = int(mx.abs(g - f).sum(0).argmax())
    step = 1e-2
    for column, target in enumerate((active, D_SAE)):
        worth = slope @ last.directions[target] if target < D_SAE else slope
        expected = 0.0
        for position in range(pair.length):
            sides = []
            for sign in (1, -1):
                nudge = first.steer(source, sign * step, positions=position)
                x = model.run(pair.clean, capture=last.site, interventions=[nudge])[last.site][0]
                sides.append(float((worth * value(last, x, target)).sum()))
            expected += (sides[0] - sides[1]) / (2 * step) * float((g - f)[position, source])
        assert float(found.values[0, column, source]) == pytest.approx(expected, rel=0.05, abs=5e-5)


def test_edges_into_a_whole_site_add_up_to_the_upstream_nodes(model: Model) -> None:
    """Nothing passes a stream site but through its nodes: the chain rule."""
    made, saes = pairs_of(model), stream(model)
    edges, into_logits = feature_edges(model, made, saes, [(), ALL], method="attribution")
    scores = feature_scores(model, made, saes, method="attribution")
    assert np.abs(edges.values.sum(1) - scores[0]).max() < 1e-3 * max(1, float(np.abs(scores[0]).max()))
    assert into_logits.link == (1, 2)
    assert into_logits.values[:, 0] == pytest.approx(scores[1], rel=1e-3, abs=1e-4)


def test_the_stream_alone_is_the_whole_edge_where_the_blocks_between_add_nothing(model: Model) -> None:
    made = pairs_of(model)[:1]
    saes = [random_sae("resid_mid.1", model.d_model, 0), random_sae("resid_post.1", model.d_model, 1)]
    first, last = saes
    edges = feature_edges(model, made, saes, [(), ALL], method="attribution")[0]
    here, there = (model.run(p, capture=[first.site, last.site]) for p in (made[0].clean, made[0].counterfactual))
    slope = model.gradients(made[0].clean, log_odds(model)(made), last.site)[last.site][0]
    change = first.encode(there[first.site][0]) - first.encode(here[first.site][0])
    f = last.encode(here[last.site][0])
    for target in range(D_SAE):  # a ReLU latent hands on by its encoder where it is active
        active = (f[:, target] > 0).astype(mx.float32) * (slope @ last.directions[target])
        expected = (active[:, None] * change * (first.directions @ last.weights["W_enc"][:, target])).sum(0)
        assert edges.stream[0, target, :-1] == pytest.approx(np.asarray(expected), rel=1e-3, abs=1e-4)
    assert np.abs(edges.values - edges.stream).max() > 1e-3  # the MLP between does something


def test_an_exact_edge_is_the_downstream_node_alone_as_the_changed_run_has_it(model: Model) -> None:
    made, (first, last) = pairs_of(model), stream(model)
    edges = [(0, 4, 1, 7), (0, D_SAE, 1, 7), (0, 4, 1, D_SAE)]
    found = feature_edge_effects(model, made, [first, last], edges)
    for row, pair in enumerate(made):
        there = model.run(pair.counterfactual, capture=first.site)[first.site][0]
        other = first.encode(there)
        here = model.run(pair.clean, capture=[first.site, last.site])
        for column, (_, source, _, target) in enumerate(edges):
            f = first.encode(here[first.site][0])
            if source < D_SAE:
                moved = here[first.site][0] + (other - f)[:, source : source + 1] * first.directions[source]
            else:
                moved = first.decode(f) + (there - first.decode(other))
            x = model.run(pair.clean, capture=last.site, interventions=[Patch(first.site, moved)])[last.site][0]
            clean = here[last.site][0]
            if target < D_SAE:
                seen = (last.encode(x) - last.encode(clean))[:, target : target + 1] * last.directions[target]
            else:
                seen = (x - last.decode(last.encode(x))) - (clean - last.decode(last.encode(clean)))
            logits = model.run(pair.clean, interventions=[Apply(last.site, lambda y, d=seen: y + d)]).logits
            assert logits is not None
            expected = float(log_odds(model)([pair])(logits)[0]) - m(model, pair)
            assert found[row, column] == pytest.approx(expected, abs=2e-4)


def test_sites_between_are_held_and_walls_of_the_stream_let_nothing_past(model: Model) -> None:
    made = pairs_of(model)[:2]
    saes = [random_sae(site, model.d_model, n) for n, site in enumerate(("resid_post.0", "mlp_out.1", "resid_post.1"))]
    assert links(model, saes) == [(0, 1), (0, 2), (1, 2), (2, 3)]
    assert between(model, saes, (0, 2)) == [1]
    whole = [(), ALL, ALL]
    found = {edges.link: edges.values for edges in feature_edges(model, made, saes, whole, method="attribution")}
    alone = feature_edges(model, made, [saes[0], saes[2]], [(), ALL], method="attribution")[0].values
    through_mlp = np.einsum("pts->ps", found[0, 1])
    assert found[0, 2].sum(1) + through_mlp == pytest.approx(alone.sum(1), rel=1e-3, abs=1e-3)
    assert np.abs(through_mlp).max() > 1e-3
    with pytest.raises(CircuitError, match="no edges lead from autoencoder 0 to 3"):
        feature_edge_effects(model, made, saes, [(0, 1, 3, 0)])


def test_edges_of_the_last_site_into_the_logits_are_its_nodes(model: Model) -> None:
    made, saes = pairs_of(model), stream(model)
    found = feature_edge_effects(model, made, saes, [(1, 3, 2, 0), (1, D_SAE, 2, 0)])
    assert found == pytest.approx(feature_effects(model, made, saes[1], [3, D_SAE]), abs=1e-4)


def test_nodes_that_are_not_there_are_refused(model: Model) -> None:
    made, saes = pairs_of(model)[:1], stream(model)
    with pytest.raises(CircuitError, match="the last one is its error"):
        feature_edges(model, made, saes, [(), (D_SAE + 1,)])
    with pytest.raises(CircuitError, match="a list for each"):
        feature_edges(model, made, saes, [(1,)])


def test_integrated_edges_add_up_to_the_whole_change_of_the_downstream_site(model: Model) -> None:
    made, (first, last) = pairs_of(model)[:1], stream(model)
    found = feature_edges(model, made, [first, last], [(), ALL], method="ig-activations", steps=100)[0]
    a, b = (model.run(p, capture=[first.site, last.site]) for p in (made[0].clean, made[0].counterfactual))
    steps = [j / 100 for j in range(100)]
    ways = [a[last.site] + share * (b[last.site] - a[last.site]) for share in steps]
    metric = log_odds(model)(made)
    slopes = [model.gradients(made[0].clean, metric, last.site, interventions=[Patch(last.site, x)]) for x in ways]
    slope = sum((s[last.site][0] for s in slopes[1:]), slopes[0][last.site][0]) / 100
    moved = model.run(made[0].clean, capture=last.site, interventions=[Patch(first.site, b[first.site])])
    expected = float((slope * (moved[last.site][0] - a[last.site][0])).sum())
    assert float(found.values.sum()) == pytest.approx(expected, rel=0.03)


def test_every_edge_is_the_model_and_no_edge_is_the_counterfactual_run(model: Model) -> None:
    made, saes = pairs_of(model)[:2], stream(model)
    every = [(0, i, 1, j) for i in ALL for j in ALL] + [(1, j, 2, 0) for j in ALL]
    found = feature_edge_circuits(model, made, saes, [every, []])
    assert found[:, 0] == pytest.approx([m(model, pair) for pair in made], abs=1e-3)
    assert found[:, 1] == pytest.approx([m(model, pair, counterfactual=True) for pair in made], abs=1e-3)
    with pytest.raises(CircuitError, match="have other edges too"):
        feature_edge_circuits(model, made, [saes[0], random_sae("mlp_out.1", model.d_model, 4)], [[]])


def test_an_edge_that_is_left_out_is_the_exact_effect_of_that_edge_on_its_reader(model: Model) -> None:
    """All edges but one: the one downstream node sees the upstream node's counterfactual value."""
    made, saes = pairs_of(model)[:2], stream(model)
    every = [(0, i, 1, j) for i in ALL for j in ALL] + [(1, j, 2, 0) for j in ALL]
    for gone in ((0, 4, 1, 7), (0, D_SAE, 1, 7), (1, 3, 2, 0)):
        both = feature_edge_circuits(model, made, saes, [every, [edge for edge in every if edge != gone]])
        exact = feature_edge_effects(model, made, saes, [gone])
        assert both[:, 1] - both[:, 0] == pytest.approx(exact[:, 0], abs=1e-3)
