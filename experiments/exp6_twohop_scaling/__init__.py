"""exp6: two-hop reasoning across models. Do larger models show the bridge further below the answer?

Question   exp3's measure for each model: do depth, size or family go with a larger gap between bridge and answer?
Data       as in exp3. Queries that the model answers by a shortcut are left out, as in the paper (Biran et al. 2024);
           the first table has the counts. --queries correct takes those alone that the model composes.
Measure    first layer with bridge and with answer in the top 30 of the logit lens, at the subject's last token or the
           last position; as a share of the depth too, since models differ in theirs.
Figure     share of sequential queries and mean gap of each model, beside what the earlier study reported for
           its six prompts. The table over all models, and the trend, are made from the runs of all of them.
Control    the gap to another query's bridge and answer in the same lens: what the lens shows of any such name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp6_twohop_scaling.gap_by_model import (
    GapConfig,
    SightedIn,
    cases,
    counts,
    headline,
    measure,
    scaling,
)
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.two_hop import asking, lens
from experiments.shared.two_hop.queries import SCREENED, Screened, queries_and_study, screening
from mlx_interp.datasets import TwoHopQuery

PASSES = 5 + 4


@dataclass(frozen=True)
class Config(GapConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[TwoHopQuery]) -> Plan:
    longest = max(items, key=lambda query: len(query.two_hop))
    memory = run.model.memory(longest.two_hop, capture="resid_post")
    return Plan(len(items), 0, float(PASSES * len(items)), run.model.weight_bytes + memory)


EXPERIMENT = Experiment(
    name="exp6_twohop_scaling",
    config=Config,
    stages=[
        Stage(asking.STAGE, asking.ways, asking.compare, record=asking.Elicited),
        Stage(SCREENED, queries_and_study, screening, batch=16, record=Screened),
        Stage(lens.STAGE, cases, measure, record=SightedIn),
    ],
    tables=[asking.table, counts, scaling, lens.order_table],
    figures=[lens.curves],
    headline=headline,
    screen=scaling,
    plan=plan,
    look={"lens_steps": 60, "lens_prompts": 20, "max_queries": 8, "all_queries": 16},
    main=SCREENED,
    group=lambda query: (query.family, query.split),
    scaling=lens.metrics,
)
