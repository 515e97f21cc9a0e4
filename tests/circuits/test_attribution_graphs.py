"""Attribution graphs: edges add up to values, and are what a stream with held patterns and norms loses by ablation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Model
from mlx_interp.architectures import FAMILIES
from mlx_interp.circuits import AttributionGraph, attribution_graph, graph_scores, node_influence, prune
from mlx_interp.engine.held_stream import Reads, check_held
from mlx_interp.errors import CircuitError, SAEError, UnsupportedModel
from mlx_interp.sae import Transcoder, TranscoderSet
from tests.sae.transcoder_examples import random_set
from tests.tiny import FAMILY_CONFIGS, tiny_model

TOKENS = [3, 5, 8, 13, 21, 34]
ANY = -1e9
"""Random transcoders explain nothing."""


def held(family: str) -> bool:
    try:
        check_held(tiny_model(family).network)
    except UnsupportedModel:
        return False
    return True


HELD = sorted(family for family in FAMILY_CONFIGS if family in FAMILIES and held(family))


def graph_of(model: Model, transcoders: TranscoderSet, **settings: Any) -> AttributionGraph:
    return attribution_graph(model, TOKENS, transcoders, mass=1.0, n_tokens=4, least_explained=ANY, **settings)


def unexplained(graph: AttributionGraph) -> float:
    """The largest difference of incoming edges, biases and what is left out from a node's value, by the largest."""
    read = np.r_[: graph.n_features, graph.logits]
    summed = graph.effects.sum(axis=1) + graph.constant + graph.left_out
    return float(np.abs(summed - graph.values)[read].max() / np.abs(graph.values[read]).max())


def test_most_families_can_be_traced() -> None:
    assert len(HELD) > 15
    assert {"llama", "gemma2", "gemma3_text", "qwen2", "qwen3", "gpt2", "phi3", "granite"} <= set(HELD)


@pytest.mark.parametrize("family", HELD)
@pytest.mark.parametrize("cross", [False, True])
def test_what_leads_into_a_node_adds_up_to_its_value(family: str, cross: bool) -> None:
    model = tiny_model(family)
    graph = graph_of(model, random_set(model.n_layers, model.d_model, cross=cross, skip=not cross))
    assert graph.n_features > 10
    assert unexplained(graph) < 1e-5
    assert np.allclose(graph.activations, graph.values[: graph.n_features], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reads", ["resid_mid", "mlp_norm"])
@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_sums_hold_whatever_is_read_and_by_whatever_kind(llama: Model, reads: Reads, kind: str) -> None:
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model, reads=reads, kind=kind, layers=(0, 2)))
    assert unexplained(graph) < 1e-5
    of_nothing = graph.effects[:, graph.errors].reshape(graph.n_nodes, llama.n_layers, -1)[:, 1]
    assert np.abs(of_nothing).max() > 0.01  # the layer without a transcoder is all error


def test_logits_values_are_the_models_own_less_their_mean(llama: Model) -> None:
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model))
    logits = np.asarray(llama.run(TOKENS).logits[0], np.float64)  # type: ignore[index]
    assert list(graph.tokens) == np.argsort(-logits)[:4].tolist()
    assert np.allclose(graph.values[graph.logits], (logits - logits.mean())[list(graph.tokens)], atol=1e-4)
    assert np.allclose(graph.probabilities, np.exp(logits - np.logaddexp.reduce(logits))[list(graph.tokens)], atol=1e-6)


