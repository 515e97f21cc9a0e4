"""What real models do and small trained ones do not is no fault: checks pass where a sound model behaves like that."""

from __future__ import annotations

import mlx.core as mx
import pytest

import mlx_interp
from tests.validation.fault_table import loaded
from tests.validation.real_faults import open_turns_with_bos, saturate
from validation import data, validate
from validation.check import Result, relative
from validation.worlds import Asked, World, Worlds, ask, in_front, real_facts, two_hops


def found(name: str, model: mlx_interp.Model, level: str = "standard") -> Result:
    (result,) = validate(model, level, only=[name]).results  # type: ignore[arg-type]
    return result


def test_saturated_predictions_do_not_hide_that_steering_works(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded("tiny-llama")
    saturate(monkeypatch, model)
    logits = model.run("The capital of France is").logits
    assert logits is not None
    assert float(mx.max(mx.softmax(logits[0]))) > 0.999999
    assert found("steering changes the output", model).status == "passed"


def test_a_bos_that_opens_every_turn_is_what_the_template_prescribes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlx_interp.load("tiny-llama")
    open_turns_with_bos(monkeypatch, model)
    result = found("one BOS", model)
    assert (result.status, result.measured) == ("passed", "plain 1, chat 2")


def test_a_tokenizer_that_writes_no_bos_by_its_own_rule_has_none_in_a_plain_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = mlx_interp.load("tiny-qwen2")
    open_turns_with_bos(monkeypatch, model)
    model.tokenizer._tokenizer.bos_token = "<user>"  # a tokenizer of its own: no other test has it
    result = found("one BOS", model)
    assert (result.status, result.measured) == ("passed", "plain 0, chat 3")


def test_without_a_bos_token_there_is_nothing_to_count() -> None:
    model = mlx_interp.load("tiny-llama")
    model.tokenizer._tokenizer.bos_token = None
    result = found("one BOS", model)
    assert (result.status, result.note) == ("not applicable", "the tokenizer has no BOS token")


def test_an_error_behind_a_massive_first_position_is_as_large_as_it_is_there() -> None:
    right = mx.array([[22_700.0, 0.0], [7.0, 0.0]])
    wrong = mx.array([[22_700.0, 0.0], [6.93, 0.0]])
    assert relative(wrong, right) == pytest.approx(0.01, rel=1e-3)
    assert relative(right, right) == 0
    assert relative(right * float("nan"), right) != relative(right, right)
    assert relative(mx.zeros((2, 2)), mx.zeros((2, 2))) == 0
    assert relative(mx.ones((2, 2)), mx.zeros((2, 2))) == float("inf")
    assert relative(mx.ones((2, 2)), mx.ones((2, 3))) != 0


def test_the_world_of_which_more_is_known_is_the_one_the_lens_is_tested_on() -> None:
    model = loaded("tiny-llama")
    known = ask(model, "embedded facts", [("The capital of France is", "Paris"), ("The capital of Italy is", "Oslo")])
    assert [item.known for item in known.asked] == [True, False]
    better = World(
        "real facts", tuple(Asked(item.question, "Paris", item.question.first_tokens[0]) for item in known.asked)
    )
    assert Worlds(known, better).best is better
    assert Worlds(better, known).best is better
    assert str(Worlds(known, better)) == "known: 1 of 2 embedded facts, 2 of 2 real facts"
    (text, _, answer), *_ = two_hops(better, 3)
    assert text == in_front(data.TWO_HOP_EXAMPLES) + data.TWO_HOP[0][0]
    assert answer == "Austin"


def test_no_answer_stands_in_the_examples_before_it() -> None:
    for text, answer in real_facts():
        front, _, asked = text.rpartition("\n")
        assert f" {answer}." not in front
        assert asked
        assert front.count("\n") == 2
    assert len(real_facts()) == len({text for text, _ in real_facts()}) == 48
    front = in_front(data.TWO_HOP_EXAMPLES)
    assert not any(f" {answer}." in front for _, _, answer in data.TWO_HOP)
