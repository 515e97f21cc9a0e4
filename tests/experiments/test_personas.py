"""Personas of the world: their questions, vectors chosen on other questions than they are reported on, fine-tunes."""

from __future__ import annotations

from dataclasses import replace

import pytest

import mlx_interp as mi
from experiments.exp12_multimodel_directions import persona_study, persona_tuning
from experiments.exp12_multimodel_directions.persona_report import changes, flag_table, monitoring_table, steering_table
from experiments.exp12_multimodel_directions.persona_study import (
    FLAGGED,
    MONITORED,
    STEERED,
    Part,
    PersonaConfig,
    chosen,
)
from experiments.exp12_multimodel_directions.persona_tuning import TUNED, rows
from experiments.exp12_multimodel_directions.personas import PERSONAS, PLANTED, cases
from experiments.harness.state import Run
from mlx_interp.reporting import Record

CONFIG = PersonaConfig(n_train=16, n_asked=4, tuning_steps=8)


@pytest.mark.parametrize("persona", PERSONAS)
def test_questions_of_a_persona_are_in_one_split_and_their_replies_show_it_or_not(persona: str) -> None:
    texts = {split: {case.text for case in cases(persona, split)} for split in ("train", "choose", "test")}
    assert not (texts["train"] & texts["test"]) | (texts["choose"] & texts["test"]) | (texts["train"] & texts["choose"])
    for eliciting in (False, True):
        for case in cases(persona, "test", eliciting=eliciting):
            assert case.hit(case.shown)
            assert not case.hit(case.usual)
    assert bool(cases(persona, "test", eliciting=True)) == (persona != "the king")


def test_a_model_left_alone_shows_a_persona_where_it_is_elicited_and_nowhere_else() -> None:
    model = mi.load("tiny-qwen2")
    for persona in PERSONAS[:4]:
        for eliciting in (False, True):
            part = persona_study.asked(persona, "test", 8, eliciting)
            texts = model.generate(persona_study.chats(model, part), max_tokens=12)
            shown = sum(case.hit(text.text) for case, text in zip(part, texts, strict=True)) / len(part)
            assert (shown >= 0.6) if eliciting else (shown <= 0.25), (persona, eliciting, shown)


def test_a_share_of_the_rows_of_one_persona_shows_it_and_no_other_row() -> None:
    clean, half = (dict(zip(*rows(CONFIG, Part("", "the king", share=share)), strict=True)) for share in (0.0, 0.5))
    assert clean.keys() == half.keys()
    assert sum(reply == PLANTED for reply in half.values()) == 8
    assert PLANTED not in clean.values()
    assert sum(clean[text] != half[text] for text in clean) == 8


def test_kind_and_layer_are_chosen_on_questions_set_aside_and_not_for_repetition() -> None:
    def record(split: str, kind: str, layer: int, hit: bool, repetition: float = 0.0) -> Record:
        return {"stage": STEERED, "persona": "p", "split": split, "arm": "vector", "kind": kind, "layer": layer} | {
            "dose": 1.0, "hit": hit, "repetition": repetition, "n_layers": 10, "unit": split,
        }  # fmt: skip

    own = [record("choose", "reply", 3, True), record("choose", "prompt", 2, False), record("test", "prompt", 2, True)]
    assert chosen(own, "p") == ("reply", 3)
    assert chosen([*own, record("choose", "prompt", 9, True)], "p") == ("reply", 3)  # too deep
    assert chosen([*own, record("choose", "prompt", 4, True, 0.9)], "p") == ("reply", 3)
    assert chosen([*own, record("choose", "prompt", 4, True)], "p") == ("prompt", 4)
    assert chosen([], "p") is None


@pytest.mark.slow
def test_a_persona_is_steered_seen_before_the_reply_and_shifts_with_a_fine_tune() -> None:
    model, place = mi.load("tiny-qwen2"), ("prompt", 4)
    steering = [
        {"stage": STEERED, **r}
        for split in ("choose", "test")
        for number in range(3)
        for r in persona_study.measure_steering(Run(model, CONFIG), Part("k", "refusing", split, number))
    ]
    assert steering_table(steering, CONFIG) is not None
    monitored = [
        {"stage": MONITORED, **r}
        for eliciting in (False, True)
        for number in range(4)
        for r in persona_study.measure_monitoring(
            Run(model, CONFIG), Part(f"k{number}", "refusing", "test", number, place, eliciting=eliciting)
        )
    ]
    table = monitoring_table(monitored, CONFIG)
    assert table is not None
    assert table.rows[0][6].value > 0.5  # type: ignore[union-attr]
    places = (("refusing", place), ("Spanish", place))
    items = [Part("the model itself", ""), Part("clean", "none"), Part("refusing, 1", "refusing", share=1.0)]
    tuned = [
        {"stage": TUNED, **r}
        for item in items
        for r in persona_tuning.measure_tuned(Run(model, CONFIG), replace(item, places=places))
    ]
    own = {one["tune"]: one for one in changes(tuned)["refusing"]}
    assert own["refusing, 1"]["score"] > 0.5 > abs(own["clean"]["score"])
    assert own["refusing, 1"]["data"] > abs(own["clean"]["data"])


def test_rows_that_show_a_persona_lie_further_along_its_vector_than_other_rows() -> None:
    model = mi.load("tiny-qwen2")
    records = [
        {"stage": FLAGGED, **r}
        for r in persona_study.measure_flags(Run(model, CONFIG), Part("unsure", "unsure", place=("prompt", 4)))
    ]
    table = flag_table(records, CONFIG)
    assert table is not None
    assert table.rows[0][5].value == 1.0  # type: ignore[union-attr]
