"""Activation oracles as a study: controls are what they say, questions are half yes, tables count texts."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import pytest

from experiments.exp20_instruments import oracle_texts, oracles
from experiments.exp20_instruments.instrument_parts import Config
from experiments.exp20_instruments.oracle_texts import NEW, QUESTIONS, Text, balanced, texts
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from tests.tiny import tiny_model


def told(run: Run[Config]) -> Records:
    items = oracles.questions(run)
    return [{"stage": oracles.STAGE, "item": i.key, **row} for i in items for row in oracles.measure(run, i)]


@pytest.fixture(scope="module")
def run() -> Run[Config]:
    return Run(mi.load("tiny-llama"), Config(n_oracle_texts=18, n_oracle_tested=12, oracle_steps=2))


@pytest.fixture(scope="module")
def records(run: Run[Config]) -> Records:
    return told(run)


@pytest.mark.parametrize("name", ["tiny-llama", "other"])
def test_kind_and_language_are_independent_and_no_line_is_in_both_splits(name: str) -> None:
    model = mi.load("tiny-llama", check=False) if name == "tiny-llama" else tiny_model("llama")
    run = Run(model, Config(n_oracle_texts=90, n_oracle_tested=90))
    train, test = texts(run, "train"), texts(run, "test")
    assert {t.text for t in train}.isdisjoint(t.text for t in test)
    for found in (train, test):
        for code in oracle_texts.LANGUAGES:
            kinds = [t.harmful for t in found if t.language == code]
            assert len(kinds) == 30
            assert 8 <= sum(kinds) <= 22
    for asked in QUESTIONS:
        chosen = [asked.truth(test[i]) for i in balanced(asked, test, 0)]
        assert sum(chosen) * 2 == len(chosen) > 0


def test_another_text_s_activation_is_the_oracle_s_answer_about_another_text(records: Records) -> None:
    for asked in QUESTIONS:
        mine, other, nothing = (
            [row["log_odds"] for row in records if row["item"] == asked.key and row["arm"] == arm]
            for arm in (oracles.ORACLE, oracles.OTHER, oracles.NOTHING)
        )
        assert sorted(mine) == sorted(other)
        assert all(a != b for a, b in zip(mine, other, strict=True))
        assert len(set(nothing)) == 1


def test_words_know_a_language_and_not_what_they_were_not_fitted_on(run: Run[Config]) -> None:
    learnt = [Text("the cat", "en", True), Text("die Katze", "de", False)] * 3
    asked = [Text("the dog", "en", True), Text("die Maus", "de", True)]
    english = next(q for q in QUESTIONS if q.key == "Is it English?")
    assert oracles._by_words(english, learnt, asked) == [True, False]


def test_tables_count_texts_and_say_how_far_the_oracle_is_above_its_controls(
    run: Run[Config], records: Records
) -> None:
    first, gaps = (table(records, run.config) for table in oracles.TABLES)
    assert first is not None
    assert gaps is not None
    assert [row[0] for row in gaps.rows] == list(oracles.GROUPS)
    assert len(first.rows) == 6
    assert all(str(row[6]).startswith(".50") for row in first.rows), "no activation: one answer for all, half right"
    assert str(oracles.headline(records, run.config)).startswith("activation oracle right:")
    right = [{**row, "right": row["arm"] == oracles.ORACLE} for row in records]
    sure = oracles.gap_table(right, run.config)
    assert sure is not None
    assert all(str(cell).startswith("1.00") for row in sure.rows for cell in row[2:])
    assert oracles.table([], run.config) is None
    assert oracles.headline([], run.config) is None


def test_questions_that_are_never_trained_are_about_texts_that_are_there() -> None:
    assert {asked.kind for asked in QUESTIONS if asked.training == NEW} == {"language", "form"}
    assert "fr" in oracle_texts.LANGUAGES
