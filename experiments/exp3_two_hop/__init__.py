"""exp3: two-hop queries under the logit lens. Does the bridge become visible before the answer?

Question   "The capital of the state containing Dallas is": if a model reasons in two hops, Texas should show up inside
           it before Austin does.
Data       --data auto: the synthetic world's families on embedded models; on all others the earlier study's four
           prompts, then families of real facts, twenty and more each.
Measure    rank of the first token of bridge and answer in the logit lens, at every layer, at the subject's last token
           and at the last position; visible: among the top 30, as in the study. Whole names by log-probability.
Figure     gap: first layer of the answer minus first layer of the bridge, over queries where both are visible;
           sequential: the gap is positive. How many are not both visible is said beside it.
Control    bridge and answer of another query of the family, in the same lens. How far each layer's lens is from the
           model's own prediction is measured beside it; for the tuned lens also with its maps one layer too low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp3_two_hop import lens_page
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.harness.state import Run
from experiments.shared.two_hop import asking, lens, tuned
from experiments.shared.two_hop.queries import SCREENED, Case, Screened, all_cases, queries_and_study, screening
from experiments.shared.two_hop.summaries import mean_over
from experiments.shared.two_hop.tuned import LensConfig
from mlx_interp.datasets import TwoHopQuery

PASSES = 5 + 4
"""Forward passes of one query: five prompts of the screening, the lens, and its names."""


@dataclass(frozen=True)
class Config(LensConfig):
    pass


def cases(run: Run[Config], earlier: Records) -> list[Case]:
    return all_cases(run, earlier, run.config.max_queries, run.config.all_queries)


def headline(records: Records, config: Config) -> str:
    """How many queries are sequential, and the mean gap."""
    both, gaps = lens.gap_summary(records, config)
    share = mean_over([gap > 0 for gap in gaps], both, config.seed)
    mean = mean_over(gaps, both, config.seed)
    if share is None or mean is None:
        return f"bridge and answer are both visible in {len(both)} queries: too few for an interval"
    return (
        f"the bridge is visible below the answer in {share.text(percent=True)} % of {len(both)} queries where both are "
        f"visible; mean gap {mean.text(digits=1)} layers"
    )


def plan(run: Run[Config], items: Sequence[TwoHopQuery]) -> Plan:
    longest = max((query.two_hop for query in items), key=len, default="")
    memory = run.model.memory(longest, capture="resid_post") if longest else 0
    return Plan(len(items), 0, float(PASSES * len(items)), run.model.weight_bytes + memory)


EXPERIMENT = Experiment(
    name="exp3_two_hop",
    config=Config,
    stages=[
        Stage(asking.STAGE, asking.ways, asking.compare, record=asking.Elicited),
        Stage(SCREENED, queries_and_study, screening, batch=16, record=Screened),
        Stage(lens.STAGE, cases, lens.measure, record=lens.Sighted),
        Stage(tuned.STAGE, tuned.spread_cases, tuned.measure, record=tuned.Distance),
    ],
    tables=[asking.table, lens.order_table, lens.place_table, tuned.distance_table],
    figures=[lens.curves, tuned.distance_figure],
    headline=headline,
    screen=lens.order_table,
    scaling=lens.metrics,
    plan=plan,
    look={"lens_steps": 60, "lens_prompts": 20, "max_queries": 8, "all_queries": 16},
    main=SCREENED,
    group=lambda query: (query.family, query.split),
    pages=lens_page.pages,
)
