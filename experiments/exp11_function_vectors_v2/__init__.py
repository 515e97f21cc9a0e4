"""exp11: function vectors from heads, by causal mediation (Todd et al. 2024).

Question   Do a few heads carry what a task is, so that the sum of what they write makes the model do it without any
           example?
Data       in-context tasks, pairs split in halves: heads, means, their number, layer and strength from one, every
           figure from the other. Embedded models: the world's 16 tasks; others: JSON files of pairs (--data).
Measure    indirect effect of every head on prompts with corrupted labels, averaged over tasks; the function vector is
           the sum of the chosen heads' mean outputs; added once, at the last token of a bare query and of a corrupted
           prompt. The first half also decides whether what the sums of all tasks share is taken away; the plain
           sum at its best and the paper's setting (plain sum, 10 of 448 heads, strength 1) stand beside it.
Figure     share of queries whose first answer token comes first, over those that the model answers with examples; and
           the share of the gap to 100 % that this closes.
Control    as many other heads, a random vector of the same length, another task's vector, the mean state of the layer,
           the same heads on corrupted prompts; for necessity: what heads say on prompts with examples exchanged with
           what they say behind other examples, or set to its mean over tasks; the chosen heads, and other heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp11_function_vectors_v2 import (
    composition,
    extent,
    heads,
    interchange,
    report_heads,
    report_interchange,
    report_transfer,
    vector_report,
    vocabulary,
)
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.in_context import added_vectors, mediation, transfer
from experiments.shared.in_context import tasks as of_tasks
from experiments.shared.in_context.mediation import MediationConfig
from experiments.shared.in_context.screening import BASE, Based, base_items, measure_base
from experiments.shared.in_context.tasks import ONE_TOKEN, Query, prompts


@dataclass(frozen=True)
class Config(MediationConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Query]) -> Plan:
    model = run.model
    n_tasks, every = len(of_tasks.tasks(run)), model.n_layers * model.n_heads
    counts, layers, strengths = mediation.grid(run)
    cells = len(counts) * len(layers) * len(strengths) + 2 * len(mediation.ARMS) * model.n_layers
    cells += 2 * (len(mediation.VARIANTS) + len(extent.COUNTED) + 2 * len(transfer.TEMPLATES))
    longest = max((prompts(run, query, 1)["examples"].prompt for query in items), key=len)
    memory = model.weight_bytes + model.memory(longest, capture=["z", "attn_out", "resid_post"])
    counterfactuals = n_tasks * every * (run.config.n_effects + heads.PER_TASK * len(heads.PLACE_ROLES))
    counterfactuals += len(items) * cells
    means = n_tasks * (2 * run.config.n_means + 3 * run.config.n_effects)
    passes = 20 * len(items) + means + ONE_TOKEN * counterfactuals / len(longest)
    return Plan(len(items), counterfactuals, passes, memory, tokens=len(longest))


EXPERIMENT = Experiment(
    name="exp11_function_vectors_v2",
    config=Config,
    stages=[
        Stage(BASE, base_items, measure_base, batch=16, record=Based),
        Stage(mediation.DATA, mediation.data_items, mediation.measure_data, record=mediation.Sized),
        Stage(mediation.EFFECTS, mediation.effect_items, mediation.measure_effects, batch=8, record=mediation.Mediated),
        Stage(mediation.CHOICE, mediation.choice_items, mediation.measure_choice, record=mediation.Chosen),
        Stage(mediation.ADDED, mediation.solved_items, added_vectors.measure_added, record=added_vectors.Added),
        Stage(mediation.ANSWERS, mediation.solved_items, added_vectors.measure_answers, record=added_vectors.Answered),
        Stage(extent.COUNTS, extent.late_items, extent.measure_counts, record=extent.Counted),
        Stage(extent.NEEDED, extent.late_items, extent.measure_needed, record=extent.Needed),
        Stage(interchange.NEEDS, mediation.effect_items, interchange.measure_needs, record=interchange.HeadNeeds),
        Stage(interchange.FIRST, interchange.first_items, interchange.measure_first, record=interchange.Exchanged),
        Stage(interchange.SECOND, interchange.second_items, interchange.measure_second, record=interchange.Exchanged),
        Stage(extent.SHOTS, base_items, extent.measure_shots, batch=8, record=extent.Shot),
        *heads.STAGES,
        Stage(transfer.PORTED, transfer.written_items, transfer.measure_ported, record=transfer.Ported),
        Stage(transfer.NATURAL, transfer.natural_items, transfer.measure_natural, record=transfer.Said),
        Stage(transfer.WRITTEN, transfer.written_items, transfer.measure_written, record=transfer.Written),
        *vocabulary.STAGES,
        *composition.STAGES,
    ],
    tables=[
        *(vector_report.base_table, vector_report.added_table),
        vector_report.variants_table,
        vector_report.choice_table,
        report_heads.counts_table,
        report_interchange.interchange_table,
        report_interchange.interchange_tasks_table,
        report_heads.needed_table,
        report_heads.heads_table,
        report_heads.places_table,
        report_heads.shots_table,
        report_transfer.ported_table,
        report_transfer.natural_table,
        report_transfer.continuations_table,
        report_transfer.written_table,
        report_transfer.decoded_table,
        report_transfer.rebuilt_table,
        *(report_transfer.arithmetic_table, report_transfer.lists_table),
        vector_report.data_table,
    ],
    figures=[
        vector_report.heat,
        vector_report.by_layer,
        report_interchange.interchange_figure,
        report_heads.attention_figure,
        report_heads.induction_figure,
    ],
    headline=vector_report.headline,
    screen=vector_report.added_table,
    plan=plan,
    look={"n_means": 10, "n_effects": 4, "n_test": 4, "strengths": (1.0, 2.0)},
    group=lambda query: query.task,
    scaling=vector_report.metrics,
)
