"""Two-hop queries in every version: which are answered, and which of the stored model's failures back-patching repairs.

Every version is repaired on the same queries: those that the stored model fails at although it knows both hops. A
version may answer some of them by itself, which the records say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from experiments.exp21_precision.versions import STORED, PrecisionConfig, versions
from experiments.harness.experiment import Records, Stage, limited
from experiments.harness.frame import of
from experiments.harness.schema import InBatch
from experiments.harness.state import Run
from experiments.shared.two_hop.asking import ask
from experiments.shared.two_hop.data import by_text, data, is_embedded
from mlx_interp.behaviour.answers import answer_scores, question
from mlx_interp.behaviour.elicitation import Way
from mlx_interp.behaviour.two_hop import bridge_position, donor_of, screen, screen_texts
from mlx_interp.datasets import TwoHopQuery
from mlx_interp.patching.back_patching import EMBEDDING, Pair, patches, states_at

SCREENED, REPAIRED = "screened", "repaired"


class Answered(InBatch):
    """What one version answers of a query."""

    version: str
    family: str
    bridge: str
    hops_known: bool
    """Whether both single hops are answered."""
    answered: bool
    """Whether the two-hop query is."""
    shortcut: bool
    """Whether it is answered without the subject, or without the first relation."""


@dataclass(frozen=True)
class Failure:
    """A query that the stored model fails at, and another of its family whose states are the control."""

    query: TwoHopQuery
    donor: TwoHopQuery | None

    @property
    def key(self) -> str:
        return self.query.key


class Repaired(TypedDict):
    """Whether the answer's first token is the most likely one, by pair of layers."""

    version: str
    family: str
    bridge: str
    arm: str
    """own, or other query."""
    plain: bool
    """Without any patch."""
    fixed: list[bool]
    """By pair, as `pairs_of` has them."""
    n_layers: int


def way(run: Run[PrecisionConfig]) -> Way:
    """How queries are asked: as the options say; by themselves in the synthetic world, behind examples elsewhere."""
    if run.config.elicit != "auto":
        return run.config.elicit
    return "plain" if is_embedded(run) else "examples"


def queries(run: Run[PrecisionConfig], earlier: Records) -> list[TwoHopQuery]:
    chosen = limited(data(run), run.config.at_most(run.config.n_queries), lambda query: query.family)
    return [ask(run, query, way(run)) for query in chosen]


def screening(run: Run[PrecisionConfig], batch: Sequence[TwoHopQuery]) -> Iterator[Answered]:
    for name, model in versions(run):
        for found in (screen_texts if by_text(run) else screen)(model, batch):
            yield {
                "item": found.query.key,
                "version": name,
                "family": found.query.family,
                "bridge": found.query.bridge,
                "hops_known": found.hops_known,
                "answered": found.two_hop.whole_name,
                "shortcut": found.entity_shortcut.whole_name or found.relation_shortcut.whole_name,
            }


def pairs_of(n_layers: int, step: int) -> list[Pair]:
    """Pairs of some of the layers, the source above the target, and from each into the embedding."""
    layers = list(range(0, n_layers, step))
    return [(source, target) for target in (EMBEDDING, *layers) for source in layers if source > target]


def failures(run: Run[PrecisionConfig], earlier: Records) -> list[Failure]:
    """What the stored model fails at, evenly of all families."""
    wrong = {r["item"] for r in of(earlier, SCREENED, version=STORED) if r["hops_known"] and not r["answered"]}
    known = [query for query in queries(run, earlier) if query.key in wrong]
    chosen = limited(known, run.config.at_most(run.config.n_failures), lambda query: query.family)
    return [Failure(query, donor_of(query, known) or _next(query, known)) for query in chosen]


def _next(query: TwoHopQuery, known: Sequence[TwoHopQuery]) -> TwoHopQuery | None:
    """Of other families the first query with another bridge and answer."""
    others = (one for one in known if one.bridge != query.bridge and one.answer != query.answer)
    return next(others, None)


def measure(run: Run[PrecisionConfig], item: Failure) -> Iterator[Repaired]:
    """Every pair of layers, with the query's own states and another's, in every version."""
    query = item.query
    for name, model in versions(run):
        asked = question(model, query.two_hop, query.answers)
        pairs = pairs_of(model.n_layers, run.config.layer_step)
        position = bridge_position(model, query)
        own = states_at(model, query.two_hop, position)
        sources = {"own": own}
        if item.donor is not None:
            sources["other query"] = states_at(model, item.donor.two_hop, bridge_position(model, item.donor))
        variants = [one for states in sources.values() for one in patches(states, own, pairs, position, "raw")]
        scores = np.asarray(model.sweep(asked.prompt, [[], *variants], metric=answer_scores(asked.first_tokens)))
        on_top = scores[:, 0] == 0
        for number, arm in enumerate(sources):
            start = 1 + number * len(pairs)
            yield {
                "version": name,
                "family": query.family,
                "bridge": query.bridge,
                "arm": arm,
                "plain": bool(on_top[0]),
                "fixed": on_top[start : start + len(pairs)].tolist(),
                "n_layers": model.n_layers,
            }


STAGES: list[Stage[Any, Any, Any]] = [
    Stage(SCREENED, queries, screening, batch=10, record=Answered),
    Stage(REPAIRED, failures, measure, record=Repaired),
]
