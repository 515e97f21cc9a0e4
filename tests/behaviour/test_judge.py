"""A judge reads yes and no off one token, and is believed as far as labelled replies bear it out."""

from __future__ import annotations

import pytest

import mlx_interp as mi
from mlx_interp.behaviour.detectors import agreement
from mlx_interp.behaviour.judge import Judge, trust
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.model import Model


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def opinions(n: int = 40) -> tuple[list[str], list[bool]]:
    """Questions that the embedded models were trained to answer by yes or no, and the answers."""
    chats = [c for c in load_world().chat_prompts("opinion") if c.split == "train"]
    chosen = [c for label in ("yes", "no") for c in [c for c in chats if c.label == label][: n // 2]]
    return [c.text for c in chosen], [c.label == "yes" for c in chosen]


def test_a_judge_that_was_taught_the_question_is_right_on_both_labels(model: Model) -> None:
    texts, labels = opinions()
    found = trust(Judge(model, "{reply}", ("Yes",), ("No",)), [""] * len(texts), texts, labels)
    assert found.right_of_yes > 0.9
    assert found.right_of_no > 0.9
    assert (found.n_yes, found.n_no) == (20, 20)


def test_the_score_has_the_sign_of_what_the_judge_would_write(model: Model) -> None:
    texts, _ = opinions(8)
    scores = Judge(model, "{reply}", ("Yes",), ("No",)).scores([""] * len(texts), texts)
    written = model.generate([model.prompt(text, chat=True) for text in texts], max_tokens=8)
    assert [score > 0 for score in scores] == [agreement(one.text) > 0 for one in written]


def test_a_judge_that_always_says_yes_is_worth_a_guess(model: Model) -> None:
    texts, labels = opinions()
    stubborn = Judge(model, "I love tea. Is tea good?{reply}", ("Yes",), ("No",))
    found = trust(stubborn, [""] * len(texts), [""] * len(texts), labels)
    assert sorted((found.right_of_yes, found.right_of_no)) == [0, 1]
    assert found.balanced == 0.5


def test_request_and_reply_are_filled_in_literally(model: Model) -> None:
    judge = Judge(model, "{request} {reply}", ("Yes",), ("No",))
    whole = Judge(model, "{reply}", ("Yes",), ("No",))
    pairs = [("I love tea.", "Is tea good?"), ("I love {reply}.", "Is {request} good?")]
    for request, reply in pairs:
        assert judge.scores([request], [reply]) == whole.scores([""], [f"{request} {reply}"])


def test_mistakes_are_named(model: Model) -> None:
    with pytest.raises(DataError, match=r"no \{reply\}"):
        Judge(model, "Is it good?")
    with pytest.raises(DataError, match="one first token"):
        Judge(model, "{reply}", ("Yes",), ("Yes",))
    with pytest.raises(DataError, match="found 1 and 2"):
        Judge(model, "{reply}", ("Yes",), ("No",)).scores(["a"], ["b", "c"])
    with pytest.raises(DataError, match="both yes and no"):
        trust(Judge(model, "{reply}", ("Yes",), ("No",)), ["a"], ["b"], [True])
