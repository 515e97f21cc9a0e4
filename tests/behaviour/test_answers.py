"""Answers: by first token and by whole name, against greedy decoding written out."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

import mlx_interp as mi
from mlx_interp.behaviour.answers import Question, answer_scores, name_scores, question, verdicts
from mlx_interp.continuations import space_before
from mlx_interp.errors import DataError
from mlx_interp.interventions import Add
from mlx_interp.lenses.logit import first_layer, lens_ranks, logit_lens
from mlx_interp.model import Model
from mlx_interp.stats.held_out import held_out_choice, oracle

PROMPTS = ["3 5 7 11", "90 2", "41"]


def greedy(model: Model, text: str, n: int) -> list[int]:
    tokens = model.prompt(text).tokens
    for _ in range(n):
        tokens = [*tokens, int(mx.argmax(model.run(tokens).logits[0]))]
    return tokens[-n:]


def test_a_name_that_greedy_decoding_writes_is_answered_and_another_is_not(model: Model) -> None:
    written = [greedy(model, text, 3) for text in PROMPTS]
    right = [question(model, text, [" ".join(map(str, name))]) for text, name in zip(PROMPTS, written, strict=True)]
    assert all(v.whole_name and v.first_token and v.rank == 0 for v in verdicts(model, right))
    half = [
        question(model, text, [f"{name[0]} {name[1]} {(name[2] + 1) % 101}"])
        for text, name in zip(PROMPTS, written, strict=True)
    ]
    assert all(v.first_token and not v.whole_name for v in verdicts(model, half))
    wrong = [question(model, text, [str((name[0] + 1) % 101)]) for text, name in zip(PROMPTS, written, strict=True)]
    assert not any(v.first_token or v.whole_name for v in verdicts(model, wrong))


def test_any_accepted_name_counts(llama: Model) -> None:
    name = " ".join(map(str, greedy(llama, "3 5", 2)))
    (found,) = verdicts(llama, [question(llama, "3 5", ["77 78 79", name])])
    assert found.whole_name
    assert found.predicted.split()[0] == name.split()[0]


def test_rank_and_log_probability_are_those_of_the_softmax(llama: Model) -> None:
    logits = np.asarray(llama.run([3, 5]).logits)[0].astype(float)
    log_probs = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    for token in (0, 50, 100):
        (found,) = verdicts(llama, [question(llama, "3 5", [str(token)])])
        assert found.rank == int((logits > logits[token]).sum())
        assert found.log_prob == pytest.approx(log_probs[token], abs=1e-4)
        rank, log_prob = answer_scores([token])(mx.array(logits.astype(np.float32))[None])[0].tolist()
        assert (int(rank), log_prob) == (found.rank, pytest.approx(found.log_prob, abs=1e-4))


@pytest.mark.parametrize("names", [[], [" "]])
def test_an_answer_without_token_is_an_error(llama: Model, names: list[str]) -> None:
    with pytest.raises(DataError, match=r"no accepted answer|is empty"):
        question(llama, "3 5", names)


def test_the_last_layer_of_the_lens_is_the_prediction_and_ranks_count_from_the_top(model: Model) -> None:
    lens = logit_lens(model, [3, 5, 7])
    assert mx.allclose(lens[-1], model.run([3, 5, 7]).logits[0], rtol=1e-5, atol=1e-5)
    assert lens_ranks(mx.array([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]]), [2]) == [1, 1]
    assert lens_ranks(mx.array([[1.0, 3.0, 2.0], [5.0, 0.0, 1.0]]), [0, 1]) == [0, 0]
    assert first_layer([40, 12, 3, 0], 10) == 2
    assert first_layer([40, 12], 10) is None


def test_a_held_out_choice_is_scored_on_the_half_that_did_not_choose_it() -> None:
    rng = np.random.default_rng(0)
    grid = {f"query {i}": rng.integers(0, 2, 400).tolist() for i in range(40)}  # chance: every cell fixes half
    held = held_out_choice(grid, seed=1)
    scores = list(held.scores(grid).values())
    assert abs(np.mean(scores) - 0.5) < 3 * math.sqrt(0.25 / 40)  # no better than chance
    best_of_all = np.mean(list(grid.values()), axis=0).max()
    assert best_of_all > 0.5 + 2 * math.sqrt(
        0.25 / 40
    )  # what choosing and reporting on the same queries would have claimed
    assert np.mean(list(oracle(grid).values())) == 1.0


def test_a_choice_that_is_best_everywhere_is_chosen_on_both_halves() -> None:
    grid = {f"query {i}": [0.0, 1.0, float(i % 2)] for i in range(10)}
    held = held_out_choice(grid, seed=0)
    assert held.chosen == [1]
    assert set(held.scores(grid).values()) == {1.0}
    with pytest.raises(ValueError, match="two prompts or more"):
        held_out_choice({"one": [1.0]}, seed=0)


def test_whole_answers_of_a_sweep_are_those_of_single_runs(llama: Model) -> None:
    """Names of several tokens, with a vector at the prompt's last token and none at the name's own."""
    prompt = llama.prompt("3 5 7 11")
    asked = Question(prompt, ((5, 9, 30),))
    vector = mx.random.normal((llama.d_model,), key=mx.random.key(0))
    edit = Add("resid_post.1", vector, 2.0, len(prompt) - 1)
    found = np.asarray(name_scores(llama, asked, [[], [edit]]))
    for row, edits in zip(found, ([], [edit]), strict=True):
        logits = llama.run([*prompt.tokens, 5, 9], interventions=edits, logits="all").logits
        assert logits is not None
        at = logits[0, len(prompt) - 1 :].astype(mx.float32)
        log_probs = at - mx.logsumexp(at, axis=-1, keepdims=True)
        expected = sum(float(log_probs[i, token]) for i, token in enumerate((5, 9, 30)))
        assert row[1] == pytest.approx(expected, abs=1e-3)
        assert row[0] == int(mx.sum(at[0] > at[0, 5]))
        assert bool(row[2]) == (mx.argmax(at, axis=-1).tolist() == [5, 9, 30])
    written = llama.generate(prompt, max_tokens=2)[0].tokens
    greedy = np.asarray(name_scores(llama, Question(prompt, (tuple(written),)), [[]]))
    assert (greedy[0, 0], greedy[0, 2]) == (0, 1)


def test_of_several_names_the_best_one_counts(llama: Model) -> None:
    prompt = llama.prompt("3 5 7 11")
    written = tuple(llama.generate(prompt, max_tokens=2)[0].tokens)
    alone = [np.asarray(name_scores(llama, Question(prompt, (name,)), [[]]))[0] for name in ((5, 9, 30), written)]
    rank, log_prob, greedy = np.asarray(name_scores(llama, Question(prompt, ((5, 9, 30), written)), [[]]))[0]
    assert (rank, greedy) == (0, 1)
    assert log_prob == max(alone[0][1], alone[1][1])
    assert alone[0][0] > 0
    with pytest.raises(DataError, match="has no accepted answer to score"):
        name_scores(llama, Question(prompt, ()), [[]])


@pytest.mark.parametrize(
    ("text", "name", "space"),
    [
        ("The capital of France is", "Paris", " "),
        ("The capital of France is ", "Paris", ""),
        ('He said "', "Paris", ""),
        ('The word "capital"', "means", " "),
        ("The capital of France (", "Paris", ""),
        ("Answer:\n", "Paris", ""),
        ("Answer:", "the Nile", " "),
        ("法国的首都是", "巴黎", ""),
        ("答案：", "Paris", ""),
        ("ไทย", "กรุงเทพ", ""),
        ("프랑스의 수도는", "파리", " "),
        ("It costs $", "5", ""),
        ("Stop", ".", ""),
    ],
)
def test_a_space_stands_before_an_answer_only_where_the_writing_has_one(text: str, name: str, space: str) -> None:
    assert space_before(text, name) == space


@pytest.mark.parametrize(
    "text", ["The capital of France is ", 'He said "', "Answer:\n", "法国的首都是", "The capital of France is"]
)
def test_prompt_and_answer_together_are_the_text_with_the_answer(text: str) -> None:
    model = mi.load("tiny-llama")
    for name in ("Paris", "巴黎"):
        asked = question(model, text, [name])
        whole = model.tokenizer.decode([*asked.prompt.tokens, *asked.names[0]])
        assert whole.replace("<bos>", "").strip() == text + space_before(text, name) + name