class Frozen:
    """A llama written out in numpy, patterns and norms' divisors held as a first pass has them."""

    def __init__(self, model: Model) -> None:
        self.model = model
        names = ["resid_pre", "resid_mid", "pattern", "mlp_out"]
        out = model.run(TOKENS, capture=names, logits="none")
        last = f"resid_post.{model.n_layers - 1}"
        self.out = {name: np.asarray(out[name][0], np.float64) for name in out}
        self.last = np.asarray(model.run(TOKENS, capture=last, logits="none")[last][0], np.float64)

    def normed(self, norm: Any, x: np.ndarray, at: np.ndarray) -> np.ndarray:
        return x / np.sqrt((at**2).mean(-1, keepdims=True) + norm.eps) * np.asarray(norm.weight, np.float64)

    def stream(self, embedding: np.ndarray, mlps: list[np.ndarray]) -> list[np.ndarray]:
        """What each MLP reads, and the last stream, of an embedding and of what MLPs add."""
        net, x, found = self.model.network, embedding, []
        for layer, mlp in enumerate(mlps):
            block = net.layers[layer]
            read = self.normed(block.input_layernorm, x, self.out[f"resid_pre.{layer}"])
            w, b, o, c = (
                np.asarray(getattr(getattr(block.self_attn, part), name), np.float64)
                for part in ("v_proj", "o_proj")
                for name in ("weight", "bias")
            )
            v = (read @ w.T + b).reshape(len(x), net.n_kv_heads, -1).repeat(net.n_heads // net.n_kv_heads, axis=1)
            z = np.einsum("hqk,khd->qhd", self.out[f"pattern.{layer}"], v).reshape(len(x), -1)
            x = x + z @ o.T + c
            found.append(self.normed(block.post_attention_layernorm, x, self.out[f"resid_mid.{layer}"]))
            x = x + mlp
        return [*found, x]

    def logits(self, x: np.ndarray) -> np.ndarray:
        net = self.model.network
        head = np.asarray(net.language_model.lm_head.weight, np.float64)
        logits: np.ndarray = self.normed(net.decoder.norm, x[-1:], self.last[-1:])[0] @ head.T
        return logits - logits.mean()


@pytest.mark.parametrize("cross", [False, True])
def test_edges_are_what_is_lost_by_ablation_in_the_frozen_model_written_out(llama: Model, cross: bool) -> None:
    """Every source is taken away by itself, in float64 numpy; nothing of the library's backward pass is used."""
    transcoders = random_set(llama.n_layers, llama.d_model, cross=cross)
    graph = graph_of(llama, transcoders)
    frozen = Frozen(llama)
    embedding = frozen.out["resid_pre.0"]
    mlps = [frozen.out[f"mlp_out.{layer}"] for layer in range(llama.n_layers)]
    clean = frozen.stream(embedding, mlps)

    def lost(changed: np.ndarray, changes: list[np.ndarray]) -> np.ndarray:
        found, there = np.zeros(graph.n_nodes), frozen.stream(changed, changes)
        for place, (layer, position, number) in enumerate(graph.features):
            encoder = np.asarray(transcoders.transcoders[layer].weights["W_enc"], np.float64)[:, number]
            found[place] = (clean[layer] - there[layer])[position] @ encoder
        found[graph.logits] = (frozen.logits(clean[-1]) - frozen.logits(there[-1]))[list(graph.tokens)]
        return found

    rng = np.random.default_rng(0)
    for source in rng.permutation(graph.n_features)[:20]:
        layer, position, number = graph.features[source]
        changes = [mlp.copy() for mlp in mlps]
        decoder = np.asarray(transcoders.transcoders[layer].weights["W_dec"][int(number)], np.float64)
        for step, vector in enumerate(decoder):
            changes[layer + step][position] -= graph.activations[source] * vector
        assert np.allclose(graph.effects[:, source], lost(embedding, changes), atol=2e-5)
    for position in range(len(TOKENS)):
        without = embedding.copy()
        without[position] = 0
        column = graph.effects[:, graph.embeddings.start + position]
        assert np.allclose(column, lost(without, mlps), atol=2e-5)


def test_features_of_the_first_position_are_left_to_its_error(llama: Model) -> None:
    transcoders = random_set(llama.n_layers, llama.d_model)
    assert graph_of(llama, transcoders).features[:, 1].min() == 1
    assert graph_of(llama, transcoders, first=0).features[:, 1].min() == 0
    assert graph_of(llama, transcoders, first=3).features[:, 1].min() == 3


def test_fewer_features_are_the_same_rows_and_the_rest_is_counted(llama: Model) -> None:
    transcoders = random_set(llama.n_layers, llama.d_model)
    whole = graph_of(llama, transcoders)
    some = graph_of(llama, transcoders, most=16)
    assert (some.n_features, unexplained(some) < 1e-5) == (16, True)
    assert np.abs(some.left_out).max() > 0
    where = [whole.features.tolist().index(one) for one in some.features.tolist()]
    assert np.allclose(some.effects[:16, :16], whole.effects[np.ix_(where, where)], atol=1e-6)
    chosen, others = node_influence(whole)[where], np.delete(node_influence(whole)[: whole.n_features], where)
    assert chosen.mean() > 3 * others.mean()


def test_total_effects_are_the_sums_over_all_paths(llama: Model) -> None:
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model))
    n = graph.n_features
    inner = graph.effects[:n, :n] / graph.activations[:, None]
    expected = np.zeros((4, n))
    step = graph.effects[graph.logits, :n]
    for _ in range(llama.n_layers):  # a path has at most one feature of each layer
        expected, step = expected + step, step @ inner
    assert np.allclose(graph.total_effects, expected, atol=1e-8)


