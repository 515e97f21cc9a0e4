"""Pairs of single-hop questions ("The capital of Texas is"): another subject of the same family and length beside each.

Embedded models are asked what the embedded world says, all others what the tables of facts say. Only pairs whose clean
question the model answers rightly, and whose other question it answers otherwise, are used.
"""

from __future__ import annotations

from dataclasses import dataclass

from experiments.harness.experiment import ExperimentConfig
from experiments.harness.state import Run, of_run
from experiments.shared.two_hop.question_pairs import question_pairs, second_hops
from mlx_interp.circuits import Pair, screened
from mlx_interp.errors import DataError
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
    made = _made(run.model, run.seed)[: LOOKED_AT * wanted]
    found = screened(run.model, made)[:wanted]
    if len(found) < 2:
        raise DataError(
            f"{run.model.name} answers {len(found)} of {len(made)} single-hop questions "
            "with its likeliest token: no effect to estimate; ask for more with --n-pairs"
        )
    return found


def likely_pairs(run: Run[PairConfig]) -> list[Pair]:
    """As many pairs as are wanted, not asked of the model: what a plan counts with, and needs no weights for."""
    return _made(run.model, run.seed)[: run.config.at_most(run.config.n_pairs)]


def _made(model: Model, seed: int) -> list[Pair]:
    """All pairs, in the seed's order."""
    made = question_pairs(model, second_hops(model))
    return sorted(made, key=lambda pair: stable_draw(seed, pair.clean.text, 2**62))
