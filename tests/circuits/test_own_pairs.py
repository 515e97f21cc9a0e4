"""Pairs of a file: what is read is what is asked, and every mistake names its row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mlx_interp as mi
from mlx_interp import Model
from mlx_interp.circuits.matching import matched, told_by_words
from mlx_interp.circuits.own_pairs import made_pairs, read_pair_rows
from mlx_interp.errors import DataError
from mlx_interp.store.rows import PromptRow

ROW = {"clean": "The capital of France is", "corrupt": "The capital of Japan is", "answer": "Paris", "wrong": "Tokyo"}


@pytest.fixture(scope="module")
def model() -> Model:
    return mi.load("tiny-llama")


def written(tmp_path: Path, *rows: dict[str, object]) -> Path:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_become_pairs_of_the_models_tokens(tmp_path: Path, model: Model) -> None:
    other = {**ROW, "corrupt": "The capital of Italy is", "wrong": ["Rome", "Tokyo"], "category": "two"}
    (first, second), dropped = made_pairs(model, read_pair_rows(written(tmp_path, {**ROW, "category": None}, other)))
    assert dropped == 0
    paris, tokyo, rome = (
        model.prompt(f"{ROW['clean']} {name}").tokens[len(first.clean)] for name in ("Paris", "Tokyo", "Rome")
    )
    assert (first.answers, first.wrong, first.group) == ((paris,), (tokyo,), "pairs")
    assert (second.wrong, second.group) == ((rome, tokyo), "two")
    assert first.counterfactual.tokens == model.prompt("The capital of Japan is").tokens


def test_csv_files_and_columns_of_published_stimuli_are_known(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("clean_prefix,patch_prefix,clean_answer,patch_answer\na b,a c,x,y\na d,a e,x,\n")
    rows = read_pair_rows(path)
    assert [(row.clean, row.corrupt, row.answers, row.wrong) for row in rows] == [
        ("a b", "a c", ("x",), ("y",)),
        ("a d", "a e", ("x",), ()),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"clean": "a", "corrupted": "b"}, "no column 'answer'"),
        ({"clean": "a", "corupt": "b", "answer": "x"}, "no column 'corrupt': did you mean 'corupt'"),
        ({**ROW, "corrupt": " "}, r"row 2: corrupt holds ' ', not a text"),
        ({**ROW, "answer": ""}, r"row 2: answer is empty"),
        ({**ROW, "corrupt": ROW["clean"]}, r"row 2: clean and corrupt are the same text"),
        ({**ROW, "wrong": "Paris"}, r"row 2: 'Paris' is both"),
    ],
)
def test_rows_that_cannot_be_pairs_are_refused_by_place(tmp_path: Path, row: dict[str, object], words: str) -> None:
    good = {**ROW, "clean": "The capital of Spain is"} if "row 2" in words else row
    with pytest.raises(DataError, match=words):
        read_pair_rows(written(tmp_path, good, row))


def test_a_pair_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2: the same pair stands in .*row 1"):
        read_pair_rows(written(tmp_path, ROW, ROW))


def test_pairs_of_unequal_length_are_refused_with_both_lengths_or_left_out(tmp_path: Path, model: Model) -> None:
    longer = {**ROW, "corrupt": "The capital of old Japan is"}
    rows = read_pair_rows(written(tmp_path, ROW, longer))
    with pytest.raises(DataError, match=r"1 of 2 pairs differ in length.*row 2: 6 tokens in .*, 7 in .*unequal='drop'"):
        made_pairs(model, rows)
    found, dropped = made_pairs(model, rows, unequal="drop")
    assert (len(found), dropped) == (1, 1)


def test_answers_that_begin_alike_are_refused(tmp_path: Path, model: Model) -> None:
    rows = read_pair_rows(written(tmp_path, {**ROW, "answer": "Paris now", "wrong": "Paris then"}))
    with pytest.raises(DataError, match="begin with the same token"):
        made_pairs(model, rows)


def test_prompts_are_matched_by_category_and_length_with_most_words_shared(model: Model) -> None:
    first = [PromptRow(str(i), text, kind, False) for i, (text, kind) in enumerate(
        [("how to buy tea", "a"), ("how to sell coffee", "a"), ("how to buy tea now", "b")]
    )]  # fmt: skip
    second = [PromptRow(str(i), text, kind, False) for i, (text, kind) in enumerate(
        [("how to sell tea", "a"), ("how to buy coffee", "a"), ("how to buy jazz", "b")]
    )]  # fmt: skip
    found = [(a.text, b.text) for a, b, *_ in matched(model, first, second)]
    lengths = {row.text: len(model.prompt(row.text)) for row in (*first, *second)}
    assert len(found) == 2
    assert {a for a, _ in found} == {"how to buy tea", "how to sell coffee"}
    assert all(lengths[a] == lengths[b] for a, b in found)
    with pytest.raises(DataError, match="no prompt of the one class"):
        matched(model, first[2:], second[:2])


def test_words_tell_classes_of_other_words_and_not_of_the_same() -> None:
    things = "tea coffee jazz chess rain opera pizza sushi comics radio".split()
    apart = told_by_words([(f"please buy {thing}", f"kindly steal {thing}") for thing in things], 0)
    assert sum(apart) == len(things)
    pairs = list(zip(things, things[1:] + things[:1], strict=True))
    same = told_by_words([(f"buy {a}", f"buy {b}") for a, b in pairs], 0)
    assert sum(same) / len(same) < 0.8
    with pytest.raises(DataError, match="5 folds"):
        told_by_words([("a", "b")] * 3, 0)
