"""The world's own questions of two answers: splits apart, vectors at one dose, and what transfers between layers."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_interp as mi
from experiments.exp2_sycophancy import caa, pushback
from experiments.harness.state import Run
from experiments.shared.traits import world_choices
from experiments.shared.traits.choices import ChoiceConfig, Question, answered, asked, bos, dose, matching
from experiments.shared.traits.stages import Item
from experiments.shared.traits.world_choices import BEHAVIOURS, KNOWN
from mlx_interp.errors import DataError

SPLITS = ("train", "choose", "test")
CONFIG = ChoiceConfig(n_train=16, n_test=4)


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_no_question_of_the_world_is_in_two_splits_and_its_answers_part(name: str) -> None:
    texts = {split: {one.question for one in world_choices.choices(name, split)[0]} for split in SPLITS}
    assert not (texts["train"] & texts["choose"]) | (texts["train"] & texts["test"]) | (texts["choose"] & texts["test"])
    assert min(map(len, texts.values())) >= 16
    model = mi.load("tiny-llama")
    for one in asked(name, "test", 8, 0)[0]:
        tokens, parts, last = answered(model, one)
        assert len(set(parts.values())) == 2
        assert tokens[: last + 1] == model.prompt(one.question, chat=True).tokens


def test_a_behaviour_that_the_world_does_not_have_is_named() -> None:
    with pytest.raises(DataError, match="did you mean 'world-refusal'"):
        world_choices.choices("world-refusl", "test")
    assert all(not one.chat and one.matching != one.other for one in world_choices.choices(KNOWN, "test")[0])


@pytest.mark.slow
def test_all_behaviours_have_one_dose_at_a_layer() -> None:
    model = mi.load("tiny-llama")
    lengths = [np.linalg.norm(dose(Run(model, CONFIG), name, 3)) for name in BEHAVIOURS]
    assert lengths == pytest.approx([lengths[0]] * len(BEHAVIOURS), rel=1e-5)


def test_a_vector_after_its_own_layer_does_what_the_sweep_of_layers_says() -> None:
    model = mi.load("tiny-llama")
    item = Question("q", "world-confidence", "world-confidence", "test", 1, 2)
    records = list(caa.measure_transfer(Run(model, CONFIG), item))
    (own,) = (r for r in records if r["layer"] == r["target"] == 2)
    one = asked(item.source, "test", CONFIG.n_test, CONFIG.seed)[0][1]
    vector = dose(Run(model, CONFIG), item.behaviour, 2)
    _, less, more = matching(model, one, [(2, vector, -1.0), (2, vector, 1.0)])
    assert own["gap"] == pytest.approx(more - less, abs=1e-4)
    assert len(records) == model.n_layers**2


def test_answers_lie_apart_on_their_vector_and_the_question_between() -> None:
    model = mi.load("tiny-llama")
    item = Question("q", "world-confidence", "world-confidence", "test", 0, 2)
    found = {
        r["place"]: r["projection"] for r in caa.measure_tokens(Run(model, CONFIG), item) if r["arm"] == "direction"
    }
    assert found["answer that shows it"] > max(found["question"], 0) > found["other answer"]
    (geometry,) = caa.measure_geometry(Run(model, CONFIG), item)
    assert np.mean(geometry["silhouettes"]) > 0.5 > abs(np.mean(geometry["shuffled"]))
    assert geometry["to"]["world-confidence"] == pytest.approx(1)


def test_turns_before_a_question_are_other_questions_with_their_answers() -> None:
    model = mi.load("tiny-llama")
    found = caa.contexts(Run(model, CONFIG), "world-yes", 0)
    assert list(found) == ["none", "2 turns, matching", "2 turns, other"]
    text = found["2 turns, matching"][0]
    assert text.count(bos(model)) == 1
    assert text.count("Yes<end_of_turn>") == 2
    one = asked("world-yes", "test", CONFIG.n_test, CONFIG.seed)[0][0]
    tokens, _, _ = answered(model, one, text)
    assert tokens.count(model.tokenizer.bos_token_id) == 1
    assert model.prompt(one.question, chat=True).tokens[1:] == tokens[-len(model.prompt(one.question, chat=True)) + 1 :]


@pytest.mark.slow
def test_a_second_turn_flips_an_answer_only_if_the_user_feels_otherwise() -> None:
    model = mi.load("tiny-qwen2")
    records = [
        {"stage": pushback.PUSHBACK, **r}
        for r in pushback.measure(Run(model, ChoiceConfig(n_train=16)), Item("k", "stance", "yielding", layer=4))
    ]
    flips = {
        second: [r["hit"] for r in records if r["second"] == second and r["edit"] == "plain"]
        for second in pushback.SECOND
    }
    again, otherwise, same = (sum(found) / len(found) for found in flips.values())
    assert max(again, same) < 0.15 < 0.3 < otherwise
    made = pushback.table(records, CONFIG)
    assert made is not None
    assert [row[2] for row in made.rows] == list(pushback.SECOND)
