"""Two-hop bridges in the logit lens, by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

from experiments.exp5_layer_comparison.phenomena import PhenomenaConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import spread
from experiments.harness.state import Run
from experiments.shared.two_hop.data import TwoHopConfig
from experiments.shared.two_hop.queries import queries
from mlx_interp.behaviour.answers import continuation, question, verdicts
from mlx_interp.behaviour.two_hop import bridge_position, donor_of
from mlx_interp.lenses.logit import lens_at, lens_ranks

TOP = 10


@dataclass(frozen=True)
class Hop:
    """A two-hop query by its number in the data."""

    key: str
    number: int


def hops(run: Run[PhenomenaConfig], earlier: Records) -> list[Hop]:
    found = queries(run.under(TwoHopConfig(seed=run.config.seed)), ())
    return [Hop(found[i].key, i) for i in spread(range(len(found)), run.config.max_queries)]


class Seen(TypedDict):
    """Whether the lens shows a bridge at one layer."""

    unit: str
    """The query's own bridge, which is resampled."""
    arm: str
    """direction: the query's own bridge; shuffled labels: another query's."""
    layer: int
    hit: bool


def measure_bridge(run: Run[PhenomenaConfig], item: Hop) -> Iterator[Seen]:
    """The lens at the end of the subject: is the query's bridge visible, and another query's?"""
    model = run.model
    found = queries(run.under(TwoHopConfig(seed=run.config.seed)), ())
    query = found[item.number]
    donor = donor_of(query, found)
    asked = question(model, query.two_hop, query.answers)
    if donor is None or not verdicts(model, [asked])[0].first_token:
        return
    (logits,) = lens_at(model, asked.prompt, [bridge_position(model, query)])
    for arm, name in (("direction", query.bridge), ("shuffled labels", donor.bridge)):
        ranks = lens_ranks(logits, [continuation(model, model.prompt(query.first_hop), name)[0]])
        for layer, rank in enumerate(ranks):
            yield {"unit": query.bridge, "arm": arm, "layer": layer, "hit": rank < TOP}
