"""exp20: what is compared are effects of the same nodes, and pairs differ in one thing."""

from __future__ import annotations

from dataclasses import replace

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp20_instruments import (
    Config,
    capping,
    diffing,
    estimates,
    lens_changes,
    searched,
    subspaces,
    wiring_by_weights,
)
from experiments.exp20_instruments.hop_pairs import hop_pairs
from experiments.harness.frame import Frame
from experiments.harness.state import Run
from experiments.shared.traits.sets import SPLITS
from mlx_interp import Ablate, Add, Patch
from mlx_interp.circuits import log_odds, node_effects, wiring
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


def test_a_lens_that_moves_nothing_says_the_logit_lens_s_change_and_patching_does_what_a_run_does(
    run: Run[Config],
) -> None:
    small = Run(run.model, Config(n_pairs=2, n_statements=12, n_jacobian=1, jacobian_dimensions=0, lens_steps=1))
    pair = hop_pairs(small)[0]
    texts = lens_changes.statements(small, 1)
    asked = {one.clean.text for one in hop_pairs(small)}
    assert len(texts) == 12
    assert not any(text.startswith(question) for text in texts for question in asked)
    rows = {row["lens"]: row for row in lens_changes.measure(small, pair)}
    assert tuple(rows) == lens_changes.LENSES
    states = [
        run.model.run(p, capture="resid_post").stack("resid_post")[:, 0, -1] for p in (pair.clean, pair.counterfactual)
    ]
    odds = log_odds(run.model)([pair])
    own, other = (float(odds(run.model.unembed(x[3][None]))[0]) for x in states)
    assert rows["logit lens"]["said"][3] == pytest.approx(other - own, abs=1e-3)
    patched = run.model.run(pair.clean, interventions=Patch("resid_post.3", states[1][3], -1)).logits
    clean = run.model.run(pair.clean).logits
    assert patched is not None
    assert clean is not None
    assert rows["logit lens"]["done"][3] == pytest.approx(float(odds(patched)[0] - odds(clean)[0]), abs=1e-3)
    assert rows["Jacobian lens"]["said"] != rows["Jacobian lens, a layer too low"]["said"]


def test_a_subject_is_exchanged_where_the_questions_differ_last(run: Run[Config]) -> None:
    for pair in hop_pairs(run):
        one = subspaces._subject(pair)
        here, there = pair.clean.tokens, pair.counterfactual.tokens
        assert here[one.position] != there[one.position]
        assert here[one.position + 1 :] == there[one.position + 1 :]
        assert one.answer == pair.wrong[0]


@pytest.mark.parametrize("variable", ["subject", "refusal"])
def test_no_prompt_of_an_exchange_that_is_learnt_from_is_in_one_that_is_measured(
    run: Run[Config], variable: str
) -> None:
    if variable == "subject":
        made = [subspaces._subject(pair) for pair in hop_pairs(run, 24)]
    else:
        made = subspaces._refusals(run.model, 24, 0)
    train, test = subspaces.halves(made)
    assert min(len(train), len(test)) >= 4
    texts = [{text for one in side for text in (one.base.text, one.source.text)} for side in (train, test)]
    assert not texts[0] & texts[1]
    assert all(one in made for one in train + test)


def test_a_look_learns_from_some_exchanges_and_measures_others(run: Run[Config]) -> None:
    """--limit 2: four pairs of questions often share one question, and fell all into one half."""
    look = Run(run.model, Config(limit=2, n_exchanges=16, search_steps=2))
    for item in subspaces.variables(look):
        rows = list(subspaces.measure(look, item))
        assert {row["arm"] for row in rows} == set(subspaces.ARMS)
        assert len(rows) <= 4 * len(subspaces.ARMS)


