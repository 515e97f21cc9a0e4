"""Two-hop queries from single facts: tables of one relation each, joined where one's object is another's subject.

1. relations.csv names each relation, the types of its two ends, its template, and the Wikidata property under which
   its facts can be checked. facts/RELATION.csv holds its facts: subject, object. A relation that is the inverse of
   another (the country whose capital is Paris) has no table: it reads the other's backwards.
2. two_hop_families.csv names each family of queries, the relations of its two hops, and how many queries at most.
3. A query is a fact of the first relation whose object, the bridge, is the subject of a fact of the second. Left out
   are those in which two of the three entities are the same or begin alike (Mexico, Mexico City), and those whose
   prompt names the bridge or the answer by any accepted name ("the Bank of England").
4. In a family, every bridge comes once before any comes twice, and so do the answers among these, so that the first N
   hold as many bridges and answers as can be.

Names stand in the tables as in a sentence. An article belongs to the prompt: the bridge "the United States" is asked
for by "The country containing Mount Rushmore is the" and is called "United States".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.data import DATA_FOLDER
from experiments.data.aliases import Aliases, read_aliases, read_table, unaccented, without_article
from experiments.data.published_facts import Fact
from mlx_interp.behaviour.answers import mentions
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import DataError, nearest

FACTS = DATA_FOLDER / "facts"
RELATIONS = DATA_FOLDER / "relations.csv"
FAMILIES = DATA_FOLDER / "two_hop_families.csv"


@dataclass(frozen=True)
class Relation:
    """A relation and its facts."""

    name: str
    subject: str
    """Type of the subject, e.g. city; so for `object`."""
    object: str
    template: str
    """With {} where the subject goes: "the capital of {}"."""
    property: str
    """Wikidata's number for it."""
    facts: Mapping[str, str]
    """Object by subject, both as in a sentence."""


@dataclass(frozen=True)
class Family:
    """A pair of relations, and at most how many of its queries are used."""

    name: str
    first: Relation
    second: Relation
    most: int


def read_relations(path: Path = RELATIONS, facts: Path = FACTS) -> dict[str, Relation]:
    """Relations by name, each with its table. Raises DataError, naming file and row, for what does not fit."""
    columns = ("relation", "subject", "object", "template", "property", "inverse_of")
    rows = read_table(path, columns, empty=("inverse_of",))
    found: dict[str, Relation] = {}
    for number, row in enumerate(rows, 1):
        if row["template"].count("{}") != 1:
            raise DataError(f"{path}, row {number}: template {row['template']!r} must hold {{}} once, for the subject")
        if row["relation"] in found:
            raise DataError(f"{path}, row {number}: relation {row['relation']!r} has a row already")
        table = _facts(facts / f"{row['inverse_of'] or row['relation']}.csv")
        if row["inverse_of"]:
            table = _backwards(table, f"{path}, row {number}")
        found[row["relation"]] = Relation(
            row["relation"], row["subject"], row["object"], row["template"], row["property"], table
        )
    return found


