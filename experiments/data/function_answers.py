"""Answers accepted for a function task's query: its output, and what people say for it (`aliases.py`)."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.data import DATA_FOLDER
from experiments.data.aliases import Aliases
from mlx_interp.errors import DataError

TASKS = DATA_FOLDER / "function_tasks"
OUTPUTS = {
    "capital-country": "country",
    "country-capital": "city",
    "country-continent": "continent",
    "country-currency": "currency",
    "country-language": "language",
}
"""Types of the outputs of tasks about the world; the outputs of any other task are a type of their own."""


def output_type(task: str) -> str:
    """The type under which a task's outputs stand in aliases.csv: its own name, unless they are things of the world."""
    return OUTPUTS.get(task, task)


def accepted_outputs(aliases: Aliases, task: str, pair: tuple[str, str]) -> tuple[str, ...]:
    """Further accepted answers to an input, beside the output given."""
    return aliases.of(output_type(task), pair[1], pair[0])


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Pairs of a JSON list of {"input", "output"}. Raises DataError, naming file and pair, for what is not one."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}; was it cut off?") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected a list of objects with input and output")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not {"input", "output"} <= row.keys():
            raise DataError(f"{path}: pair {number} needs input and output, found {row!r}")
    return [(str(row["input"]).strip(), str(row["output"]).strip()) for row in rows]
