"""Projections, separation and cosines are what they are called, and a judge's word stands beside the phrases'."""

from __future__ import annotations

import numpy as np
import pytest

import mlx_interp as mi
from experiments import exp4_confidence, exp10_crosslingual_refusal
from experiments.exp1_refusal_direction import selection
from experiments.exp4_confidence import calibration
from experiments.exp10_crosslingual_refusal.languages import DOSE, chosen_dose
from experiments.harness.options import parse
from experiments.harness.state import Run
from experiments.shared.traits import geometry, stages
from experiments.shared.traits.geometry import ANGLES, PLACES, TRAINED, silhouettes
from experiments.shared.traits.stages import Item, TraitConfig
from experiments.shared.traits.trait_records import DIRECTIONS, EFFECTS, STRENGTHS
from experiments.shared.traits.trait_report import strength_table
from mlx_interp.embedded import load_world, trained_refusal_direction
from mlx_interp.errors import ConfigError

CONFIG = TraitConfig(n_train=24, n_test=8)


def test_silhouettes_are_high_for_kinds_apart_and_zero_for_kinds_mixed() -> None:
    rng = np.random.default_rng(0)
    states, labels = rng.normal(size=(40, 8)), np.arange(40) % 2 == 0
    apart = states + 30 * labels[:, None]
    assert silhouettes(apart, labels).min() > 0.8
    assert abs(silhouettes(states, labels).mean()) < 0.1
    assert silhouettes(apart, rng.permutation(labels)).mean() < 0.2


def test_a_silhouette_is_that_of_its_definition() -> None:
    states, labels = np.array([[0.0], [1.0], [4.0], [6.0]]), np.array([True, True, False, False])
    np.testing.assert_allclose(
        silhouettes(states, labels), [(5 - 1) / 5, (4 - 1) / 4, (3.5 - 2) / 3.5, (5.5 - 2) / 5.5]
    )


def test_held_out_requests_are_told_by_their_projection_and_not_by_a_random_one() -> None:
    model = mi.load("tiny-llama")
    records = [
        {"stage": PLACES, **r} for r in geometry.measure_places(Run(model, CONFIG), Item("refusal", "refusal", layer=5))
    ]
    assert len(records) == 16
    table = geometry.place_table(records, CONFIG)
    separation = geometry.separation_table(records, CONFIG)
    assert table is not None
    assert separation is not None
    told, by_chance = (table.rows[0][i] for i in (9, 10))
    assert told.value == 1  # type: ignore[union-attr]
    assert by_chance.value < 1  # type: ignore[union-attr]
    own, null = separation.rows[0][4:6]
    assert own.low > null.high  # type: ignore[union-attr]


def test_the_direction_found_is_the_one_that_was_trained_in() -> None:
    model = mi.load("tiny-llama")
    (record,) = geometry.measure_angles(Run(model, CONFIG), Item("k", "refusal", TRAINED, layer=5))
    found = np.asarray(stages.vector(Run(model, CONFIG), Item("k", "refusal"), 5, "direction").vector)
    known = trained_refusal_direction(model.d_model)
    assert record["cosine"] == pytest.approx(found @ known / np.linalg.norm(found), abs=1e-5)
    assert record["cosine"] > 0.6 > abs(record["random"])


@pytest.mark.slow
def test_other_traits_are_compared_and_random_directions_beside_them() -> None:
    model = mi.load("tiny-qwen2")
    records = [
        {"stage": ANGLES, **next(iter(geometry.measure_angles(Run(model, CONFIG), item)))}
        for item in geometry.angle_items(("stance", "confidence"))(Run(model, CONFIG), [])
    ]
    table = geometry.angle_table(records, CONFIG)
    assert table is not None
    assert [row[:2] for row in table.rows] == [["stance", "confidence"], ["confidence", "stance"]]
    same = next(r for r in records if r["one"] == r["other"])
    assert same["cosine"] == pytest.approx(1, abs=1e-5)


