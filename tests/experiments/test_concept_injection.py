"""Concept injection: a concept pushed straight at the logits is named, a random vector is not."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import mlx.core as mx
import numpy as np
import pytest

from experiments.exp20_instruments import Config, concept_injection
from experiments.harness.state import Run
from mlx_interp.errors import DataError
from tests.tiny import tiny_model

WORDS = ("Paris", "Rome", "Berlin", "Madrid", "Tokyo", "Cairo")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run[Config]:
    """An embedded model, asked for words that it has."""
    monkeypatch.setattr(concept_injection, "EMBEDDED", ())
    monkeypatch.setattr(concept_injection, "CONCEPTS", WORDS)
    return Run(mi.load("tiny-llama"), Config(n_concepts=2, injection_strengths=(1.0, 4.0)))


def test_embedded_models_have_no_concepts() -> None:
    assert concept_injection.concepts(Run(mi.load("tiny-llama", check=False), Config())) == []


def test_a_push_at_the_logits_is_named_and_a_random_one_is_not(
    run: Run[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The truth: at the last layer, a word's row of the unembedding, long enough, makes it the likeliest."""
    last = run.model.n_layers - 1
    rows = np.array(run.model.network.unembed(mx.eye(run.model.d_model)[None], capped=False))[0].T
    tokens = concept_injection.first_tokens(run)
    pushes = {word: 200 * rows[token] / np.linalg.norm(rows[token]) for word, token in tokens.items()}
    monkeypatch.setattr(concept_injection, "layers", lambda _: [last])
    monkeypatch.setattr(concept_injection, "vectors", lambda _: {last: pushes})
    found = [row for item in concept_injection.concepts(run) for row in concept_injection.measure(run, item)]
    assert len(found) == 2 * 3 * (1 + 2 * 2 * 2)
    pushed = [r for r in found if r["place"] == "to the end" and r["named"] is not None]
    assert all(r["named"] for r in pushed if r["arm"] == concept_injection.CONCEPT)
    assert not all(r["named"] for r in pushed if r["arm"] == concept_injection.RANDOM)
    apart = [r for r in found if r["place"] == "sentence" and r["question"] == concept_injection.NOTICE]
    assert all(r["noticed"] == 0 for r in apart), "at the last layer an earlier position changes nothing"


def test_vectors_are_added_at_the_sentence_or_from_it_on(run: Run[Config]) -> None:
    for question in concept_injection.QUESTIONS:
        prompt = concept_injection.asked(run, question)
        places = prompt.find(concept_injection.BEFORE)
        assert places == list(range(places[0], places[-1] + 1))
        assert 0 < places[0] < places[-1] < len(prompt) - 4
        text = prompt.text[prompt.spans[places[0]][0] : prompt.spans[places[-1]][1]]
        assert text.strip() == concept_injection.BEFORE


def test_concepts_that_begin_alike_are_refused(run: Run[Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concept_injection, "CONCEPTS", (*WORDS, "Paris Paris"))
    with pytest.raises(DataError, match="Paris, Paris Paris begin with one token"):
        concept_injection.first_tokens(run)


def test_a_table_has_a_row_a_cell_and_counts_concepts(run: Run[Config]) -> None:
    records = [
        {"stage": concept_injection.STAGE, "item": item.key, **row}
        for item in concept_injection.concepts(run)
        for row in concept_injection.measure(run, item)
    ]
    table = concept_injection.table(records, run.config)
    assert table is not None
    assert len(table.rows) == 2 * len(concept_injection.layers(run.model.n_layers)) * 2
    assert {row[3] for row in table.rows} == {2}
    assert "when asked for" in str(concept_injection.headline(records, run.config))
    assert concept_injection.headline([], run.config) is None


def test_a_concept_vector_is_a_state_less_the_others() -> None:
    model, site = mi.load("tiny-llama", check=False), "resid_post.3"
    found = mi.directions.concept_vectors(model, WORDS, site, frame="The capital is {}", chat=False)
    prompts = [f"The capital is {word}" for word in WORDS]
    states = np.array([np.array(model.run(prompt, capture=site, logits="none")[site])[0, -1] for prompt in prompts])
    for number, word in enumerate(WORDS):
        np.testing.assert_allclose(found[word], states[number] - np.delete(states, number, 0).mean(0), atol=1e-4)
    np.testing.assert_allclose(sum(found.values()), 0, atol=1e-3)


def test_too_few_words_or_a_sentence_without_a_place_are_refused() -> None:
    model = tiny_model("llama")
    for words, frame, said in (
        (WORDS[:3], "{}", "four or more"),
        ((*WORDS, "Rome"), "{}", "each once"),
        (WORDS, "x", "has no {}"),
    ):
        with pytest.raises(DataError, match=said):
            mi.directions.concept_vectors(model, words, "resid_post.0", frame=frame)
