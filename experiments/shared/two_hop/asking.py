"""How two-hop queries are asked, and which way a model answers most: chosen on queries that are not reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from experiments.harness.experiment import Records
from experiments.harness.frame import of
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.data import TwoHopConfig, data, is_embedded
from mlx_interp.behaviour.elicitation import Way, asked, ways_of
from mlx_interp.behaviour.two_hop import screen_texts
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.reporting import Table
from mlx_interp.stats import stable_draw

STAGE = "elicited"
SET_ASIDE = 48
"""Queries that ways of asking are compared on, at most; and at most one of so many of each family:"""
ONE_OF = 6
ENOUGH = 60
"""Queries that the data must have for any to be set aside."""


@dataclass(frozen=True)
class Asking:
    """A way of asking."""

    way: Way

    @property
    def key(self) -> str:
        return self.way


class Elicited(TypedDict):
    """What a model answers of the queries set aside, asked in one way."""

    way: str
    n: int
    first_hop: int
    """Queries with this prompt answered; so for the others."""
    second_hop: int
    both_hops: int
    two_hop: int
    """Of those with both hops answered."""
    example: str
    """A two-hop prompt as it is asked, and what is written behind it."""


def ways(run: Run[TwoHopConfig], earlier: Records) -> list[Asking]:
    """Ways of asking that are compared: none where the options, or the data, settle it."""
    return [Asking(way) for way in ways_of(run.model)] if set_aside(run) else []


def compare(run: Run[TwoHopConfig], item: Asking) -> Iterator[Elicited]:
    """How many of the queries set aside are answered, asked in one way."""
    chosen = [query for query in data(run) if query.key in set_aside(run)]
    found = []
    for start in range(0, len(chosen), 16):
        part = [ask(run, query, item.way) for query in chosen[start : start + 16]]
        found += screen_texts(run.model, part)
    example = found[0]
    yield {
        "way": item.way,
        "n": len(found),
        "first_hop": sum(one.first_hop.whole_name for one in found),
        "second_hop": sum(one.second_hop.whole_name for one in found),
        "both_hops": sum(one.hops_known for one in found),
        "two_hop": sum(one.hops_known and one.two_hop.whole_name for one in found),
        "example": f"{example.query.two_hop}{getattr(example.two_hop, 'text', '')}",
    }


def chosen_way(run: Run[TwoHopConfig], earlier: Records) -> Way:
    """The way in which queries are asked: the options', or the one with most hops known, the plainest of equals."""
    if run.config.elicit != "auto":
        return run.config.elicit
    return _most_answered(of(earlier, STAGE)) or "plain"


def _most_answered(compared: Records) -> Way | None:
    """The way with most hops known, the first of equals; None where none was compared."""
    best = max(compared, key=lambda record: record["both_hops"], default=None)
    return None if best is None else cast(Way, best["way"])


def reported(run: Run[TwoHopConfig], queries: Sequence[TwoHopQuery], way: Way) -> list[TwoHopQuery]:
    """Queries as they are asked, without those set aside."""
    return [ask(run, query, way) for query in queries if query.key not in set_aside(run)]


def ask(run: Run[TwoHopConfig], query: TwoHopQuery, way: Way) -> TwoHopQuery:
    """A query as it is put to the model; examples are the first of the family that share no entity with it."""
    kin = _families(run).get(query.family, ()) if way == "examples" else ()
    return asked(run.model, query, kin, way, run.config.examples)


@of_run(2)
def set_aside(run: Run[TwoHopConfig]) -> frozenset[str]:
    """Keys of the queries that ways of asking are compared on: drawn by their names, evenly from all families.

    No more than --limit, so that a look stays one.
    """
    everything = data(run)
    if run.config.elicit != "auto" or is_embedded(run) or len(everything) < ENOUGH:
        return frozenset()
    drawn: list[tuple[int, str]] = []
    for kin in _families(run).values():
        order = sorted(kin, key=lambda query: stable_draw(run.seed, query.key, 2**30))
        drawn += [(turn, query.key) for turn, query in enumerate(order[: len(kin) // ONE_OF])]
    return frozenset(key for _, key in sorted(drawn)[: min(SET_ASIDE, run.config.limit or SET_ASIDE)])


@of_run(2)
def _families(run: Run[TwoHopConfig]) -> dict[str, list[TwoHopQuery]]:
    found: dict[str, list[TwoHopQuery]] = {}
    for query in data(run):
        found.setdefault(query.family, []).append(query)
    return found


def table(records: Records, config: TwoHopConfig) -> Table | None:
    """How many queries each way of asking has answered, and which one was taken."""
    found = of(records, STAGE)
    if not found:
        return None
    taken = _most_answered(found)
    return Table(
        "How the queries are asked",
        ["asked", "queries", "first hop", "second hop", "both hops", "two hops, of these", "taken"],
        [
            [
                r["way"],
                r["n"],
                r["first_hop"],
                r["second_hop"],
                r["both_hops"],
                r["two_hop"],
                "yes" * (r["way"] == taken),
            ]
            for r in found
        ],
        [
            f"Queries answered within ten greedy tokens, of those set aside for this choice: they are not reported. "
            f"Examples: {config.examples} solved prompts of the same kind, none with an entity of the query. Chat: the "
            "prompt is the beginning of the reply. Taken: most queries with both hops answered.",
        ],
    )
