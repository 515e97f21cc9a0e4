"""Pairs of single-hop questions ("The capital of Texas is"): another subject of the same family and length beside each.

Embedded models are asked what the embedded world says, all others what the tables of facts say. Only pairs whose clean
question the model answers rightly, and whose other question it answers otherwise, are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

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
def hop_pairs(run: Run[PairConfig]) -> list[Pair]:
    """Pairs that the model answers, in an order that depends on the seed alone. Raises DataError for fewer than two."""
    wanted = run.config.at_most(run.config.n_pairs)
    made = sorted(_made(run.model), key=lambda pair: stable_draw(run.seed, pair.key, 2**62))
    found = screened(run.model, made[: LOOKED_AT * wanted])[:wanted]
    if len(found) < 2:
        raise DataError(
            f"{run.model.name} answers {len(found)} of {min(len(made), LOOKED_AT * wanted)} single-hop questions "
            "with its likeliest token: no effect to estimate; ask for more with --n-pairs"
        )
    return found


def _made(model: Model) -> Iterator[Pair]:
    queries = load_world().two_hop_queries() if model.name in EMBEDDED else real_queries()
    once = {query.second_hop: query for query in queries if query.split != "never_composed"}
    alike: dict[tuple[str, int], list[TwoHopQuery]] = defaultdict(list)
    for query in once.values():
        alike[query.family, len(model.prompt(query.second_hop))].append(query)
    for (family, _), asked in alike.items():
        firsts = [continuation(model, model.prompt(one.second_hop), one.answer)[0] for one in asked]
        for at, query in enumerate(asked):
            for step in range(1, len(asked)):
                other = (at + step) % len(asked)
                if firsts[other] != firsts[at]:
                    prompts = model.prompt(query.second_hop), model.prompt(asked[other].second_hop)
                    yield Pair(query.second_hop, *prompts, (firsts[at],), (firsts[other],), family)
                    break