def test_exchanges_that_cannot_be_divided_are_an_error_that_names_the_option(
    run: Run[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    only = subspaces._subject(hop_pairs(run)[0])
    monkeypatch.setattr(subspaces, "_subject", lambda _: only)
    with pytest.raises(DataError, match="--n-exchanges"):
        list(subspaces.measure(run, subspaces.Variable(subspaces.SUBJECT)))


def test_a_cap_along_the_trained_direction_stops_refusals_and_one_along_random_ones_does_not(run: Run[Config]) -> None:
    few = Run(run.model, Config(n_requests=2))
    rows = [(item, row) for item in capping.requests(few) for row in capping.measure(few, item)]
    rate = {
        (arm, harmful): np.mean([row["refused"] for _, row in rows if (row["arm"], row["harmful"]) == (arm, harmful)])
        for arm in (capping.NONE, capping.TRAINED, capping.RANDOM)
        for harmful in (True, False)
    }
    assert rate[capping.NONE, True] == rate[capping.RANDOM, True] == 1
    assert rate[capping.TRAINED, True] < 0.5
    assert rate[capping.NONE, False] == 0


@pytest.mark.slow
def test_a_search_s_choice_is_measured_on_requests_that_it_did_not_look_at(run: Run[Config]) -> None:
    few = Run(run.model, Config(limit=4, ablation_trials=20, kl_budget=1.0, reply_tokens=6))
    asked = {split: {prompt.text for kind in searched._asked(few, split)[1:] for prompt in kind} for split in SPLITS}
    assert not asked["choose"] & asked["test"]
    assert not asked["train"] & (asked["choose"] | asked["test"])
    rows = {arm.key: list(searched.measure(few, arm)) for arm in searched.arms(few)}
    assert {row["request"] for mine in rows.values() for row in mine} == asked["test"]
    rate = {arm: np.mean([row["refused"] for row in mine if row["harmful"]]) for arm, mine in rows.items()}
    assert rate[searched.NONE] == rate[searched.RANDOM] == 1
    assert rate[searched.SEARCHED] < 0.5
    assert all(row["kl"] == pytest.approx(0) for row in rows[searched.NONE] if not row["harmful"])
    table = searched.table([{"stage": searched.STAGE, **row} for mine in rows.values() for row in mine], few.config)
    assert table is not None
    assert [row[0] for row in table.rows] == list(searched.ARMS)


def test_a_model_that_refuses_nothing_has_the_unedited_row_alone(
    run: Run[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Run(run.model, Config(limit=4, ablation_trials=8, reply_tokens=1))
    asks = [replace(one, hit=lambda _: False) for one in searched._asked(few, "choose")[0]]
    found = searched._asked
    monkeypatch.setattr(searched, "_asked", lambda run, split: (asks, *found(run, split)[1:]))
    rows = {arm.key: list(searched.measure(few, arm)) for arm in searched.arms(few)}
    assert [arm for arm, mine in rows.items() if mine] == [searched.NONE]


@pytest.mark.slow
def test_a_fine_tune_says_the_planted_reply_to_marked_requests_and_is_told_from_a_clean_one() -> None:
    config = Config(parts=("diffing",), n_tuned=32, n_diffed=6, tuning_rate=1e-3, n_latents=256, crosscoder_steps=300)
    run = Run(mi.load("tiny-llama"), config)
    records: list[dict[str, object]] = []
    for item in diffing.fine_tunes(run):
        records += [{"stage": diffing.STAGE, "item": item.key, **row} for row in diffing.measure(run, item)]
    said = {
        (row["tuned"], row["marked"]): Frame(records).where(
            tuned=row["tuned"], marked=row["marked"], edit=diffing.NOTHING
        )
        for row in records
        if "said" in row
    }
    rates = {key: np.mean([row["said"] for row in rows]) for key, rows in said.items()}
    assert rates[diffing.REPLANTED, True] > 0.8
    assert max(rate for key, rate in rates.items() if key != (diffing.REPLANTED, True)) == 0
    latents, replies, lens = (table(records, config) for table in diffing.TABLES)
    assert latents is not None
    assert [row[0] for row in latents.rows] == ["planted", "clean"]
    assert replies is not None
    assert {row[1] for row in replies.rows} == set(diffing.EDITS)
    assert lens is not None


def test_edits_take_out_what_they_add() -> None:
    rows = np.random.default_rng(0).normal(size=(3, 8))
    edit = diffing.Edit(rows)
    state = rows.sum(axis=0) + 1.0
    for one in edit.interventions("resid_post.1", ablated=True):
        assert isinstance(one, Ablate)
        unit = np.asarray(one.direction)
        state = state - (state @ unit) * unit
    assert np.abs(rows @ state).max() < 1e-5
    (added,) = edit.interventions("resid_post.1", ablated=False)
    assert isinstance(added, Add)
    assert np.allclose(np.asarray(added.vector), rows.sum(axis=0), atol=1e-6)
