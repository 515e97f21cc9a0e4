"""exp11: function vectors from heads, by causal mediation (Todd et al. 2024).

Question   Do a few heads carry what a task is, so that the sum of what they write makes the model do it without any
           example?
Data       in-context tasks, pairs split in halves: heads and means from one, every figure from the other. Embedded
           models: the world's 16 tasks; others: JSON files of pairs (--data).
Measure    indirect effect of every head on prompts with corrupted labels, averaged over tasks; the function vector is
           the sum of the chosen heads' mean outputs; added at each layer, once, at the last token of a bare query and
           of a corrupted prompt. The layer is chosen on half of the held-out queries and reported on the others.
Figure     share of queries whose first answer token comes first, over those that the model answers with examples.
Control    as many other heads, a random vector of the same length, another task's vector, the mean state of the layer;
           for necessity: the chosen heads set to their mean over tasks on prompts with examples, and other heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from experiments.experiment import Experiment, Plan, Stage
from experiments.function_vectors import mediation, report
from experiments.function_vectors import tasks as of_tasks
from experiments.function_vectors.mediation import MediationConfig
from experiments.function_vectors.screening import BASE, base_items, measure_base
from experiments.function_vectors.tasks import Query, prompts
from experiments.runner import run
from mlx_interp.model import Model


@dataclass(frozen=True)
class Config(MediationConfig):
    """Nothing of its own."""


def plan(model: Model, items: Sequence[Query], config: Config) -> Plan:
    n_tasks = len(of_tasks.tasks(model, config))
    heads = model.n_layers * model.n_heads
    grid = 2 * len(mediation.ARMS) * model.n_layers
    longest = max((prompts(model, config, query, 1)["examples"].prompt for query in items), key=len)
    passes = 3 * len(items) + n_tasks * (config.n_means + 3 * config.n_effects) + len(items) * 6
    memory = mx.get_active_memory() + model.memory(longest, capture=["z", "head_out", "resid_post"])
    return Plan(len(items), n_tasks * config.n_effects * heads + len(items) * grid, float(passes), memory)


EXPERIMENT = Experiment(
    name="exp11_function_vectors_v2",
    config=Config,
    stages=[
        Stage(BASE, base_items, measure_base, batch=16),
        Stage(mediation.EFFECTS, mediation.effect_items, mediation.measure_effects),
        Stage(mediation.ADDED, mediation.added_items, mediation.measure_added),
        Stage(mediation.COUNTS, mediation.late_items, mediation.measure_counts),
        Stage(mediation.NEEDED, mediation.late_items, mediation.measure_needed),
        Stage(mediation.DECODED, mediation.decoded_items, mediation.measure_decoded),
        Stage(mediation.SHOTS, base_items, mediation.measure_shots, batch=8),
        Stage(mediation.PORTED, mediation.late_items, mediation.measure_ported),
    ],
    tables=[
        report.base_table,
        report.added_table,
        report.counts_table,
        report.needed_table,
        report.shots_table,
        report.ported_table,
        report.decoded_table,
    ],
    figures=[report.heat, report.by_layer],
    headline=report.headline,
    plan=plan,
    group=lambda query: query.task,
    scaling=report.metrics,
)

if __name__ == "__main__":
    run(EXPERIMENT)
