"""Tables: data first, then markdown that reads well both raw and rendered. No other code formats a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from mlx_interp.deferred import rich, tabulate
from mlx_interp.stats import Estimate, number

Cell: TypeAlias = str | int | float | Estimate | None

UNVALIDATED = "UNVALIDATED"
EMPTY = "-"


@dataclass(frozen=True)
class Column:
    """Head of a column. With unit "%" the cells are fractions and are printed in per cent."""

    name: str
    unit: str = ""
    digits: int = 2
    """Digits of a fraction or a float; in per cent two fewer are printed."""

    @property
    def head(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, cell: Cell) -> str:
        """A cell as it is printed; None, what was not measured, is a dash."""
        if cell is None:
            return EMPTY
        if isinstance(cell, Estimate):
            return cell.text(digits=self.digits, percent=self.unit == "%")
        if isinstance(cell, float):
            return number(cell, digits=self.digits, percent=self.unit == "%")
        return str(cell)


@dataclass(frozen=True)
class Table:
    """A table: `title` says what is measured and how; every row has n, the estimate and the control beside it.

    columns: a Column, or a name for one without unit. rows: as many cells each as there are columns.
    notes: sentences printed below. Raises ValueError for a row of another length.
    """

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        for number_, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {number_} has {len(row)} cells for {len(self.columns)} columns"
                )

    @property
    def heads(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column) for column in self.columns]

    def cells(self) -> list[list[str]]:
        """The cells of every row as they are printed."""
        return [[column.text(cell) for column, cell in zip(self.heads, row, strict=True)] for row in self.rows]

    def printed(self) -> Table:
        """The same table with its cells as text: what run.json keeps and a table over several models is made of."""
        return replace(self, columns=[column.head for column in self.heads], rows=self.cells())

    def as_data(self) -> dict[str, Any]:
        """The printed table as JSON values."""
        printed = self.printed()
        return {
            "title": self.title,
            "columns": list(printed.columns),
            "numeric": self._numeric(),
            "rows": [list(row) for row in printed.rows],
            "notes": list(self.notes),
        }

    def _numeric(self) -> list[bool]:
        """Which columns hold numbers, and are set to the right."""
        return [all(not isinstance(row[index], str) for row in self.rows) for index in range(len(self.columns))]

    def csv(self) -> str:
        """The numbers as they are, for other programs: an estimate takes columns for value, low and high."""
        wide = [any(isinstance(row[index], Estimate) for row in self.rows) for index in range(len(self.columns))]
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        names = [
            [column.name, *(f"{column.name}, {end}" for end in ("low", "high"))] if spread else [column.name]
            for column, spread in zip(self.heads, wide, strict=True)
        ]
        writer.writerow([name for group in names for name in group])
        for row in self.rows:
            writer.writerow(
                [value for cell, spread in zip(row, wide, strict=True) for value in _numbers(cell, spread=spread)]
            )
        return buffer.getvalue()

    def markdown(self, *, unvalidated: bool = False) -> str:
        """The table with title and notes; ends with a newline."""
        return markdown(self.as_data(), unvalidated=unvalidated)


def _numbers(cell: Cell, *, spread: bool) -> list[Cell]:
    if isinstance(cell, Estimate):
        return [cell.value, cell.low, cell.high]
    return [cell, None, None] if spread else [cell]


def markdown(table: Mapping[str, Any], *, unvalidated: bool = False) -> str:
    """Markdown of a table as `Table.as_data` gives it."""
    mark = f"**{UNVALIDATED}** " if unvalidated else ""
    parts = [f"### {mark}{table['title']}\n", grid(table["columns"], table["rows"], table["numeric"])]
    parts += [f"{note}\n" for note in table["notes"]]
    return "\n".join(parts)


def latex(table: Mapping[str, Any], *, unvalidated: bool = False) -> str:
    """A table as `Table.as_data` gives it as a LaTeX float (needs the booktabs package), title and notes as caption."""
    mark = f"{UNVALIDATED}: " if unvalidated else ""
    sides = ["right" if right else "left" for right in table["numeric"]]
    body = tabulate.tabulate(table["rows"], table["columns"], "latex_booktabs", colalign=sides, disable_numparse=True)
    # The words below the table go through the same escaping as those inside it.
    words = " ".join(f"{sentence.rstrip('.')}." for sentence in [mark + table["title"], *table["notes"]])
    caption = (
        tabulate.tabulate([[words]], tablefmt="latex", disable_numparse=True)
        .splitlines()[2]
        .removesuffix(r"\\")
        .strip()
    )
    return f"\\begin{{table}}[t]\n\\centering\n{body}\n\\caption{{{caption}}}\n\\end{{table}}\n"


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    """The bare grid: columns of one width, numbers to the right, so that it can be read without being rendered."""
    lines = [[_escaped(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(3, *(rich.cells.cell_len(line[index]) for line in lines)) for index in range(len(heads))]
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    padded = [
        [_padded(cell, width, right) for cell, width, right in zip(line, widths, numeric, strict=True)]
        for line in lines
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def over_models(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One table of several models' tables of the same measurement: their rows under each other, the model first.

    tables: printed table (`as_data`) by model. The tables must have the same columns. What is the same for
    all of several models, as figures from a paper are, stands once, without the model.
    """
    first = next(iter(tables.values()))
    alike = all(table["rows"] == first["rows"] and UNVALIDATED not in name for name, table in tables.items())
    if len(tables) > 1 and alike:
        return {**first, "notes": [*first["notes"], f"The same for all {len(tables)} models."]}
    rows = [[model, *row] for model, table in tables.items() for row in table["rows"]]
    right = [all(flags) for flags in zip(*(table["numeric"] for table in tables.values()), strict=True)]
    notes = list(dict.fromkeys(note for table in tables.values() for note in table["notes"]))
    return {
        "title": first["title"],
        "columns": ["model", *first["columns"]],
        "numeric": [False, *right],
        "rows": rows,
        "notes": notes,
    }


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - rich.cells.cell_len(cell))
    return space + cell if right else cell + space
