"""Automatic interpretation: scores against judges whose answers are known; marks, halves, controls."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

import mlx_interp as mi
from mlx_interp.errors import DataError
from mlx_interp.pages.feature_page import Example
from mlx_interp.sae import explain, feature_texts, judges, marked, score
from mlx_interp.sae.interpretation import Judged

COLOURS, ANIMALS = ("red", "green", "blue", "white"), ("dog", "horse", "cow", "cat")


def text(word: str, number: int, *, active: bool) -> Example:
    tokens = ("I", " saw", f" number {number},", " a", f" {word}", " thing", ".")
    return Example(tokens, tuple(float(active) * (1 + number / 100) if place == 4 else 0.0 for place in range(7)))


def colour_texts() -> list[Example]:
    """A feature that is active on colours and on nothing else."""
    return [text((COLOURS if n % 2 else ANIMALS)[n // 2 % 4], n, active=bool(n % 2)) for n in range(80)]


def knows(words: Sequence[str], *, in_marks: bool) -> Judged:
    """A judge that follows the explanation to the letter: yes where the text, or its marks, has one of its words."""

    def judge(explanations: Sequence[str], texts: Sequence[str]) -> list[float]:
        found = []
        for explanation, one in zip(explanations, texts, strict=True):
            looked = " ".join(part.split(">>")[0] for part in one.split("<<")[1:]) if in_marks else one
            found.append(1.0 if explanation == "colours" and any(word in looked for word in words) else -1.0)
        return found

    return judge


def test_the_right_words_tell_everything_and_others_nothing() -> None:
    texts = feature_texts(colour_texts(), n_shown=8, n_scored=12)
    detects, fuzzes = knows(COLOURS, in_marks=False), knows(COLOURS, in_marks=True)
    for explanation, expected in (("colours", 1), ("animals", 0.5)):
        found = score(explanation, texts, detects=detects, fuzzes=fuzzes)
        assert found.detection is not None
        assert found.fuzzing is not None
        assert (found.detection.value, found.fuzzing.value) == (expected, expected)
        assert found.detection.n == found.fuzzing.n == 24


def test_texts_that_are_scored_are_none_of_those_explained_from() -> None:
    examples = colour_texts()
    texts = feature_texts(examples, n_shown=8, n_scored=12, seed=3)
    assert (len(texts.shown), len(texts.active), len(texts.inactive)) == (8, 12, 12)
    assert not set(texts.shown) & set(texts.active)
    assert all(max(one.values) > 0 for one in (*texts.shown, *texts.active))
    assert all(max(one.values) == 0 for one in texts.inactive)
    strongest = sorted(examples, key=lambda one: -max(one.values))[:16]
    assert set(texts.shown) == set(strongest[::2]), "of the most active, every second is left to be scored"
    assert texts == feature_texts(examples, n_shown=8, n_scored=12, seed=3)


def test_few_texts_are_halved_and_fewer_refused() -> None:
    some = [text("red", n, active=True) for n in range(4)] + [text("dog", n, active=False) for n in range(9)]
    texts = feature_texts(some)
    assert (len(texts.shown), len(texts.active), len(texts.inactive)) == (2, 2, 2)
    with pytest.raises(DataError, match="active on 3 of 12 texts"):
        feature_texts(some[1:])
    with pytest.raises(DataError, match="active on 4 of 5 texts"):
        feature_texts(some[:5])


def test_marks_enclose_runs_of_active_tokens() -> None:
    example = Example(("The", " big", " red", " dog", " ran"), (0.0, 3.0, 4.0, 1.0, 2.0))
    assert marked(example) == "The <<big red>> dog <<ran>>"
    assert marked(example, [0, 1]) == "<<The big>> red dog ran"
    assert marked(example, []) == "The big red dog ran"


def test_wrong_marks_are_on_other_tokens_and_as_many() -> None:
    """A judge that sees marks sees as many of them on either side."""
    seen: list[str] = []

    def judge(explanations: Sequence[str], texts: Sequence[str]) -> list[float]:
        seen.extend(one for one in texts if "<<" in one)
        return [0.0] * len(texts)

    score("x", feature_texts(colour_texts(), n_scored=12), detects=judge, fuzzes=judge)
    right, wrong = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert len(right) == len(wrong) == 12
    for a, b in zip(right, wrong, strict=True):
        assert a.replace("<<", "").replace(">>", "") == b.replace("<<", "").replace(">>", "")
        assert a != b
        assert a.count("<<") == b.count("<<") == 1


def test_a_model_explains_in_one_line_and_one_that_cannot_say_yes_is_no_judge() -> None:
    model = mi.load("tiny-llama", check=False)
    texts = feature_texts(colour_texts(), n_shown=2, n_scored=3)
    assert "\n" not in explain(model, texts.shown, max_tokens=4)
    with pytest.raises(DataError, match="needs texts"):
        explain(model, [])
    with pytest.raises(DataError, match="words that it tells apart"):
        judges(model)
