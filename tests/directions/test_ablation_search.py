"""Ablation by search: divergences against single runs, and a planted direction at no more cost than plainly."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Ablate, Model, directions
from mlx_interp.directions.ablation_search import PLAIN, AblationTrial, Profile, edits_of
from mlx_interp.embedded import load_world
from mlx_interp.embedded.world import trained_refusal_direction
from mlx_interp.errors import DataError, DirectionError, ShapeError

TRIALS = 16


@pytest.fixture(scope="module")
def chat() -> Model:
    return mi.load("tiny-llama")


@pytest.fixture(scope="module")
def asked(chat: Model) -> dict[tuple[bool, str], list[mi.Prompt]]:
    """Requests by whether they are harmful, and by whether the search looks at them."""
    world = load_world()
    found = {}
    for harmful in (True, False):
        every = world.chat_prompts("refusal", language="en", split="train", harmful=harmful)
        prompts = [chat.prompt(one.text, chat=True) for one in every]
        found[harmful, "search"], found[harmful, "held out"] = prompts[:8], prompts[8:20]
    return found


@pytest.fixture(scope="module")
def search(chat: Model, asked: dict[tuple[bool, str], list[mi.Prompt]]) -> directions.AblationSearch:
    planted = np.tile(trained_refusal_direction(chat.d_model), (chat.n_layers, 1))
    return directions.search_ablation(
        chat, planted, asked[True, "search"], asked[False, "search"], trials=TRIALS, kl_budget=0.5, max_tokens=6
    )


def test_a_fraction_takes_so_much_of_the_component_and_all_of_it_by_default(llama: Model) -> None:
    r = np.random.default_rng(0).normal(size=llama.d_model).astype(np.float32)
    unit = r / np.linalg.norm(r)

    def left(*fraction: float) -> float:
        edit = Ablate("resid_post.1", mx.array(r), None, None, *fraction)
        state = llama.run([3, 5, 7], capture="resid_post.1", interventions=[edit])["resid_post.1"]
        return float(np.asarray(state)[0, 1] @ unit)

    plain = float(np.asarray(llama.run([3, 5, 7], capture="resid_post.1")["resid_post.1"])[0, 1] @ unit)
    assert [left(), left(1.0), left(0.25), left(2.0)] == pytest.approx([0, 0, 0.75 * plain, -plain], abs=1e-5)
    variants = [[Ablate("resid_post.1", mx.array(r), fraction=part)] for part in (0.25, 1.0)]
    swept = np.asarray(llama.sweep([3, 5, 7], variants, capture="resid_post.1")["resid_post.1"])[:, 1] @ unit
    assert swept == pytest.approx([0.75 * plain, 0], abs=1e-5)
    with pytest.raises(ShapeError, match="zero ablation has no fraction"):
        llama.run([3, 5, 7], interventions=[Ablate("z.1", fraction=0.5)])


def test_a_profile_falls_in_a_line_and_ends() -> None:
    found = Profile(most=1.0, peak=3.0, least=0.2, distance=2.0).fractions(8)
    assert found == pytest.approx([0, 0.2, 0.6, 1.0, 0.6, 0.2, 0, 0])


def test_edits_are_each_layer_s_own_or_one_layer_s_direction(llama: Model) -> None:
    table = np.random.default_rng(1).normal(size=(3, llama.d_model))
    narrow, flat = Profile(0.5, 1.0, 0.5, 0.5), Profile(1.0, 0.0, 1.0, 3.0)
    own = edits_of(AblationTrial(None, (narrow, flat), plain=False), table)
    assert [(edit.site, edit.fraction) for edit in own] == [
        ("attn_out.1", 0.5),
        *((f"mlp_out.{layer}", 1.0) for layer in range(3)),
    ]
    assert np.asarray(own[2].direction) == pytest.approx(table[1], rel=1e-6)
    one = edits_of(AblationTrial(2, (narrow, flat), plain=False), table)
    assert all(np.asarray(edit.direction) == pytest.approx(table[2], rel=1e-6) for edit in one)


def test_a_layer_where_the_prompts_do_not_differ_yet_is_left_alone(llama: Model) -> None:
    table = np.random.default_rng(1).normal(size=(3, llama.d_model))
    table[0] *= 1e-7
    found = directions.search_ablation(llama, table, [[1]], [[2]], trials=6, shows=lambda _: True, max_tokens=1)
    assert {edit.site for edit in found.interventions(found.trials[0])} == {
        f"{site}.{layer}" for site in ("attn_out", "mlp_out") for layer in (1, 2)
    }


def test_divergences_are_those_of_single_runs(llama: Model) -> None:
    edits = [Ablate(f"resid_post.{layer}", mx.sin(mx.arange(llama.d_model)), fraction=1.5) for layer in range(3)]
    prompts = [[3, 5, 7, 11], [2, 9], [4, 4, 17]]
    found = directions.ablation_effect(llama, edits, prompts[:1], prompts, shows=lambda _: False, max_tokens=1)[1]
    for prompt, divergence in zip(prompts, found, strict=True):
        raw = [np.asarray(llama.run(prompt, interventions=one).logits[0], dtype=np.float64) for one in ([], edits)]
        p, q = (np.exp(logits) / np.exp(logits).sum() for logits in raw)
        assert divergence == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-3)
    assert min(found) > 1e-2


def test_the_planted_direction_is_taken_out_on_held_out_requests_at_no_more_divergence_than_plainly(
    chat: Model, asked: dict[tuple[bool, str], list[mi.Prompt]], search: directions.AblationSearch
) -> None:
    assert search.unedited_rate > 0.8
    assert (search.best.rate, search.best.kl) <= (search.best_plain.rate, search.best_plain.kl)
    assert search.best.rate < 0.2
    edits = search.interventions(search.best)
    hits, divergences = directions.ablation_effect(
        chat, edits, asked[True, "held out"], asked[False, "held out"], max_tokens=6
    )
    assert np.mean(hits) < 0.3
    assert np.mean(divergences) < 2 * search.kl_budget


def test_the_same_seed_tries_the_same_and_the_best_stays_within_the_budget(search: directions.AblationSearch) -> None:
    assert len(search.trials) == TRIALS
    assert [trial.plain for trial in search.trials[: len(PLAIN) + 1]] == [True] * len(PLAIN) + [False]
    within = [trial for trial in search.trials if trial.kl <= search.kl_budget]
    assert search.best in within
    assert search.best.rate == min(trial.rate for trial in within)


def test_a_random_direction_takes_no_refusals_out(chat: Model, asked: dict[tuple[bool, str], list[mi.Prompt]]) -> None:
    drawn = np.random.default_rng(2).normal(size=(chat.n_layers, chat.d_model))
    found = directions.search_ablation(
        chat, drawn, asked[True, "search"], asked[False, "search"], trials=8, kl_budget=0.5, max_tokens=6
    )
    assert found.best.rate > 0.8


def test_mistakes_are_named(llama: Model) -> None:
    ones = np.ones((llama.n_layers, llama.d_model))
    with pytest.raises(DirectionError, match=r"directions \(3, 5\)"):
        directions.search_ablation(llama, ones[:, :5], [[1]], [[2]])
    with pytest.raises(DirectionError, match="have no length in any layer"):
        directions.search_ablation(llama, ones * 0, [[1]], [[2]])
    with pytest.raises(DataError, match="6 trials or more"):
        directions.search_ablation(llama, ones, [[1]], [[2]], trials=3)
    with pytest.raises(DataError, match="nothing to ablate"):
        directions.search_ablation(llama, ones, [[1]], [[2]], shows=lambda _: False, max_tokens=1)
    strict = directions.search_ablation(
        llama, ones, [[1]], [[2]], trials=6, kl_budget=-1.0, shows=lambda _: True, max_tokens=1
    )
    with pytest.raises(DirectionError, match="none of 6 trials stays within -1 nats"):
        _ = strict.best
