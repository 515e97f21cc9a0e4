"""exp8: function vectors of whole layers, the simple form. How far does a mean activation carry a task?

Question   Does the mean state of a layer over in-context prompts, or its difference from bare prompts, make a model do
           the task without examples; at which layer, and at which strength?
Data       as in exp11: tasks, split in halves; the mean from one, figures from the other. Also sentences that do not
           ask for the task ('The word "large" means'; on embedded models sentences of their world).
Measure    two vectors of every layer, the mean over prompts with examples and that minus the mean over bare prompts;
           added at their own layer, once, at the last token of a bare query, at several strengths.
Figure     share of queries whose first answer token comes first, of those that are right with examples; layer and
           strength are chosen on half of them and reported on the others.
Control    another task's vector and a random vector of the same length, at the same layer and strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp8_function_vectors.layer_vectors import ARMS, FORMS, VectorConfig
from experiments.exp8_function_vectors.strength_grid import (
    GRID,
    Added,
    grid_items,
    grid_table,
    headline,
    heat,
    measure_grid,
    metrics,
)
from experiments.exp8_function_vectors.strength_page import pages
from experiments.exp8_function_vectors.unrelated_sentences import (
    CONTEXT,
    Continued,
    context_items,
    context_table,
    measure_context,
)
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.screening import BASE, Based, base_items, measure_base
from experiments.shared.in_context.tasks import ONE_TOKEN, Query, prompts


@dataclass(frozen=True)
class Config(VectorConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Query]) -> Plan:
    cells = len(FORMS) * len(ARMS) * run.model.n_layers * len(run.config.strengths)
    n_tasks = len(of_tasks.tasks(run))
    longest = max((prompts(run, query, 1)["examples"].prompt for query in items), key=len)
    memory = run.model.weight_bytes + run.model.memory(longest, capture=["z", "head_out", "resid_post"])
    passes = n_tasks * run.config.n_means + 6 * len(items) + ONE_TOKEN * cells * len(items) / len(longest)
    return Plan(len(items), cells * len(items), passes, memory, tokens=len(longest))


EXPERIMENT = Experiment(
    name="exp8_function_vectors",
    config=Config,
    stages=[
        Stage(BASE, base_items, measure_base, batch=16, record=Based),
        Stage(GRID, grid_items, measure_grid, record=Added),
        Stage(CONTEXT, context_items, measure_context, record=Continued),
    ],
    tables=[grid_table, context_table],
    figures=[heat],
    headline=headline,
    plan=plan,
    look={"n_means": 10, "n_effects": 4, "n_test": 4},
    group=lambda query: query.task,
    scaling=metrics,
    pages=pages,
)
