"""Names that people use for one thing, of all facts and function tasks: read from aliases.csv, here and nowhere else.

1. A row has a type (country, city, person, ..., or a function task), a name of that type, and its aliases, parted by
   ";". `of` restricts a row to one thing asked about: the rupee is also the "Indian rupee" where India is asked about,
   and only there.
2. A name with accents is accepted without them too.
3. Left out on purpose: articles ("a text mentions United States" holds for "the United States"), and aliases that are
   ordinary words ("US" is "us" where case is ignored), which a text holds by chance.

Currencies go by the word that people say (pound, dollar, peso), which several countries share. So a text that names
another country's pound counts as right: the word is the answer, as "euro" is for twenty countries. Queries with equal
answers are never each other's control (`donor_of`).
"""

from __future__ import annotations

import csv
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.data import DATA_FOLDER
from mlx_interp.errors import DataError

ALIASES = DATA_FOLDER / "aliases.csv"
COLUMNS = ("type", "name", "of", "aliases")


@dataclass(frozen=True)
class Aliases:
    """Aliases by type, name, and what is asked about ("" for anything)."""

    rows: Mapping[tuple[str, str, str], tuple[str, ...]]

    def of(self, kind: str, name: str, about: str = "") -> tuple[str, ...]:
        """Further accepted spellings of a name, the name itself left out."""
        about = without_article(about)
        found = self.rows.get((kind, name, ""), ())
        if about:
            found += self.rows.get((kind, name, about), ())
        return spellings(name, found)

    def all_of(self, kind: str, name: str) -> tuple[str, ...]:
        """Every alias of a name, whatever is asked about."""
        return tuple(alias for (k, n, _), found in self.rows.items() if (k, n) == (kind, name) for alias in found)


@cache
def read_aliases(path: Path = ALIASES) -> Aliases:
    """The table of aliases. Raises DataError, naming file and row, for a wrong column, an empty cell or a row twice."""
    rows: dict[tuple[str, str, str], tuple[str, ...]] = {}
    for number, row in enumerate(read_table(path, COLUMNS, empty=("of",)), 1):
        key = (row["type"], row["name"], row["of"])
        if key in rows:
            raise DataError(f"{path}, row {number}: {key} has a row already; join the two")
        rows[key] = tuple(alias.strip() for alias in row["aliases"].split(";"))
        if "" in rows[key]:
            raise DataError(f"{path}, row {number}: an alias of {row['name']!r} is empty; one ';' parts two aliases")
    return Aliases(rows)


def spellings(name: str, aliases: Iterable[str]) -> tuple[str, ...]:
    """Aliases with each unaccented spelling behind them, without the name and without repeats."""
    given = [name, *aliases]
    both = dict.fromkeys([*given, *(unaccented(one) for one in given)])
    return tuple(one for one in both if one != name)


def unaccented(text: str) -> str:
    """A text without accents: "São Paulo" as "Sao Paulo", "smørrebrød" as "smorrebrod"."""
    plain = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    return plain.translate(str.maketrans("łŁøØđĐı", "lLoOdDi"))


def without_article(name: str) -> str:
    """A name as a label: "the United States" without its article; titles with a capital keep theirs."""
    return name.removeprefix("the ")


def read_table(path: Path, columns: Iterable[str], empty: Iterable[str] = ()) -> list[dict[str, str]]:
    """Rows of a CSV table with just these columns. Raises DataError for others, and for a cell that must not be empty.

    empty: the columns whose cells may be.
    """
    columns, empty = tuple(columns), tuple(empty)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = [dict(row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV: {error}") from error
    if tuple(reader.fieldnames or ()) != columns:
        raise DataError(f"{path}: columns are {reader.fieldnames}; they must be {', '.join(columns)}")
    for number, row in enumerate(rows, 1):
        for column in columns:
            if row.get(column) is None or (column not in empty and not row[column].strip()):
                raise DataError(f"{path}, row {number}: column {column!r} is missing or empty")
        if None in row:
            raise DataError(f"{path}, row {number}: more cells than columns; a comma inside a cell needs quotes")
    return rows


def grouped(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Second members by first, in their order."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, value in rows:
        found[key].append(value)
    return dict(found)
