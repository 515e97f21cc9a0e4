"""Facts in the columns of the published two-hop data set, CSV or JSON: its two_hop.csv loads as it is.

A row names subject, bridge and answer with a template for each relation (Biran et al. 2024, arXiv 2406.12775). Rows in
which two of the three entities are the same are left out, as in the paper.
"""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError, nearest

NEEDED = ("e1_label", "e2_label", "e3_label", "r1_template", "r2_template")
OPTIONAL = (
    *("id", "e1", "r1", "e2", "r2", "e3", "e1_aliases", "e2_aliases", "e3_aliases", "e1_type", "r1_type", "e2_type"),
    *("r2_type", "e3_type", "e1_popularity", "e2_popularity", "e3_popularity", "source_prompt", "prompt", "source"),
)


@dataclass(frozen=True)
class Fact:
    """A row of the table: a query, and what it is grouped by."""

    id: str
    query: TwoHopQuery
    bridge_type: str


def read_facts(path: Path | str) -> list[Fact]:
    """All facts of a CSV or JSON table, in its order; rows whose entities are not three different ones are left out.

    Raises DataError, naming file, row and column, for a missing or unknown column, an empty cell, a template without
    its {}, or aliases that are no list.
    """
    path = Path(path)
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path}: holds no facts; the columns are {', '.join(NEEDED)} and optionally more")
    facts = [_fact(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]
    kept = [fact for fact in facts if fact is not None]
    return list({fact.query.key: fact for fact in kept}.values())


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:] or 'CSV'}: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected a list of objects, one a fact")
    yield from rows


def _fact(row: Mapping[str, Any], where: str) -> Fact | None:
    known = [*NEEDED, *OPTIONAL]
    for name in NEEDED:
        if not str(row.get(name) or "").strip():
            near = nearest(name, [column for column in row if column not in known])
            raise DataError(f"{where}: column {name!r} is missing or empty; {near}needed are {', '.join(NEEDED)}")
    for name in ("r1_template", "r2_template"):
        if row[name].count("{}") != 1:
            raise DataError(f"{where}: {name} {row[name]!r} must hold {{}} once, where the entity goes")
    subject, bridge, answer = (str(row[name]).strip() for name in NEEDED[:3])
    if len({subject.lower(), bridge.lower(), answer.lower()}) < 3:
        return None
    mention = row["r1_template"].format(subject)
    query = TwoHopQuery(
        family=_slug(row),
        subject=subject,
        bridge=bridge,
        answer=answer,
        two_hop=f"{row['r2_template'].format(mention)} is",
        first_hop=f"{mention} is",
        second_hop=f"{row['r2_template'].format(bridge)} is",
        mention=mention,
        bridge_aliases=_aliases(row, "e2_aliases", bridge, where),
        answer_aliases=_aliases(row, "e3_aliases", answer, where),
        source=str(row.get("source") or ""),
    )
    return Fact(str(row.get("id") or ""), query, str(row.get("e2_type") or ""))


def _slug(row: Mapping[str, Any]) -> str:
    """The family's name: what leads to the bridge and from it, e.g. "landmark_country_capital"."""
    parts = [str(row.get(name) or "") for name in ("e1_type", "e2_type", "r2_type")]
    if not all(parts):
        parts = [str(row[name]).replace("{}", " ") for name in ("r1_template", "r2_template")]
    return "_".join("_".join(part.lower().split()) for part in parts)


def _aliases(row: Mapping[str, Any], column: str, label: str, where: str) -> tuple[str, ...]:
    """A Python or JSON list as text, as in the published file; or a list."""
    value = row.get(column) or []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError) as error:
            raise DataError(f"{where}: {column} {value!r} is no list") from error
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{where}: {column} must be a list of strings, found {value!r}")
    return tuple(name for name in dict.fromkeys(value) if name.strip() and name != label)