def test_the_dose_is_the_least_that_suffices_in_every_language_in_which_any_does() -> None:
    def hits(target: str, **by_dose: int) -> list[dict]:  # type: ignore[type-arg]
        return [
            {"stage": DOSE, "target": target, "dose": int(dose[1:]) / 100, "hit": i < n}
            for dose, n in by_dose.items()
            for i in range(20)
        ]

    english, german = hits("en", d25=10, d50=19, d75=20), hits("de", d25=10, d50=18, d75=19)
    never = hits("it", d25=0, d50=1, d75=0)
    assert chosen_dose(english) == 0.5
    assert chosen_dose([*english, *german, *never]) == 0.75
    assert chosen_dose([*english, *hits("de", d25=20, d50=10, d75=12)]) == 0.75  # not at once: the best worst
    assert chosen_dose(never) == 0.5


@pytest.mark.parametrize("argument", ["--language=fr", "--languages=fr,it"])
def test_another_language_than_english_is_refused_before_anything_is_measured(argument: str) -> None:
    with pytest.raises(ConfigError, match=r"fr.*what others are compared with"):
        parse(exp10_crosslingual_refusal.EXPERIMENT, [argument])


def test_a_strength_at_which_nothing_is_a_number_is_marked_and_never_called_fluent() -> None:
    model = mi.load("tiny-llama")
    config = TraitConfig(n_train=24, n_test=4, new_tokens=4)
    records = [
        {"stage": DIRECTIONS, "trait": "refusal", "layer": 4, "arm": "direction", "norm": 1.0, "relative_norm": 1.0}
    ]
    for value in (0.0, 1e38):
        item = Item("k", "refusal", "every position", "test", layer=4, value=value)
        records += [{"stage": STRENGTHS, **r} for r in stages.measure_strength(Run(model, config), item)]
    assert {r["strength"]: r["finite"] for r in records[1:]} == {0.0: True, 1e38: False}
    table = strength_table(records, config)
    assert table is not None
    assert "At 1e+38 activations are not finite" in table.notes[-1]
    assert table.rows[0][2] == 0.0


def test_the_metric_table_tells_harmful_from_harmless() -> None:
    records = [
        {"stage": selection.SCORES, "score": score, "unit": f"{score} {i}", "plain": value + i}
        for score, value in (("bypass", 5.0), ("induce", -5.0))
        for i in range(4)
    ]
    table = selection.metric_table(records, CONFIG)
    assert table is not None
    assert table.rows[0][2:7] == [5.0, 5.75, 6.5, 7.25, 8.0]
    assert table.rows[2][7].value == 1  # type: ignore[union-attr]
    assert selection.metric_table([], CONFIG) is None


def test_stated_certainty_is_held_against_the_worlds_own_answers() -> None:
    chats = load_world().chat_prompts("certainty")
    certain, unsure = ([c for c in chats if c.label == label][:4] for label in ("certain", "unsure"))

    def record(text: str, kind: str, arm: str, layer: int | None, reply: str) -> dict:  # type: ignore[type-arg]
        return {"stage": EFFECTS, "trait": "confidence", "split": "test", "kind": kind, "arm": arm, "layer": layer} | {
            "unit": text,
            "hit": "I am certain" in reply,
            "text": reply,
        }

    chosen = [
        {**record("q", kind, "direction", 3, "I am certain: x."), "split": "choose", "hit": kind == "negative"}
        for kind in ("positive", "negative")
    ]
    records = [
        {"stage": DIRECTIONS, "trait": "confidence", "n_layers": 8},
        *chosen,
        *(record(c.text, "positive", "none", None, c.reply) for c in certain),
        *(record(c.text, "positive", "direction", 3, "I am not sure.") for c in certain),
        *(record(c.text, "negative", "direction", 3, "I am certain: Nothing.") for c in unsure),
    ]
    table = calibration.calibration_table(records, exp4_confidence.Config())
    assert table is not None
    found = [[getattr(cell, "value", cell) for cell in row] for row in table.rows]
    assert found[0] == ["answerable", "none", 4, 1, 1, 0]
    assert found[1] == ["answerable", "direction", 4, 0, 0, 0]
    assert found[2][1:] == ["direction", 4, 1, 0, 1]
