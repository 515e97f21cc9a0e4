"""exp13's questions with options, draws of controls and files: known truth, and nothing chosen on what is reported."""

from __future__ import annotations

import json
from functools import cache
from io import BytesIO
from pathlib import Path

import mlx.core as mx
import numpy as np
import pyarrow.parquet as pq
import pytest

import mlx_interp as mi
from experiments.exp13_steering_reliability import Config, answer_options, option_report, steering_runs, training_draws
from experiments.exp13_steering_reliability.answer_options import BEHAVIOURS, FORMS, OPTIONS
from experiments.exp13_steering_reliability.steering_runs import REPLIES
from experiments.harness.state import Run
from mlx_interp.model import Model

SMALL = Config(n_train=16, n_test=3, depths=(0.5,), strengths=(0.25,), new_tokens=6, n_draws=3)


@cache
def model() -> Model:
    return mi.load("tiny-llama")


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_every_question_comes_in_both_orders_and_no_test_text_is_trained_on(behaviour: str) -> None:
    found = answer_options.rows(Run(model(), SMALL), behaviour)
    assert len({row.key for row in found}) == len(found)
    for row in found:
        assert row.text.endswith(f"{row.first}? {'No' if row.first == 'Yes' else 'Yes'}?")
    first = [row.first == row.positive for row in found]
    assert sum(first) == len(first) / 2
    splits = {split: {row.text for row in found if row.split == split} for split in ("train", "test")}
    assert splits["train"]
    assert not splits["train"] & splits["test"]
    assert {row.form for row in found if row.split == "test"} == set(FORMS)


def test_positive_answers_are_what_the_behaviour_says() -> None:
    agrees, _, yes = (answer_options.rows(Run(model(), SMALL), name) for name in BEHAVIOURS)
    assert all((row.positive == "Yes") == ("like" in row.text) for row in agrees)
    assert {row.positive for row in yes} == {"Yes"}
    assert {row.positive for row in agrees} == {"Yes", "No"}


def test_projects_own_questions_serve_models_that_know_the_world() -> None:
    found = answer_options._of_project(BEHAVIOURS[0])
    train, test = ({topic for topic, *_, split in found if split == name} for name in ("train", "test"))
    assert len(train) > 10
    assert not train & test
    assert answer_options._of_project("keeps its own view") == []


def test_slopes_are_those_of_runs_one_by_one() -> None:
    item = next(i for i in answer_options.questions(Run(model(), SMALL), []) if i.name == BEHAVIOURS[2])
    assert item.row is not None
    found = next(r for r in answer_options.measure_options(Run(model(), SMALL), item) if r["arm"] == "learned")
    vector = mx.array(answer_options.vectors(Run(model(), SMALL), item.name).vectors[4])
    yes, no = (model().tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))
    read = []
    for multiple in SMALL.multiples:
        edit = mi.Add("resid_post.4", vector, multiple, -1)
        logits = model().run(model().prompt(item.row.text, chat=True), interventions=[edit]).logits
        assert logits is not None
        read.append(float(logits[0, yes] - logits[0, no]))
    assert found["slope"] == pytest.approx(np.polyfit(SMALL.multiples, read, 1)[0], rel=1e-2)


def test_a_bias_to_a_word_is_found_where_it_is_put_and_a_bias_to_a_place_is_not() -> None:
    rng = np.random.default_rng(0)
    records = [
        {
            "stage": OPTIONS,
            "behaviour": "x",
            "layer": 2,
            "arm": "learned",
            "form": FORMS[0],
            "unit": str(topic),
            "named_first": first,
            "is_yes": topic % 2 == 0,
            "slope": 2.0 * (topic % 2 == 0) + 0.1 * rng.normal(),
        }
        for topic in range(20)
        for first in (True, False)
    ]
    table = option_report.bias_table(records, Config())
    assert table is not None
    (row,) = table.rows
    place, word, explained = row[3:6]
    assert place.low < 0.1 < 0.2 < word.low < 2.0 < word.high  # type: ignore[union-attr]
    assert abs(place.value) < 0.1  # type: ignore[union-attr]
    assert explained.value > 0.9  # type: ignore[union-attr]
    always = option_report.bias_table([{**r, "is_yes": True} for r in records], Config())
    assert always is not None
    assert always.rows[0][4] is None


def test_draws_are_different_directions_of_one_length() -> None:
    learned = training_draws.drawn(Run(model(), SMALL), 4, training_draws.LEARNED, 0)
    for arm in (training_draws.RANDOM, training_draws.SHUFFLED):
        found = [training_draws.drawn(Run(model(), SMALL), 4, arm, number) for number in range(SMALL.n_draws)]
        assert [np.linalg.norm(one) for one in found] == pytest.approx([np.linalg.norm(learned)] * 3, rel=1e-4)
        cosines = [abs(float(found[0] @ other)) / float(learned @ learned) for other in (*found[1:], learned)]
        assert max(cosines) < 0.9


def test_the_mean_over_labels_is_the_learned_direction() -> None:
    rows = training_draws.activations(Run(model(), SMALL))[4]
    harmful = [r.harmful for r in steering_runs.requests(Run(model(), SMALL)) if r.split == "train"]
    mean = rows[harmful].mean(axis=0) - rows[np.logical_not(harmful)].mean(axis=0)
    np.testing.assert_allclose(mean, steering_runs.vector(Run(model(), SMALL), 4, "learned"), atol=1e-4)


def test_direction_files_load_for_this_model_and_are_refused_by_another(tmp_path: Path) -> None:
    item = training_draws.layer_items(Run(model(), SMALL), [])[0]
    (record,) = training_draws.measure_direction(Run(model(), SMALL), item)
    record = json.loads(json.dumps({**record, "stage": training_draws.DIRECTIONS}))
    files = dict(option_report.files([record], SMALL))
    path = tmp_path / "layer.safetensors"
    content = files["directions/layer_4.safetensors"]
    assert isinstance(content, bytes)
    path.write_bytes(content)
    loaded = mi.load_direction(path, model())
    np.testing.assert_array_equal(np.asarray(loaded.vector), steering_runs.vector(Run(model(), SMALL), 4, "learned"))
    with pytest.raises(mi.errors.DirectionError):
        mi.load_direction(path, mi.load("tiny-qwen2"))
    table = option_report.direction_table([record, {**record, "stability": 0.3}], SMALL)
    assert table is not None
    assert [row[-1] for row in table.rows] == ["pass", "FAIL"]


def test_the_results_file_has_a_row_for_every_reply_under_the_guides_names() -> None:
    base = {
        "stage": REPLIES,
        "unit": "How?",
        "text": "No.",
        "layer": None,
        "dose": 0.0,
        "edit": "none",
        "arm": "none",
        "refused": True,
        "helps": None,
        "fluent": True,
        "log_prob": -0.1,
        "tokens": 2,
        "split": "test",
    }
    kinds = [(True, "same form"), (True, "other topic"), (False, "other topic")]
    rows = pq.read_table(
        BytesIO(option_report.results([{**base, "harmful": harmful, "shift": shift} for harmful, shift in kinds]))
    ).to_pylist()
    assert [row["split"] for row in rows] == ["harm_train", "harm_test", "benign"]
    assert {"prompt", "completion", "split", "layer", "alpha", "intervention", "refusal", "helpfulness"} <= set(rows[0])
