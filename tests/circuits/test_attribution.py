"""Attribution equals what it approximates where that is known, and says where it cannot work."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_interp import Model, Patch
from mlx_interp.circuits import (
    METHODS,
    Pair,
    check,
    edge_effects,
    edge_scores,
    inputs,
    log_odds,
    node_effects,
    node_scores,
    nodes,
    sample,
    wiring,
)
from mlx_interp.errors import CircuitError
from tests.tiny import tiny_model

FAMILIES = ("llama", "gemma2", "gpt2", "granite", "phi")


def pairs_of(model: Model) -> list[Pair]:
    """Three pairs of two lengths; right and wrong answers of one token, of two, and everything else."""
    rng = np.random.default_rng(3)
    rows = [[" ".join(map(str, rng.integers(0, 101, length))) for _ in range(2)] for length in (5, 7, 5)]
    answers: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((7,), (23,)), ((7, 8), (23, 24)), ((9,), ())]
    return [
        Pair(f"pair {i}", model.prompt(clean), model.prompt(other), *tokens)
        for i, ((clean, other), tokens) in enumerate(zip(rows, answers, strict=True))
    ]


def m(model: Model, pair: Pair, counterfactual: bool = False) -> float:
    logits = model.run(pair.counterfactual if counterfactual else pair.clean).logits
    assert logits is not None
    return float(log_odds(model)([pair])(logits)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_along_the_embeddings_the_embedding_explains_the_whole_difference(family: str) -> None:
    """Exchanging what enters layer 0 is running the other prompt, and a gradient integrates to a difference."""
    model = tiny_model(family)
    made = pairs_of(model)
    found = node_scores(model, made, method="ig-inputs", steps=200)[:, 0]
    expected = [m(model, pair, counterfactual=True) - m(model, pair) for pair in made]
    assert found == pytest.approx(expected, rel=0.05, abs=0.05)


@pytest.mark.parametrize("method", ["attribution", "clean-corrupted", "ig-inputs"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_edges_of_a_node_add_up_to_the_node(family: str, method: str) -> None:
    model = tiny_model(family)
    made = pairs_of(model)
    edges = edge_scores(model, made, method=method, steps=3)  # type: ignore[arg-type]
    expected = node_scores(model, made, method=method, steps=3)  # type: ignore[arg-type]
    assert np.abs(edges.sum(1) - expected).max() < 1e-3 * max(1.0, float(np.abs(expected).max()))


def test_edges_pass_through_quantised_weights_and_grouped_heads_stay_apart() -> None:
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=96)
    nn.quantize(model.mlx_model, group_size=32, bits=4)
    assert isinstance(model.network.layers[0].self_attn.q_proj, nn.QuantizedLinear)
    made = pairs_of(model)
    edges, wires = edge_scores(model, made, method="attribution"), wiring(model.network)
    assert np.abs(edges.sum(1) - node_scores(model, made, method="attribution")).max() < 1e-3
    keys = edges[:, wires.attention_inputs(2).start + 6 :][:, :6, 1]  # six query heads over three key heads
    assert len({round(float(x), 6) for x in keys[0]}) == 6


def test_every_node_is_estimated_as_a_small_change_of_it_truly_does() -> None:
    """With the counterfactual a step away from the clean run, first order is all there is."""
    model = tiny_model("qwen2")
    pair = pairs_of(model)[0]
    scores = node_scores(model, [pair], method="attribution")[0]
    here, there = (
        model.run(p, capture=["z", "mlp_out", "resid_pre.0"], logits="none") for p in (pair.clean, pair.counterfactual)
    )
    step = 1e-3
    for number, node in enumerate(nodes(wiring(model.network))):
        site = {"embed": "resid_pre.0", "head": f"z.{node.layer}", "mlp": f"mlp_out.{node.layer}"}[node.kind]
        a, b = here[site], there[site]
        heads = node.head if node.kind == "head" else None
        a, b = (x[:, :, node.head] if node.kind == "head" else x for x in (a, b))
        ends = [
            model.run(pair.clean, interventions=[Patch(site, a + sign * step * (b - a), heads=heads)]).logits
            for sign in (1, -1)
        ]
        high, low = (float(log_odds(model)([pair])(logits)[0]) for logits in ends if logits is not None)
        assert scores[number] == pytest.approx((high - low) / (2 * step), rel=0.05, abs=0.02), str(node)


def test_exact_effects_are_single_runs_with_one_patch() -> None:
    model = tiny_model("gemma2")
    made = pairs_of(model)
    known = [str(node) for node in nodes(wiring(model.network))]
    cells = [(known.index("z.1.4"), None), (known.index("mlp.0"), 3), (known.index("embed"), 6)]
    found = node_effects(model, made, cells)
    pair = made[1]
    out = model.run(pair.counterfactual, capture=["z.1", "mlp_out.0", "resid_pre.0"], logits="none")
    edits = [
        Patch("z.1", out["z.1"][0, :, 4], heads=4),
        Patch("mlp_out.0", out["mlp_out.0"][0, 3], 3),
        Patch("resid_pre.0", out["resid_pre.0"][0, 6], 6),
    ]
    for column, edit in enumerate(edits):
        logits = model.run(pair.clean, interventions=[edit]).logits
        assert logits is not None
        expected = float(log_odds(model)([pair])(logits)[0]) - m(model, pair)
        assert found[1, column] == pytest.approx(expected, abs=1e-3)
    assert np.isnan(found[0, 2])
    assert np.isfinite(found[2, 1])


def test_effects_of_edges_into_the_logits_from_the_last_mlp_are_those_of_the_node() -> None:
    model = tiny_model("mistral")
    made, wires = pairs_of(model), wiring(model.network)
    last = wires.mlp(2)
    by_edge = edge_effects(model, made, [(wires.logits_input, last)])
    assert by_edge[:, 0] == pytest.approx(node_effects(model, made, [(last, None)])[:, 0], abs=1e-3)
    assert inputs(wires)[wires.logits_input] == "logits"
    with pytest.raises(CircuitError, match="comes later"):
        edge_effects(model, made, [(0, last)])


@pytest.mark.parametrize("method", METHODS)
def test_a_metric_without_gradient_is_refused_in_words(method: str) -> None:
    model = tiny_model("llama")
    made = pairs_of(model)[:1]

    def rank(pairs: object) -> object:
        return lambda logits: (logits > logits[:, 7:8]).sum(axis=-1).astype(mx.float32)

    with pytest.raises(CircuitError, match="no gradient"):
        node_scores(model, made, metric=rank, method=method)  # type: ignore[arg-type]


def test_a_metric_without_gradient_is_refused_for_edges_too() -> None:
    model = tiny_model("llama")
    with pytest.raises(CircuitError, match="no gradient"):
        edge_scores(model, pairs_of(model), metric=lambda pairs: lambda x: mx.argmax(x, axis=-1).astype(mx.float32))
    with pytest.raises(CircuitError, match="interpolates nodes"):
        edge_scores(model, pairs_of(model), method="ig-activations")
    with pytest.raises(CircuitError, match="no method"):
        node_scores(model, pairs_of(model), method="gradients")  # type: ignore[arg-type]


def test_a_soft_cap_does_not_flatten_the_metric_unless_asked() -> None:
    model = tiny_model("gemma2")  # capped at 3
    pair = pairs_of(model)[0]
    logits = model.run(pair.clean).logits
    assert logits is not None
    said = float(log_odds(model, capped=True)([pair])(logits)[0])
    assert said == pytest.approx(float(logits[0, 7] - logits[0, 23]), abs=1e-4)
    final = model.run(pair.clean, capture="final")["final"][0, -1]
    whole = model.network.decoder.embed_tokens.as_linear(final)
    assert m(model, pair) == pytest.approx(float(whole[7] - whole[23]), rel=1e-3, abs=1e-3)


def test_pairs_of_unequal_length_are_refused_with_both_texts() -> None:
    model = tiny_model("llama")
    with pytest.raises(CircuitError, match="2 tokens in '1 2', 3 in '1 2 3'"):
        Pair("p", model.prompt("1 2"), model.prompt("1 2 3"), (4,), (5,))
    with pytest.raises(CircuitError, match="must differ"):
        Pair("p", model.prompt("1 2"), model.prompt("1 3"), (4,), (4,))


def test_a_check_counts_large_effects_that_the_estimate_hides() -> None:
    exact, estimated = np.array([5.0, -4.0, 3.0, 0.1, np.nan]), np.array([5.0, -0.2, 3.5, 0.0, 9.0])
    found = check(estimated, exact, large=2.0)
    assert (found.n, found.n_large) == (4, 3)
    assert found.missed == pytest.approx(1 / 3)
    assert check(estimated, exact, large=50.0).missed is None


def test_a_sample_is_the_largest_and_others_at_random() -> None:
    scores = np.array([[0.0, -9.0, np.nan], [8.0, 1.0, 2.0]])
    chosen = sample(scores, top=2, random=2, seed=0)
    assert chosen[:2] == [1, 3]
    assert len(set(chosen)) == 4
    assert 2 not in chosen
