"""Prompts from rows of a data set: which column is the text, which the category, how categories are balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from mlx_interp.errors import ConfigError, DataError, nearest
from mlx_interp.loading.tables import read_table

Balance = Literal["use_all", "equalize"]
TEXT_COLUMNS = ("prompt", "text", "question", "instruction", "query", "goal", "request")
CATEGORY_COLUMNS = ("category", "label", "class", "type", "topic")


@dataclass(frozen=True)
class PromptRow:
    """A prompt with its category."""

    key: str
    """Unique in its data."""
    text: str
    category: str = ""
    chat: bool = True
    """Whether it is a user's turn, for the chat template."""


def prompt_rows(
    path: str | Path,
    *,
    subset: str = "",
    split: str = "",
    text_column: str = "",
    category_column: str = "",
    chat: bool = True,
) -> list[PromptRow]:
    """Prompts of a local file or a data set of the Hub; a prompt that occurs twice is kept once.

    Columns that are not named are looked for by their usual names. Raises DataError.
    """
    table = read_table(path, subset=subset, split=split)
    columns = list(table[0])
    text = _column(text_column, TEXT_COLUMNS, columns, f"{path}: text_column")
    category = _column(category_column, CATEGORY_COLUMNS, columns, f"{path}: category_column", needed=False)
    rows: dict[tuple[str, str], PromptRow] = {}
    for number, row in enumerate(table):
        content = row[text]
        if not isinstance(content, str) or not content.strip():
            raise DataError(f"{path}, row {number + 1}: column {text!r} holds {content!r}, not a text")
        kind = str(row[category]) if category and row[category] is not None else ""
        rows.setdefault((content, kind), PromptRow(f"{number}", content, kind, chat))
    return list(rows.values())


def balanced(
    rows: Sequence[PromptRow], categories: Sequence[str] = (), strategy: Balance = "use_all", seed: int = 0
) -> list[PromptRow]:
    """Rows of some categories (none named: all), in their order; `equalize` draws as many of each as the rarest has.

    Raises DataError for categories that are missing, ConfigError for a strategy that does not exist.
    """
    if strategy not in get_args(Balance):
        raise ConfigError(
            f"category_balance_strategy {strategy!r}: {nearest(strategy, get_args(Balance))}give use_all or equalize"
        )
    sizes = Counter(row.category for row in rows)
    missing = [name for name in categories if name not in sizes]
    if missing:
        hints = "".join(nearest(name, sizes, 1) for name in missing)
        raise DataError(f"the data has no category {', '.join(map(repr, missing))}: {hints}there are {_listed(sizes)}")
    kept = [row for row in rows if not categories or row.category in categories]
    if strategy == "use_all":
        return kept
    least = min(Counter(row.category for row in kept).values(), default=0)
    rng = np.random.default_rng(seed)
    drawn: set[int] = set()
    for name in dict.fromkeys(row.category for row in kept):
        own = [index for index, row in enumerate(kept) if row.category == name]
        drawn.update(rng.choice(own, least, replace=False).tolist())
    return [row for index, row in enumerate(kept) if index in drawn]


def _column(named: str, usual: Sequence[str], columns: Sequence[Any], where: str, *, needed: bool = True) -> str:
    if named:
        if named not in columns:
            raise DataError(f"{where}: no column {named!r}: {nearest(named, columns)}there are {', '.join(columns)}")
        return named
    found = next((name for name in usual if name in columns), "")
    if needed and not found:
        raise DataError(f"{where}: none of the columns {', '.join(columns)} is one of {', '.join(usual)}: name it")
    return found


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name or '(none)'} ({count})" for name, count in sizes.items())
