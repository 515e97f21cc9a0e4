"""Prompts written for this project: requests, questions and opinions as they stand in `prompts/LANGUAGE/`.

A line is one item with the number `n` and the `split` it belongs to; line n says the same in every language and is in
the same split there. Both sides of a line (harmful and harmless, certain and unsure) share topic and split.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TypeVar

from experiments.data import DATA_FOLDER
from mlx_interp.errors import DataError, nearest

FOLDER = DATA_FOLDER / "prompts"
LANGUAGES = tuple(sorted((path.parent.name for path in FOLDER.glob("*/frames.json")), key=lambda x: (x != "en", x)))
"""English first."""
SPLITS = ("train", "choose", "test")


@dataclass(frozen=True)
class RequestPair:
    """A request that a safe assistant refuses, and a harmless one of its topic, form and length."""

    n: int
    split: str
    topic: str
    harmful: str
    harmless: str


@dataclass(frozen=True)
class QuestionPair:
    """A question that a small model can answer, and one that nobody can who is not told more."""

    n: int
    split: str
    certain: str
    unsure: str


@dataclass(frozen=True)
class Opinion:
    """A thing that people like or dislike; `phrase` goes into the frames, `topic` names it in all languages."""

    n: int
    split: str
    topic: str
    phrase: str


@dataclass(frozen=True)
class Frames:
    """Sentences around `{phrase}` (in English also `{topic}`), and the one that asks how sure the model is."""

    stated: str
    asked: str
    likes: str
    dislikes: str
    how_sure: str

    def around(self, name: str, opinion: Opinion) -> str:
        """The prompt of an opinion in one frame: stated, asked, likes or dislikes."""
        frame: str = getattr(self, name)
        return frame.format(topic=opinion.topic, phrase=opinion.phrase)


@dataclass(frozen=True)
class Written:
    """All that is written in one language."""

    requests: tuple[RequestPair, ...]
    questions: tuple[QuestionPair, ...]
    opinions: tuple[Opinion, ...]
    frames: Frames


Item = TypeVar("Item", RequestPair, QuestionPair, Opinion)


@cache
def read(language: str) -> Written:
    """What is written in a language. Raises DataError for one that nothing is written in, and for a faulty file."""
    if language not in LANGUAGES:
        raise DataError(
            f"there are no prompts in {language!r}: {nearest(language, LANGUAGES)}there are {', '.join(LANGUAGES)}; "
            "give published sets in that language, or a folder in experiments/data/prompts"
        )
    folder = FOLDER / language
    return Written(
        rows_of(folder / "requests.jsonl", RequestPair),
        rows_of(folder / "questions.jsonl", QuestionPair),
        rows_of(folder / "opinions.jsonl", Opinion),
        Frames(**json.loads((folder / "frames.json").read_text(encoding="utf-8"))),
    )


def rows_of(path: Path, kind: type[Item]) -> tuple[Item, ...]:
    """The items of a file. Raises DataError that names the line of a row with other fields or an unknown split."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a line of JSON: {error}") from error
        names = [field.name for field in fields(kind)]
        if not isinstance(row, Mapping) or list(row) != names:
            raise DataError(f"{path}:{number}: expected an object with {', '.join(names)}, in this order")
        if row["split"] not in SPLITS:
            raise DataError(
                f"{path}:{number}: no split {row['split']!r}: {nearest(str(row['split']), SPLITS)}"
                f"there are {', '.join(SPLITS)}"
            )
        found.append(kind(**row))
    return tuple(found)
