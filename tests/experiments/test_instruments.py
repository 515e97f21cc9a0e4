"""exp20: what is compared are effects of the same nodes, and pairs differ in one thing."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp20_instruments import Config, estimates, wiring_by_weights
from experiments.exp20_instruments.hop_pairs import hop_pairs
from experiments.harness.state import Run
from mlx_interp.circuits import node_effects, wiring
from mlx_interp.errors import DataError
from tests.tiny import tiny_model


@pytest.fixture(scope="module")
def run() -> Run[Config]:
    return Run(mi.load("tiny-llama"), Config(n_pairs=3, n_repeated=2, estimators=("RelP", "attribution")))


def test_a_pair_is_two_questions_of_one_family_and_length_with_other_answers(run: Run[Config]) -> None:
    pairs = hop_pairs(run)
    assert len(pairs) == len({pair.key for pair in pairs}) == 3
    for pair in pairs:
        assert pair.clean.text != pair.counterfactual.text
        logits = run.model.run(pair.clean).logits
        assert logits is not None
        assert int(logits[0].argmax()) == pair.answers[0] != pair.wrong[0]


def test_a_model_that_answers_nothing_is_told_so() -> None:
    model = mi.load("tiny-llama")
    model.network.decoder.norm.weight = mx.zeros_like(model.network.decoder.norm.weight)
    with pytest.raises(DataError, match=r"answers 0 of .* single-hop questions"):
        hop_pairs(Run(model, Config(n_pairs=2)))


def test_perfect_estimates_agree_and_shuffled_ones_do_not() -> None:
    exact = np.random.default_rng(0).normal(size=60)
    same = estimates._agreement("RelP", "heads", 2 * exact, exact, exact[::-1])
    assert (same["pearson"], same["recall"]) == (pytest.approx(1), 1.0)
    assert abs(same["other"] or 0) < 0.5
    other = estimates._agreement("RelP", "heads", exact[::-1], exact, exact)
    assert abs(other["pearson"] or 0) < 0.5
    assert other["recall"] < 0.5


def test_estimates_stand_beside_the_effects_of_the_very_nodes(run: Run[Config]) -> None:
    pair = hop_pairs(run)[0]
    rows = list(estimates.measure(run, pair))
    assert {(row["estimator"], row["kind"], row["nodes"]) for row in rows} == {
        (name, kind, n) for name in ("RelP", "attribution") for kind, n in (("heads", 32), ("MLPs", 8))
    }
    attribution = next(row for row in rows if row["estimator"] == "attribution" and row["kind"] == "heads")
    wires = wiring(run.model.network)
    exact = node_effects(run.model, [pair], [(n, None) for n in range(wires.n_nodes)])[0]
    scores = mi.circuits.node_scores(run.model, [pair], method="attribution")[0]
    heads = np.concatenate([np.arange(wires.n_nodes)[wires.heads(layer)] for layer in range(8)])
    assert attribution["pearson"] == pytest.approx(np.corrcoef(scores[heads], exact[heads])[0, 1], abs=1e-5)


def test_a_head_that_attends_to_one_token_and_writes_its_embedding_is_measured_as_copying() -> None:
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 48}
    run = Run(tiny_model("gemma", **sizes), Config(n_repeated=3))
    attention = run.model.network.layers[0].self_attn
    value = np.asarray(attention.v_proj.weight)[32:]
    output = np.array(attention.o_proj.weight)
    output[:, 32:] = 5 * value.T
    attention.o_proj.weight = mx.array(output)
    did, (copying, composed, _) = wiring_by_weights.behaviour(run), wiring_by_weights.by_weights(run)
    assert copying[0].argmax() == did.copied[0].argmax() == 1
    assert did.copied[0, 1] > 1 > did.copied_other[0, 1]
    rows = list(wiring_by_weights.measure(run, wiring_by_weights.Layer(2)))
    assert rows[1]["composed"] in composed[:2, :, 2, 1]
    assert next(iter(wiring_by_weights.measure(run, wiring_by_weights.Layer(0))))["composed"] is None
