"""The classifier of texts tells what differs, on texts it has not seen, and guesses where nothing does."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_interp.behaviour.text_classifier import features, fit_text_classifier
from mlx_interp.errors import DataError

FRUIT = [f"I eat {n} pears and an apple." for n in range(12)]
ROADS = [f"The road to town {n} is closed." for n in range(6)]


def test_unseen_texts_are_told_apart_however_many_each_class_has() -> None:
    told = fit_text_classifier([*FRUIT, *ROADS], ["fruit"] * 12 + ["roads"] * 6)
    assert told.accuracy(["We eat pears.", "A closed road."], ["fruit", "roads"]) == {"fruit": 1.0, "roads": 1.0}
    assert told.probabilities(["An apple and pears."])[0, told.classes.index("fruit")] > 0.8


def test_a_text_without_known_words_reads_like_neither() -> None:
    told = fit_text_classifier([*FRUIT, *ROADS], ["fruit"] * 12 + ["roads"] * 6)
    for text in ("", "xyzzy"):
        assert abs(told.probabilities([text])[0] - 0.5).max() < 0.2


def test_equal_texts_in_two_classes_are_not_told() -> None:
    told = fit_text_classifier([*FRUIT, *FRUIT], ["a"] * 12 + ["b"] * 12)
    assert abs(told.probabilities(FRUIT) - 0.5).max() < 1e-3


def test_features_have_length_one_and_chinese_signs_are_words() -> None:
    found = features(["我不能帮助你。", "我不能", "Word, word!", ""]).toarray()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 1, 1, 0])
    assert found[0] @ found[1] > 0.4


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="two classes"):
        fit_text_classifier(FRUIT, ["fruit"] * 12)
