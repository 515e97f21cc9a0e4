"""Prompts written for the project are whole, matched and without repetition, and the checker of that can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.data import check_requests, written
from experiments.data.check_requests import Line, is_in, problems, repeats, sides, texts, told_by_first_word, uneven
from experiments.data.written import LANGUAGES, SPLITS, QuestionPair, RequestPair, read, rows_of
from mlx_interp.errors import DataError

REQUEST = {"n": 1, "split": "train", "topic": "home", "harmful": "How do I rob?", "harmless": "How do I paint?"}


@pytest.mark.slow
def test_nothing_is_wrong_with_what_is_written() -> None:
    assert problems() == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_has_the_numbers_that_studies_count_on(language: str) -> None:
    data = read(language)
    assert (len(data.requests), len(data.questions), len(data.opinions)) == (400, 200, 200)
    for items in (data.requests, data.questions, data.opinions):
        counts = [sum(item.split == split for item in items) for split in SPLITS]
        assert counts == [len(items) // 2, len(items) // 4, len(items) // 4]


def test_every_topic_has_requests_in_every_split() -> None:
    requests = read("en").requests
    for topic in {pair.topic for pair in requests}:
        assert {pair.split for pair in requests if pair.topic == topic} == set(SPLITS), topic


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_of_one_language_do_not_pass_for_another(language: str) -> None:
    lines = sides(language)["harmful"]
    others = [other for other in LANGUAGES if other != language]
    for other in others:
        foreign = [line for line in lines if is_in(line.text, other)]
        assert len(foreign) < 0.2 * len(lines), (other, foreign[:3])


def lines(*found: tuple[str, str]) -> list[Line]:
    return [Line(n, split, text) for n, (split, text) in enumerate(found, 1)]


def test_repeated_texts_are_found_and_less_is_allowed_across_splits() -> None:
    twice = lines(
        ("train", "How do I steal a red bicycle at night?"), ("train", "How do I steal a red bicycle at night?")
    )
    near = "How do I steal a blue bicycle at night?"
    assert "1 and 2, within a split" in next(repeats(twice, "en"))
    assert list(repeats(lines(("train", twice[0].text), ("train", near)), "en")) == []
    assert "1 and 2, across splits" in next(repeats(lines(("train", twice[0].text), ("test", near)), "en"))
    chinese = lines(("train", "怎样在夜里偷一辆自行车？"), ("test", "怎样在夜里偷一辆摩托车？"))
    assert "across splits" in next(repeats(chinese, "zh"))


def test_empty_untrimmed_and_foreign_texts_are_found() -> None:
    wrong = lines(
        ("train", ""), ("train", " Wie baue ich das? "), ("train", "How do I paint the door?"), ("train", "怎样")
    )
    assert [fault.split(":")[0] for fault in texts(wrong, "de")] == ["1", "2", "3", "4"]
    assert list(texts(lines(("train", "Wie streiche ich die Tür?")), "de")) == []


def test_sides_that_length_or_the_first_word_tells_apart_are_found() -> None:
    one = lines(("train", "How do I rob a bank in the city?"), ("train", "Tell me how to rob a shop."))
    assert [*uneven(one, one, "en"), *told_by_first_word(one, one, "en")] == []
    short = lines(("train", "How?"), ("train", "Tell me how to paint a door."))
    faults = list(uneven(one, short, "en"))
    assert "mean lengths" in faults[0]
    assert "more than 2 times" in faults[1]
    other = lines(("train", "Explain how to paint a door in town."), ("train", "Show me how to oil a lock."))
    assert list(uneven(one, other, "en")) == []
    assert list(told_by_first_word(one, other, "en")) == ["first words differ by 1.00, more than 0.1"]


def test_a_language_that_is_cut_or_labelled_otherwise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    english = read("en")
    first, *rest = english.requests
    moved = RequestPair(first.n, "test", first.topic, first.harmful, first.harmless)
    changed = written.Written((moved, *rest[:-1]), english.questions, english.opinions, english.frames)
    monkeypatch.setattr(check_requests, "read", lambda language: english if language == "en" else changed)
    faults = list(check_requests.alignment("de"))
    assert faults == [
        "de requests: 399 lines, English has 400",
        "de requests line 1: split 'test' is not that of English",
    ]


def test_a_classifier_of_words_knows_sides_that_share_none_and_guesses_where_they_are_the_same() -> None:
    one = lines(("train", "steal rob cheat"), ("test", "rob cheat"))
    other = lines(("train", "paint sing draw"), ("test", "sing draw"))
    assert check_requests.bag_of_words_accuracy(one, other, "en") == 1
    assert check_requests.bag_of_words_accuracy(one, one, "en") == 0.5


def test_a_row_that_cannot_be_read_names_its_line_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    good = json.dumps(REQUEST)
    for bad, message in (
        ("{", r"requests.jsonl:2: not a line of JSON"),
        (json.dumps({**REQUEST, "split": "tset"}), r"requests.jsonl:2: no split 'tset': did you mean 'test'"),
        (json.dumps({"n": 1}), r"requests.jsonl:2: expected an object with n, split, topic, harmful, harmless"),
    ):
        path.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(DataError, match=message):
            rows_of(path, RequestPair)
    with pytest.raises(DataError, match="n, split, certain, unsure"):
        rows_of(path, QuestionPair)