def _backwards(facts: Mapping[str, str], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for subject, name in facts.items():
        if name in found:
            raise DataError(f"{where}: {name!r} belongs to {found[name]!r} and {subject!r}; a fact has one answer")
        found[name] = subject
    return found


def _facts(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, row in enumerate(read_table(path, ("subject", "object")), 1):
        if row["subject"] in found:
            raise DataError(f"{path}, row {number}: {row['subject']!r} has an object already; a fact has one answer")
        found[row["subject"]] = row["object"]
    return found


def read_families(relations: Mapping[str, Relation], path: Path = FAMILIES) -> list[Family]:
    """Families of queries, in their order. Raises DataError for relations that are not there or do not meet."""
    found = []
    for number, row in enumerate(read_table(path, ("family", "first", "second", "most")), 1):
        for name in (row["first"], row["second"]):
            if name not in relations:
                near = nearest(name, list(relations))
                raise DataError(f"{path}, row {number}: no relation {name!r}: {near}there are {', '.join(relations)}")
        first, second = relations[row["first"]], relations[row["second"]]
        if first.object != second.subject:
            raise DataError(
                f"{path}, row {number}: {first.name} leads to a {first.object} and {second.name} starts at a "
                f"{second.subject}: they have no bridge"
            )
        if not row["most"].isdecimal():
            raise DataError(f"{path}, row {number}: most is {row['most']!r}; give a number of queries")
        found.append(Family(row["family"], first, second, int(row["most"])))
    return found


@cache
def real_facts() -> tuple[Fact, ...]:
    """Every two-hop query of facts of the world, family by family, with its type of bridge."""
    aliases = read_aliases()
    families = read_families(read_relations())
    pairs = [(family, query) for family in families for query in family_queries(family, aliases)]
    return tuple(Fact(str(n), query, family.first.object) for n, (family, query) in enumerate(pairs))


def real_queries() -> list[TwoHopQuery]:
    """The queries alone: the data of studies on real models."""
    return [fact.query for fact in real_facts()]


def family_queries(family: Family, aliases: Aliases) -> list[TwoHopQuery]:
    """The queries of a family, bridges and answers in turn, and no more than it may have."""
    return list(_in_turn(joined(family, aliases)))[: family.most]


def joined(family: Family, aliases: Aliases) -> Iterator[TwoHopQuery]:
    """Every query of a family in its first table's order, without those that give themselves away."""
    for subject, bridge in family.first.facts.items():
        if bridge in family.second.facts:
            query = _query(family, aliases, subject, bridge, family.second.facts[bridge])
            if not gives_itself_away(query):
                yield query


def _query(family: Family, aliases: Aliases, subject: str, bridge: str, answer: str) -> TwoHopQuery:
    first, second = family.first, family.second
    mention = first.template.format(subject)
    labels = [without_article(name) for name in (subject, bridge, answer)]
    return TwoHopQuery(
        family=family.name,
        subject=subject,
        bridge=labels[1],
        answer=labels[2],
        two_hop=_asked(second.template.format(mention), answer),
        first_hop=_asked(mention, bridge),
        second_hop=_asked(second.template.format(bridge), answer),
        mention=mention,
        bridge_aliases=aliases.of(first.object, labels[1], subject),
        answer_aliases=aliases.of(second.object, labels[2], bridge),
        source=f"Wikidata, CC0: {labels[0]} ({first.property}); {labels[1]} ({second.property})",
    )


def _asked(phrase: str, answer: str) -> str:
    """A phrase as a sentence that the answer ends; an article of the answer stands in the sentence already."""
    return f"{phrase[0].upper()}{phrase[1:]} is{' the' if answer.startswith('the ') else ''}"


def gives_itself_away(query: TwoHopQuery) -> bool:
    """Whether two of the three entities are the same or begin alike, or the prompt names the bridge or the answer."""
    prompt = unaccented(query.two_hop)
    if mentions(prompt, [unaccented(name) for name in (*query.bridges, *query.answers)]):
        return True
    one, other = _plain(query.bridge), _plain(query.answer)
    return one.startswith(other) or other.startswith(one) or mentions(one, [other]) or mentions(other, [one])


def _plain(name: str) -> str:
    return re.sub(r"\s+", " ", unaccented(name)).casefold()


def _in_turn(queries: Iterable[TwoHopQuery]) -> list[TwoHopQuery]:
    """Each bridge once, then each once more, ...; and in each of these rounds each answer once, then once more, ..."""
    bridges: Counter[str] = Counter()
    answers: Counter[tuple[int, str]] = Counter()
    turns: list[tuple[int, int, int, TwoHopQuery]] = []
    for query in queries:
        turn = bridges[query.bridge]
        turns.append((turn, answers[turn, query.answer], len(turns), query))
        bridges[query.bridge] += 1
        answers[turn, query.answer] += 1
    return [query for *_, query in sorted(turns, key=lambda each: each[:3])]
