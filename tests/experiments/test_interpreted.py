"""exp20's neurons: which are active where is what the model computes; two explanations are scored on the same texts."""

from __future__ import annotations

import mlx_interp as mi  # isort: split

import numpy as np
import pytest

from experiments.exp20_instruments import Config, interpreted
from experiments.harness.state import Run
from mlx_interp.errors import DataError


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run[Config]:
    """An embedded model in the place of a trained one, with a judge that finds its explanation's first word."""
    monkeypatch.setattr(interpreted, "EMBEDDED", ())
    monkeypatch.setattr(interpreted, "explain", lambda _, shown: shown[0].tokens[-1])

    def judge(explanations: list[str], texts: list[str]) -> list[float]:
        return [float(explanation in text) for explanation, text in zip(explanations, texts, strict=True)]

    monkeypatch.setattr(interpreted, "judges", lambda _: (judge, judge))
    return Run(mi.load("tiny-llama"), Config(n_neurons=3, n_texts=80))


def test_neurons_are_active_above_their_quantile_and_as_the_model_computes_them(run: Run[Config]) -> None:
    prompts, values = interpreted.activations(run)
    assert len(prompts) == len(values) == 80
    where = interpreted.site(run)
    raw = [np.array(run.model.run(prompt, capture=where, logits="none")[where])[0] for prompt in prompts]
    every = np.concatenate([one[1:] for one in raw])
    for neuron in (0, 5):
        bound = max(np.quantile(every[:, neuron], interpreted.QUANTILE), 0)
        for one, value in zip(raw, values, strict=True):
            expected = np.where(one[:, neuron] > bound, one[:, neuron], 0)
            expected[0] = 0
            np.testing.assert_allclose(value[:, neuron], expected, atol=1e-4)


def test_an_explanation_and_the_next_one_are_scored_on_the_same_texts(run: Run[Config]) -> None:
    items = interpreted.neurons(run)
    assert len(items) == 3
    found = [list(interpreted.measure(run, item)) for item in items]
    assert [[row["arm"] for row in rows] for rows in found] == [[interpreted.OWN, interpreted.OTHER]] * 3
    assert [rows[0]["explanation"] for rows in found] == [found[n - 1][1]["explanation"] for n in range(3)]
    for rows in found:
        assert rows[0]["neuron"] == rows[1]["neuron"]
        assert rows[0]["texts"] == rows[1]["texts"] >= 2
    records = [
        {"stage": interpreted.STAGE, "item": item.key, **row}
        for item, rows in zip(items, found, strict=True)
        for row in rows
    ]
    scores, phrases = (table(records, run.config) for table in interpreted.TABLES)
    assert scores is not None
    assert phrases is not None
    assert [row[:2] for row in scores.rows] == [[interpreted.OWN, 3], [interpreted.OTHER, 3]]
    assert len(phrases.rows) == 3
    assert str(interpreted.headline(records, run.config)).startswith("neurons explained: detection")
    assert interpreted.headline([], run.config) is None


def test_too_few_neurons_are_an_error_that_names_the_options(run: Run[Config]) -> None:
    few = Run(run.model, Config(n_neurons=3, n_texts=3))
    with pytest.raises(DataError, match=r"--n-texts.*--n-neurons"):
        interpreted.drawn(few)


def test_a_model_without_a_chat_template_explains_nothing_and_another_may(run: Run[Config]) -> None:
    run.model.tokenizer.chat_template = None
    assert interpreted.neurons(run) == []
    assert len(interpreted.neurons(Run(run.model, Config(n_neurons=3, explainer="tiny-qwen2")))) == 3


def test_embedded_models_explain_nothing() -> None:
    assert interpreted.neurons(Run(mi.load("tiny-llama", check=False), Config())) == []
