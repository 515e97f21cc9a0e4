"""Pairs of single-hop questions ("The capital of Texas is"): another subject of the same family and length beside each.

Embedded models are asked what the embedded world says, all others what the tables of facts say. Only pairs whose clean
question the model answers rightly, and whose other question it answers otherwise, are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from experiments.data.single_facts import real_queries
from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from mlx_interp.behaviour.answers import continuation
from mlx_interp.circuits import Pair, screened
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.embedded import load_world
from mlx_interp.errors import DataError
from mlx_interp.loading.names import EMBEDDED
from mlx_interp.model import Model
from mlx_interp.stats import stable_draw

LOOKED_AT = 6
"""Pairs that the model is asked, for each that is wanted: it does not answer all of them."""


@dataclass(frozen=True)
class PairConfig(ExperimentConfig):
    """Fields of all parts that ask single-hop questions."""

    n_pairs: int = 16
    """Pairs of questions."""


@of_run(2)
def hop_pairs(run: Run[PairConfig], most: int = 0) -> list[Pair]:
    """Pairs that the model answers, in an order that depends on the seed alone; `most` of them, or n_pairs.

    Raises DataError for fewer than two.
    """
    wanted = most or run.config.at_most(run.config.n_pairs)
    made = list(islice(_made(run.model, run.seed), LOOKED_AT * wanted))
    found = screened(run.model, made)[:wanted]
    if len(found) < 2:
        raise DataError(
            f"{run.model.name} answers {len(found)} of {len(made)} single-hop questions "
            "with its likeliest token: no effect to estimate; ask for more with --n-pairs"
        )
    return found


def likely_pairs(run: Run[PairConfig]) -> list[Pair]:
    """As many pairs as are wanted, not asked of the model: what a plan counts with, and needs no weights for."""
    return list(islice(_made(run.model, run.seed), run.config.at_most(run.config.n_pairs)))


def asked_questions(model: Model) -> list[TwoHopQuery]:
    """Queries whose second hops are asked, each question once."""
    queries = load_world().two_hop_queries() if model.name in EMBEDDED else real_queries()
    return list({query.second_hop: query for query in queries if query.split != "never_composed"}.values())


def _made(model: Model, seed: int) -> Iterator[Pair]:
    """Each question with the next one of its family and length whose answer begins otherwise, in the seed's order."""
    alike: dict[tuple[str, int], list[TwoHopQuery]] = defaultdict(list)
    places: list[tuple[TwoHopQuery, list[TwoHopQuery], int]] = []
    for query in asked_questions(model):
        mine = alike[query.family, len(model.prompt(query.second_hop))]
        places.append((query, mine, len(mine)))
        mine.append(query)
    for query, mine, at in sorted(places, key=lambda place: stable_draw(seed, place[0].second_hop, 2**62)):
        answer = _first(model, query)
        for other in (*mine[at + 1 :], *mine[:at]):
            if (wrong := _first(model, other)) != answer:
                prompts = model.prompt(query.second_hop), model.prompt(other.second_hop)
                yield Pair(query.second_hop, *prompts, (answer,), (wrong,), query.family)
                break


def _first(model: Model, query: TwoHopQuery) -> int:
    """The first token of a question's answer."""
    return continuation(model, model.prompt(query.second_hop), query.answer)[0]
