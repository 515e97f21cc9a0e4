"""Checks of all data that ship: `python -m experiments.data.check` names every fault and exits with 1 if there is one.

1. Two-hop queries: keys unique; three different entities; subject once in its prompt and no other entity in it; one
   bridge for a subject and one answer for a bridge, whichever family asks; a source.
2. Accepted names: two things of one family (both bridges, or both answers) share no name, and no name of one holds a
   name of the other as whole words, so that a text cannot answer for the wrong one; no name is an ordinary word.
3. Function tasks: no input twice; the same of outputs that are things of the world.
4. aliases.csv: no row that nothing uses.
5. Splits of one set share no item and no entity (`shared_between`); `duplicates` and this serve every set of prompts.
6. Requests, questions and opinions: as `check_requests.py` says.

A further data set adds a function of no argument that yields faults, and a line in `SETS`.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

from experiments.data import check_requests
from experiments.data.aliases import read_aliases, unaccented
from experiments.data.function_answers import OUTPUTS, TASKS, accepted_outputs, output_type, read_pairs
from experiments.data.single_facts import Family, family_queries, gives_itself_away, read_families, read_relations
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.errors import MlxInterpError

ORDINARY_WORDS = frozenset("a an as be in is it may no of on or real so the to us was we will won you".split())
"""Words that a text of ten tokens holds by chance, or that begin a sentence."""


def two_hop_faults() -> Iterator[str]:
    """Faults of the two-hop queries of facts of the world."""
    aliases = read_aliases()
    families = read_families(read_relations())
    yield from duplicates("families", [family.name for family in families])
    queries = [query for family in families for query in family_queries(family, aliases)]
    yield from query_faults(queries)
    for family in families:
        yield from family_faults(family, [query for query in queries if query.family == family.name])


def query_faults(queries: Sequence[TwoHopQuery]) -> Iterator[str]:
    """Faults of queries one by one, and of facts on which two of them disagree."""
    yield from duplicates("two-hop queries", [query.key for query in queries])
    bridges, answers = defaultdict(set), defaultdict(set)
    for query in queries:
        if query.two_hop.count(query.subject) != 1:
            yield f"{query.key}: names its subject {query.subject!r} {query.two_hop.count(query.subject)} times"
        if len({unaccented(name).casefold() for name in (query.subject, query.bridge, query.answer)}) < 3:
            yield f"{query.key}: two of its three entities are the same"
        if gives_itself_away(query):
            yield f"{query.key}: names its bridge {query.bridge!r} or its answer {query.answer!r}"
        if not query.source:
            yield f"{query.key}: has no source"
        bridges[query.first_hop].add(query.bridge)
        answers[query.second_hop].add(query.answer)
    for prompt, names in [*bridges.items(), *answers.items()]:
        if len(names) > 1:
            yield f"{prompt!r} has several answers: {', '.join(sorted(names))}"
    by_split = {split: [q for q in queries if q.split == split] for split in {q.split for q in queries}}
    yield from shared_between("subjects", {split: [q.subject for q in of] for split, of in by_split.items()})


def family_faults(family: Family, queries: Sequence[TwoHopQuery]) -> Iterator[str]:
    """A family with no query, and names by which two of its bridges or two of its answers can be taken for another."""
    if not queries:
        yield f"{family.name} has no query: {family.first.name} leads to nothing that {family.second.name} knows"
    yield from name_clashes(f"bridges of {family.name}", [query.bridges for query in queries])
    yield from name_clashes(f"answers of {family.name}", [query.answers for query in queries])


def function_task_faults() -> Iterator[str]:
    """Faults of the function tasks."""
    aliases = read_aliases()
    for path in sorted(TASKS.glob("*.json")):
        pairs = read_pairs(path)
        yield from duplicates(f"inputs of {path.stem}", [x for x, _ in pairs])
        if path.stem in OUTPUTS:  # of words, one may answer for another: "hard" is wrong for none of its opposites
            accepted = [(y, *accepted_outputs(aliases, path.stem, (x, y))) for x, y in pairs]
            yield from name_clashes(f"outputs of {path.stem}", accepted, ordinary=False)


def alias_faults() -> Iterator[str]:
    """Rows of aliases.csv that no fact and no task uses."""
    known: dict[str, set[str]] = defaultdict(set)
    for relation in read_relations().values():
        known[relation.object] |= {name.removeprefix("the ") for name in relation.facts.values()}
        known[f"of {relation.object}"] |= {name.removeprefix("the ") for name in relation.facts}
    for path in sorted(TASKS.glob("*.json")):
        kind = output_type(path.stem)
        known[kind] |= {y for _, y in read_pairs(path)}
        known[f"of {kind}"] |= {x for x, _ in read_pairs(path)}
    for kind, name, about in read_aliases().rows:
        if name not in known[kind]:
            yield f"aliases.csv: no {kind} {name!r} in the facts or tasks"
        elif about and about not in known[f"of {kind}"]:
            yield f"aliases.csv: {name!r} is asked of {about!r} nowhere"


def duplicates(what: str, items: Iterable[Hashable]) -> Iterator[str]:
    """What occurs more than once."""
    for item, count in Counter(items).items():
        if count > 1:
            yield f"{what}: {item!r} occurs {count} times"


def shared_between(what: str, splits: Mapping[str, Iterable[Hashable]]) -> Iterator[str]:
    """What two splits of one set share: items, or the entities that items are about."""
    sets = {name: set(items) for name, items in splits.items()}
    for one, other in itertools.combinations(sorted(sets), 2):
        for item in sorted(sets[one] & sets[other], key=repr):
            yield f"{what}: {item!r} is in {one!r} and in {other!r}"


def name_clashes(where: str, accepted: Iterable[Sequence[str]], ordinary: bool = True) -> Iterator[str]:
    """Names by which one thing can be taken for another, each thing given by its label and then its aliases.

    ordinary: also report names that are ordinary words.
    """
    things: dict[str, set[str]] = defaultdict(set)
    for label, *aliases in accepted:
        things[label] |= {_plain(name) for name in (label, *aliases)}
    owners = defaultdict(set)
    for label, names in things.items():
        for name in names:
            owners[name].add(label)
            if ordinary and name in ORDINARY_WORDS:
                yield f"{where}: {label!r} is accepted as {name!r}, an ordinary word"
    for label, names in things.items():
        held = {part for name in names for part in _parts(name)}
        for part in sorted(held & owners.keys()):
            for other in sorted(owners[part] - {label}):
                yield f"{where}: a name of {label!r} holds {part!r}, a name of {other!r}"


def _plain(name: str) -> str:
    return unaccented(name).casefold()


def _parts(name: str) -> set[str]:
    """Every stretch of whole words of a name."""
    ends = [match.span() for match in re.finditer(r"\w+", name)]
    inside = {name[start:end] for start, _ in ends for _, end in ends if end > start}
    return inside | {name}


SETS: dict[str, Callable[[], Iterable[str]]] = {
    "two-hop queries": two_hop_faults,
    "function tasks": function_task_faults,
    "aliases": alias_faults,
    "requests, questions and opinions": check_requests.problems,
}
"""What is checked, by name."""


def faults() -> Iterator[str]:
    """Every fault of every set; a table that cannot be read is one."""
    for name, check in SETS.items():
        try:
            yield from (f"{name}: {fault}" for fault in check())
        except MlxInterpError as error:
            yield f"{name}: {error}"


def main() -> int:
    """Exit status 0, or 1 where there is a fault."""
    found = list(faults())
    for fault in found:
        print(fault)
    print(f"{len(found)} faults in {', '.join(SETS)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
