"""Prompts of a published set, by split, with what says which texts they are.

1. Files are CSV, JSON (a list of objects), JSON Lines, or one prompt a line; one field of a row is the prompt.
2. A publisher's splits are kept. A set without any is cut by a seed: half for finding, a quarter each for choosing and
   for reporting. A set without a split for choosing gives half of the one for finding.
3. One name stands for all three splits, three names for one split each; a text in two of them is an error.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.shared.prompts.catalogue import SPLITS, PromptSet, named
from experiments.shared.prompts.fetch import Fetched, fetched
from mlx_interp.errors import DataError, nearest
from mlx_interp.stats import split_halves

PREFERRED = "instruction_translated"
"""A field that stands before the one named: files that keep the English text beside a translation have it."""


@dataclass(frozen=True)
class Origin:
    """Where the prompts of one split are from."""

    name: str
    revision: str
    part: str
    """Which of its splits: the publisher's, or "cut by seed" where there is none."""
    licence: str
    reference: str
    sha256: str
    known: bool
    """Whether the checksum was known before the first fetch."""


@dataclass(frozen=True)
class Published:
    """Prompts of one split. `rows` are whole, for sets whose answers matter."""

    texts: tuple[str, ...]
    origin: Origin


@dataclass(frozen=True)
class Choice:
    """A question with two answers, such as the options (A) and (B), and which of them shows the behaviour."""

    question: str
    matching: str
    other: str
    chat: bool = True
    """Whether it is asked through the chat template."""


def by_split(names: Sequence[str], kind: str, *, seed: int, language: str = "en") -> dict[str, Published]:
    """The prompts of one set for all splits, or of one set for each.

    Raises DataError for another number of sets, a name, kind or language that there is not, a file that cannot be
    fetched or read, and texts that two splits share.
    """
    if len(names) not in (1, len(SPLITS)):
        raise DataError(f"{', '.join(names)}: give one prompt set, or three, for {', '.join(SPLITS)}")
    if len(names) == 1:
        found = {split: published(names[0], split, (kind,), seed=seed, language=language) for split in SPLITS}
    else:
        found = {
            split: published(name, "all", (kind,), seed=seed, language=language)
            for split, name in zip(SPLITS, names, strict=True)
        }
    refuse_shared({split: one.texts for split, one in found.items()}, ", ".join(names))
    return found


def published(name: str, split: str, kinds: tuple[str, ...], *, seed: int, language: str = "en") -> Published:
    """One split of one set; "all" for the whole of it (its test split where the publisher has splits)."""
    one = named(name, kinds)
    if language == "en" and one.english:
        return published(one.english, split, kinds, seed=seed)
    rows, source, taken = _rows_of(one, split, seed, language)
    texts = tuple(dict.fromkeys(_text(row, one, source) for row in rows))
    origin = Origin(name, one.revision, taken, one.licence, one.reference, source.sha256, source.known)
    return Published(texts, origin)


def choices(name: str, split: str, *, seed: int) -> tuple[list[Choice], Origin]:
    """Questions of two options, with the letter that shows the behaviour (or is correct) and the other."""
    one = named(name, ("choice",))
    rows, source, taken = _rows_of(one, split, seed, "en")
    found = []
    for row in rows:
        keys = ("answer_matching_behavior", "answer_not_matching_behavior")
        matching, other = (
            str(row.get(key, row.get(plain, ""))).strip()
            for key, plain in zip(keys, ("correct", "incorrect"), strict=True)
        )
        if {matching, other} != {"(A)", "(B)"}:
            raise DataError(f"{source.path}: expected the options (A) and (B), found {matching!r} and {other!r}")
        found.append(Choice(_text(row, one, source), matching, other))
    return found, Origin(name, one.revision, taken, one.licence, one.reference, source.sha256, source.known)


def refuse_shared(splits: Mapping[str, Sequence[str]], what: str) -> None:
    """Raises DataError that names the texts which two splits share; case and spaces make no difference."""
    seen: dict[str, tuple[str, str]] = {}
    shared = []
    for split, texts in splits.items():
        for text in texts:
            first, where = seen.setdefault(" ".join(text.casefold().split()), (text, split))
            if where != split:
                shared.append(f"{first!r} ({where} and {split})")
    if shared:
        more = f" and {len(shared) - 3} more" if len(shared) > 3 else ""
        raise DataError(f"{what}: {len(shared)} prompts are in two splits: {', '.join(shared[:3])}{more}")


def _rows_of(one: PromptSet, split: str, seed: int, language: str) -> tuple[list[dict[str, Any]], Fetched, str]:
    """Rows of a split, their file, and what the split is called there."""
    if "all" in one.paths:
        rows, source = _rows(one, "all", language)
        if split == "all":
            return rows, source, "all"
        return _cut(rows, one, source, seed)[split], source, f"{split}, cut by seed {seed}"
    if split == "all":
        split = "test"
    if split != "test" and "choose" not in one.paths:
        rows, source = _rows(one, "train", language)
        halves = dict(zip(("train", "choose"), _halved(rows, one, source, seed), strict=True))
        return halves[split], source, f"half of train, cut by seed {seed}"
    rows, source = _rows(one, split, language)
    return rows, source, split


def _cut(rows: list[dict[str, Any]], one: PromptSet, source: Fetched, seed: int) -> dict[str, list[dict[str, Any]]]:
    train, rest = _halved(rows, one, source, seed)
    choose, test = _halved(rest, one, source, seed + 1)
    return {"train": train, "choose": choose, "test": test}


def _halved(
    rows: list[dict[str, Any]], one: PromptSet, source: Fetched, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two halves without a text in common: a text that occurs twice goes to one of them."""
    by_text = {_text(row, one, source): row for row in rows}
    first, second = split_halves(list(by_text), seed)
    return [by_text[text] for text in first], [by_text[text] for text in second]


def _rows(one: PromptSet, split: str, language: str) -> tuple[list[dict[str, Any]], Fetched]:
    source = fetched(one.address(split, language), one.sha256(split))
    rows = _parsed(source)
    if one.keep is not None:
        field, value = one.keep
        rows = [row for row in rows if str(row.get(field)) == value]
    if not rows:
        raise DataError(f"{source.path}: holds no row for prompt set {one.name!r}")
    return rows, source


def _parsed(source: Fetched) -> list[dict[str, Any]]:
    try:
        text = source.path.read_text(encoding="utf-8")
        match source.path.suffix:
            case ".csv":
                return list(csv.DictReader(io.StringIO(text)))
            case ".json":
                rows = json.loads(text)
            case ".jsonl":
                rows = [json.loads(line) for line in text.splitlines() if line.strip()]
            case _:
                rows = [{"": line.strip()} for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{source.path}: cannot be read: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{source.path}: expected a list of objects")
    return rows


def _text(row: dict[str, Any], one: PromptSet, source: Fetched) -> str:
    text = row.get(PREFERRED) or row.get(one.field)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{source.path}: a row without text in field {one.field!r}: {nearest(one.field, map(str, row))}"
            f"it has {', '.join(map(repr, row))}"
        )
    return text.strip()
