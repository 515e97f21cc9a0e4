"""Pairs of prompts from a file: one row a pair, with what is right after the clean prompt and what is wrong.

    {"clean": "The keys to the cabinet", "corrupt": "The key to the cabinet", "answer": "are", "wrong": "is",
     "category": "agreement"}

CSV, JSON Lines or parquet. `answer` and `wrong` may be lists (JSON); an empty `wrong` means every other token. Of a
name of several tokens the first one counts. Columns of published stimuli are known by their names as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits.pairs import Pair
from mlx_interp.errors import DataError, nearest
from mlx_interp.loading.tables import read_table
from mlx_interp.model import Model
from mlx_interp.prompts import Prompt

COLUMNS: dict[str, tuple[str, ...]] = {
    "clean": ("clean", "clean_prompt", "clean_prefix"),
    "corrupt": ("corrupt", "corrupted", "counterfactual", "corrupt_prompt", "patch_prefix"),
    "answer": ("answer", "answers", "clean_answer"),
    "wrong": ("wrong", "wrong_answer", "wrong_answers", "patch_answer"),
    "category": ("category", "task", "group"),
}
"""What a column means, and the names that it goes by."""
NEEDED = ("clean", "corrupt", "answer")
UNNAMED = "pairs"
"""The category of a file without one."""
Unequal = Literal["refuse", "drop"]


@dataclass(frozen=True)
class PairRow:
    """A pair as its file has it; `place` names file and row."""

    place: str
    clean: str
    corrupt: str
    answers: tuple[str, ...]
    wrong: tuple[str, ...]
    category: str


def read_pair_rows(source: str | Path) -> list[PairRow]:
    """Rows of a file or a data set of the Hub. Raises DataError, naming the row, for what is missing or contradicts."""
    table = read_table(source)
    columns = list(table[0])
    named = {meaning: next((name for name in names if name in columns), "") for meaning, names in COLUMNS.items()}
    if missing := [meaning for meaning in NEEDED if not named[meaning]]:
        hint = nearest(missing[0], columns)
        raise DataError(
            f"{source}: no column {missing[0]!r}: {hint}there are {', '.join(columns)}; a pair has "
            f"{', '.join(COLUMNS)} (the last two may be left out)"
        )
    rows = [_row(f"{source}, row {number}", row, named) for number, row in enumerate(table, 1)]
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        first = seen.setdefault((row.clean, row.corrupt), row.place)
        if first != row.place:
            raise DataError(f"{row.place}: the same pair stands in {first}: give each once")
    return rows


def _row(place: str, row: Mapping[str, Any], named: Mapping[str, str]) -> PairRow:
    texts = {meaning: row[named[meaning]] for meaning in ("clean", "corrupt")}
    for meaning, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{place}: {named[meaning]} holds {text!r}, not a text")
    if texts["clean"] == texts["corrupt"]:
        raise DataError(f"{place}: clean and corrupt are the same text: nothing would be exchanged")
    answers = _names(row[named["answer"]])
    wrong = _names(row[named["wrong"]]) if named["wrong"] else ()
    if not answers:
        raise DataError(f"{place}: {named['answer']} is empty: say what is right after the clean prompt")
    if both := set(answers) & set(wrong):
        raise DataError(f"{place}: {sorted(both)[0]!r} is both the answer and a wrong one")
    category = str(row[named["category"]] or UNNAMED) if named["category"] else UNNAMED
    return PairRow(place, texts["clean"], texts["corrupt"], answers, wrong, category)


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) and value[:1] in ("[", '"'):
        # A column that holds texts and lists is read as JSON text.
        with suppress(ValueError):
            value = json.loads(value)
    many = value if isinstance(value, (list, tuple)) else [value]
    return tuple(str(name) for name in many if name is not None and str(name).strip())


def made_pairs(
    model: Model, rows: Sequence[PairRow], *, chat: bool = False, unequal: Unequal = "refuse"
) -> tuple[list[Pair], int]:
    """Pairs for a model, and how many rows were left out. chat: prompts are users' turns.

    Raises DataError for pairs of unequal length in tokens (`unequal="drop"` leaves them out), and for an answer whose
    first token is that of a wrong one.
    """
    found, uneven = [], []
    for row in rows:
        clean, corrupt = (model.prompt(text, chat=chat) for text in (row.clean, row.corrupt))
        if len(clean) != len(corrupt):
            uneven.append(f"{row.place}: {len(clean)} tokens in {row.clean!r}, {len(corrupt)} in {row.corrupt!r}")
            continue
        answers, wrong = (_firsts(model, clean, names, chat) for names in (row.answers, row.wrong))
        if both := set(answers) & set(wrong):
            raise DataError(
                f"{row.place}: answer {row.answers} and wrong answer {row.wrong} begin with the same token "
                f"{model.tokenizer.decode([min(both)])!r} of {model.name}: choose answers that differ at once"
            )
        found.append(Pair(f"{row.clean} / {row.corrupt}", clean, corrupt, answers, wrong, row.category))
    if uneven and unequal == "refuse":
        raise DataError(
            f"{len(uneven)} of {len(rows)} pairs differ in length for {model.name}'s tokenizer, and activations are "
            f"exchanged position by position: {'; '.join(uneven[:3])}. Reword them, or leave them out "
            "(unequal='drop')"
        )
    return found, len(uneven)


def _firsts(model: Model, prompt: Prompt, names: Sequence[str], chat: bool) -> tuple[int, ...]:
    if chat:  # behind the template's last token a reply begins without a space
        tokens = [model.prompt(prompt.text + name.strip()).tokens[len(prompt)] for name in names]
    else:
        tokens = [continuation(model, prompt, name)[0] for name in names]
    return tuple(dict.fromkeys(tokens))
