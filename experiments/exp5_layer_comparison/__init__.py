"""exp5: where does each phenomenon live? Refusal, stance, confidence, two-hop bridges, function vectors, by depth.

Question   Do phenomena sit at different depths, as the project's first round reported, once depth is judged by effect
           and not by the length of a direction?
Data       as in exp1, exp2 and exp4 for the directions; two-hop queries that the model answers, as in exp3; in-context
           tasks that it does with examples, as in exp11.
Measure    effect of a layer's direction: share of held-out replies that turn as meant, beyond those that are so
           anyway (0: nothing happens). Bridge: share of queries with it in the lens's top 10 at the end of the subject.
           Function vector: share of bare queries done right with the task's vector added at a layer, beyond those
           that are right without.
Figure     each effect as a share of its own largest, against depth; the peak with its effect.
Control    the same of directions from shuffled labels; for the bridge, another query's bridge in the same lens; for
           function vectors, as many heads drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp5_layer_comparison.bridge_in_lens import Seen, hops, measure_bridge
from experiments.exp5_layer_comparison.by_depth import figure, headline, table
from experiments.exp5_layer_comparison.phenomena import BRIDGE, TRAITS, VECTOR, PhenomenaConfig
from experiments.exp5_layer_comparison.task_vectors import Carried, measure_vector, tasks_of
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.traits import stages, trait_report
from experiments.shared.traits.stages import Item


@dataclass(frozen=True)
class Config(PhenomenaConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, TRAITS, strengths=False)


EXPERIMENT = Experiment(
    name="exp5_layer_comparison",
    config=Config,
    stages=[
        *stages.of_trait(*TRAITS),
        Stage(BRIDGE, hops, measure_bridge, record=Seen),
        Stage(VECTOR, tasks_of, measure_vector, record=Carried),
    ],
    tables=[table, trait_report.layer_table, trait_report.prompt_table],
    figures=[figure],
    headline=headline,
    plan=plan,
    look={"n_train": 16, "max_queries": 24, "max_tasks": 2, "queries_per_task": 2},
    limits_items=False,
    group=lambda item: item.trait,
)
