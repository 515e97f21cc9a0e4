"""RelP: the forward pass is the model's, relevance is conserved, and each rule is what it says."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp import Model
from mlx_interp.architectures import FAMILIES
from mlx_interp.circuits import Pair, edge_scores, node_scores, relevance_model, relevance_scores
from mlx_interp.engine.relevance import RULES, Rule
from mlx_interp.errors import CircuitError, UnsupportedModel
from tests.tiny import tiny_model

TOKENS = [3, 5, 8, 13, 21]
KNOWN = sorted(
    name
    for name, one in FAMILIES.items()
    if one.form is not None and not (one.experts or one.latent or one.mixer or one.own_inputs or one.attn_gate)
)
WITHOUT_BIAS = ("gemma", "gemma3_text", "mistral", "olmo3", "phi3", "qwen3")


def metric(logits: mx.array) -> mx.array:
    return logits[:, 17] - logits[:, 23]


def pairs_of(model: Model, n: int = 2) -> list[Pair]:
    rng = np.random.default_rng(3)
    rows = [[" ".join(map(str, rng.integers(0, 101, 5))) for _ in range(2)] for _ in range(n)]
    made = [(model.prompt(a), model.prompt(b)) for a, b in rows]
    return [Pair(str(at), clean, other, (17,), (23,)) for at, (clean, other) in enumerate(made)]


@pytest.mark.parametrize("family", KNOWN)
def test_what_the_model_computes_is_bitwise_unchanged(family: str) -> None:
    model = tiny_model(family)
    ruled = relevance_model(model, RULES)
    ours, theirs = (one.run(TOKENS, logits="all", capture="mlp_act") for one in (ruled, model))
    assert mx.array_equal(ours.logits, theirs.logits)  # type: ignore[arg-type]
    assert mx.array_equal(ours.stack("mlp_act"), theirs.stack("mlp_act"))
    assert model.network is not ruled.network


@pytest.mark.parametrize("family", WITHOUT_BIAS)
def test_relevance_is_conserved_at_every_layer(family: str) -> None:
    """Where no bias is added, states times coefficients are the logit: under all four rules all is one product."""
    model = tiny_model(family)
    sites = ["resid_pre.0", "resid_post", "resid_mid"]
    found = relevance_model(model, RULES).gradients(TOKENS, metric, sites)
    clean = model.run(TOKENS, capture=sites)
    expected = float(metric(clean.logits)[0])  # type: ignore[arg-type]
    for site in found:
        assert float((found[site] * clean[site]).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-4), site
    slopes = model.gradients(TOKENS, metric, sites)
    assert float((slopes["resid_post.0"] * clean["resid_post.0"]).sum()) != pytest.approx(expected, rel=0.05)


def through_mlp(model: Model, rules: tuple[Rule, ...]) -> tuple[np.ndarray, ...]:
    """Gate and up of one position, and the coefficients by which a direction behind their product comes back."""
    net = relevance_model(model, rules).network
    rng = np.random.default_rng(0)
    gate, up, back = (mx.array(rng.normal(size=9).astype(np.float32)) for _ in range(3))
    by_gate, by_up = mx.grad(lambda g, u: (net.combined(0, g, u) * back).sum(), argnums=(0, 1))(gate, up)
    return tuple(np.asarray(x, np.float64) for x in (gate, up, back, by_gate, by_up))


def test_each_rule_of_a_gated_product_is_the_formula_of_the_paper(llama: Model) -> None:
    gate, up, back, by_gate, by_up = through_mlp(llama, ("activation", "half"))
    sigmoid = 1 / (1 + np.exp(-gate))
    assert np.allclose(by_gate, back * up * sigmoid / 2, atol=1e-6)
    assert np.allclose(by_up, back * gate * sigmoid / 2, atol=1e-6)
    _, _, _, by_gate, by_up = through_mlp(llama, ("activation",))
    assert np.allclose(by_gate, back * up * sigmoid, atol=1e-6)
    _, _, _, by_gate, by_up = through_mlp(llama, ("half",))
    assert np.allclose(by_gate, back * up * sigmoid * (1 + gate * (1 - sigmoid)) / 2, atol=1e-6)
    assert np.allclose(by_up, back * gate * sigmoid / 2, atol=1e-6)


def test_attention_held_constant_gives_queries_no_slope_and_values_their_pattern() -> None:
    model = tiny_model("qwen2")
    held, free = (
        relevance_model(model, rules).gradients(TOKENS, metric, ["q", "v.1"]) for rules in (RULES, RULES[:-1])
    )
    assert not mx.any(held["q.1"])
    assert mx.any(free["q.1"])
    assert mx.any(held["v.1"])


def test_the_edges_of_a_node_add_up_to_the_node_under_the_rules_too() -> None:
    for family in ("llama", "gemma2", "phi"):
        ruled = relevance_model(tiny_model(family))
        made = pairs_of(ruled)
        nodes, edges = node_scores(ruled, made, method="attribution"), edge_scores(ruled, made, method="attribution")
        assert np.abs(edges.sum(1) - nodes).max() < 1e-3 * max(1.0, float(np.abs(nodes).max()))
        assert np.array_equal(nodes, relevance_scores(tiny_model(family), made))


def test_weights_may_be_quantised() -> None:
    model = tiny_model("llama", hidden_size=64, head_dim=32, intermediate_size=96)
    nn.quantize(model.mlx_model, group_size=32, bits=4)
    scores = relevance_scores(model, pairs_of(model))
    assert np.isfinite(scores).all()
    assert not np.allclose(scores, node_scores(model, pairs_of(model), method="attribution"))


def test_rules_that_there_are_not_and_experts_are_refused(llama: Model) -> None:
    with pytest.raises(CircuitError, match="no rule 'norms': did you mean 'norm'"):
        relevance_model(llama, ("norms",))  # type: ignore[arg-type]
    with pytest.raises(CircuitError, match="no rules: that is attribution patching"):
        mi.circuits.relevance_scores(llama, pairs_of(llama), rules=())
    with pytest.raises(UnsupportedModel, match="the MLP of mixtral is made of experts"):
        relevance_model(tiny_model("mixtral"))
    for family in ("lfm2", "qwen3_5", "gemma4_text"):
        with pytest.raises(UnsupportedModel, match=f"{family}.* has parts that no rule is for"):
            relevance_model(tiny_model(family))