def test_influence_and_scores_are_the_papers_matrices(llama: Model) -> None:
    """B = (I - A)^-1 - I of the whole matrix of shares, instead of step after step."""
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model))
    size = np.abs(graph.effects)
    a = size / np.maximum(size.sum(1, keepdims=True), 1e-10)
    b = np.linalg.inv(np.eye(len(a)) - a) - np.eye(len(a))
    weights = np.zeros(len(a))
    weights[graph.logits] = graph.probabilities
    influence = weights @ b
    assert np.allclose(node_influence(graph), influence, atol=1e-9)
    scores = graph_scores(graph)
    tokens, errors = influence[graph.embeddings].sum(), influence[graph.errors].sum()
    assert scores.replacement == pytest.approx(tokens / (tokens + errors))
    clean = 1 - a[:, graph.errors].sum(1)
    assert scores.completeness == pytest.approx(clean @ (influence + weights) / (influence + weights).sum())


def test_pruned_graphs_keep_the_share_and_have_no_loose_ends(llama: Model) -> None:
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model))
    influence = node_influence(graph)
    for share in (0.5, 0.8, 0.95):
        pruned = prune(graph, nodes=share, edges=0.9)
        inner = pruned.nodes[: graph.embeddings.start]
        assert pruned.edges[:, : len(inner)].any(0)[inner].all()
        assert pruned.edges[: graph.n_features].any(1)[pruned.nodes[: graph.n_features]].all()
        assert pruned.nodes[graph.embeddings.start :].all()
        assert (pruned.cumulative[: len(inner)][inner] <= share + influence.max() / influence.sum()).all()
    whole = prune(graph, nodes=1.0, edges=1.0)
    assert pruned.nodes.sum() < whole.nodes.sum()
    assert prune(graph, nodes=0.5, edges=0.9).nodes.sum() < pruned.nodes.sum()


def test_what_cannot_be_traced_is_refused_with_both_sides(llama: Model) -> None:
    fits = random_set(llama.n_layers, llama.d_model)
    with pytest.raises(SAEError, match=r"width 48, random-llama is 30 wide"):
        attribution_graph(llama, TOKENS, random_set(llama.n_layers, 48))
    with pytest.raises(SAEError, match=r"reads layer 3 .* random-llama has layers 0 to 2"):
        attribution_graph(llama, TOKENS, random_set(4, llama.d_model))
    with pytest.raises(SAEError, match=r"reads layer 1 and writes up to 3; random-llama has layers 0 to 2"):
        attribution_graph(llama, TOKENS, random_set(4, llama.d_model, cross=True, layers=(1, 2)))
    large = [replace(one, weights={**one.weights, "b_dec": 50 + one.weights["b_dec"]}) for one in fits.transcoders]
    with pytest.raises(SAEError, match=r"explains -\d+.* of what MLPs of random-llama add .* 0\.00 is asked for"):
        attribution_graph(llama, TOKENS, TranscoderSet(tuple(large)))
    silent = [replace(one, weights={**one.weights, "threshold": mx.full((17,), 1e6)}) for one in fits.transcoders]
    with pytest.raises(CircuitError, match=r"no feature of .* is active on the 6 tokens"):
        graph_of(llama, TranscoderSet(tuple(silent)))
    with pytest.raises(CircuitError, match="mass 0"):
        attribution_graph(llama, TOKENS, fits, mass=0)
    with pytest.raises(UnsupportedModel, match="node_scores"):
        other = tiny_model("lfm2")
        attribution_graph(other, TOKENS, random_set(other.n_layers, other.d_model))


def test_a_graph_of_which_nothing_is_left_is_refused(llama: Model) -> None:
    """Features that no logit reads: the embedding of the prompt's end is all."""
    graph = graph_of(llama, random_set(llama.n_layers, llama.d_model))
    alone = graph.effects.copy()
    alone[graph.logits, : graph.embeddings.start] = 0
    with pytest.raises(CircuitError, match=r"nothing is left of \d+ features and 18 errors at nodes=0\.8, edges=0\.98"):
        prune(replace(graph, effects=alone))
    with pytest.raises(CircuitError, match=r"nodes = 1\.5"):
        prune(graph, nodes=1.5)


def test_a_transcoder_says_what_does_not_fit(llama: Model) -> None:
    (one, *_) = random_set(llama.n_layers, llama.d_model).transcoders
    with pytest.raises(SAEError, match=r"W_dec is \(17, 30\)"):
        Transcoder(0, {**one.weights, "W_dec": one.weights["W_dec"][:, 0]})
    with pytest.raises(SAEError, match=r"b_enc is \(16,\), \(17,\) fits"):
        Transcoder(0, {**one.weights, "b_enc": one.weights["b_enc"][:16]})
    with pytest.raises(SAEError, match="gated"):
        Transcoder(0, one.weights, "gated")
