"""Two-hop queries: the record that every two-hop data file holds, embedded or of the real world, and its reader.

A file is JSON Lines, one query a line. The fields are those of `TwoHopQuery`; unknown fields are refused by name, so
that a misspelt one is never silently dropped.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_interp.errors import DataError, nearest


@dataclass(frozen=True)
class TwoHopQuery:
    """A query that names a subject and asks for the answer, reached over a bridge that it never names."""

    family: str
    """Which kind of query, e.g. "state_capital"; rates are reported per family."""
    subject: str
    bridge: str
    answer: str
    two_hop: str
    """The two-hop prompt, e.g. "The capital of the state containing Dallas is"."""
    first_hop: str
    """The prompt whose answer is the bridge, e.g. "The state containing Dallas is"."""
    second_hop: str
    """The prompt that names the bridge and asks for the answer, e.g. "The capital of Texas is"."""
    mention: str
    """The first hop's phrase inside `two_hop`; its last token is where the bridge is resolved."""
    bridge_aliases: tuple[str, ...] = ()
    """Further accepted spellings of the bridge."""
    answer_aliases: tuple[str, ...] = ()
    """Further accepted spellings of the answer."""
    split: str = ""
    """Where the ground truth is known: "trained", "held_out" or "never_composed"."""
    source: str = ""
    """Where the fact can be checked."""
    context: str = ""
    """What stands before the prompt in `two_hop`: solved examples, or the turns of a chat."""

    @property
    def key(self) -> str:
        """A name that is unique within a data set: prompts that are equal are the same query."""
        return f"{self.family}: {self.two_hop.removeprefix(self.context)}"

    @property
    def entity_shortcut(self) -> str:
        """The prompt with the first hop's relation left out: "The capital of Dallas is"."""
        return self.context + self.two_hop.removeprefix(self.context).replace(self.mention, self.subject)

    @property
    def relation_shortcut(self) -> str:
        """The prompt up to the subject: "The capital of the state containing"; what follows it if nothing precedes."""
        before, _, after = self.two_hop.removeprefix(self.context).rpartition(self.subject)
        return self.context + (before.strip() or after.strip())

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer, *self.answer_aliases)

    @property
    def bridges(self) -> tuple[str, ...]:
        return (self.bridge, *self.bridge_aliases)


FIELDS = {field.name: field for field in dataclasses.fields(TwoHopQuery)}
REQUIRED = [name for name, field in FIELDS.items() if field.default is dataclasses.MISSING]
LISTS = ("bridge_aliases", "answer_aliases")


def read_two_hop(path: Path | str) -> list[TwoHopQuery]:
    """All queries of a JSON Lines file, in its order.

    Raises DataError, naming file, line and field, for a line that is not JSON, a missing, empty, unknown or mistyped
    field, a mention that the prompt does not contain, and a query that occurs twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    queries = [parse_query(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not queries:
        raise DataError(f"{path}: holds no query; give one JSON object a line with {', '.join(REQUIRED)}")
    seen: dict[str, int] = {}
    for number, query in enumerate(queries, 1):
        if query.key in seen:
            raise DataError(f"{path}: query {number} repeats query {seen[query.key]}: {query.two_hop!r}")
        seen[query.key] = number
    return queries


def parse_query(line: str, where: str) -> TwoHopQuery:
    """One query from one line of JSON; `where` opens every error message."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(fields).__name__}")
    for name in fields:
        if name not in FIELDS:
            raise DataError(f"{where}: unknown field {name!r}: {nearest(name, FIELDS)}fields are {', '.join(FIELDS)}")
    for name in REQUIRED:
        if name not in fields:
            raise DataError(f"{where}: field {name!r} is missing")
    query = TwoHopQuery(**{name: _checked(name, value, where) for name, value in fields.items()})
    if not query.two_hop.startswith(query.context):
        raise DataError(f"{where}: field 'context': {query.two_hop!r} does not begin with {query.context!r}")
    if query.mention not in query.two_hop:
        raise DataError(f"{where}: field 'mention': {query.mention!r} does not occur in {query.two_hop!r}")
    if query.subject not in query.mention:
        raise DataError(f"{where}: field 'mention': {query.mention!r} does not name the subject {query.subject!r}")
    return query


def _checked(name: str, value: Any, where: str) -> Any:
    if name in LISTS:
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise DataError(f"{where}: field {name!r} must be a list of non-empty strings, found {value!r}")
        return tuple(value)
    if not isinstance(value, str) or (name in REQUIRED and not value.strip()):
        raise DataError(f"{where}: field {name!r} must be a non-empty string, found {value!r}")
    return value
