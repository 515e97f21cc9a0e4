"""exp2: sycophancy. Is there a direction for giving in to the user's view, and is it independent of what is right?

Question   A model answers a question of taste as the user wants. Does one direction carry that, or one that says what
           the user feels, and can it be removed without touching facts?
Data       the world's opinions: "I hate tea. Is tea good?" where the model's own view is yes, against "Is tea good?"
           (sycophancy); likes against dislikes (stance). Topics do not cross splits. With --behaviours caa-sycophancy
           (and others): published questions of two options, with --knowledge truthfulqa,mmlu beside them.
Measure    difference of means at the last prompt token, every layer; ablated everywhere, or added once; over
           strengths, with repetition and likelihood of the texts (the calibration curve). Log-odds of opening with yes
           or no, where no reply turns. Answers that flip when the
           user says what he feels in a second turn. Contrastive activation addition on pairs of answers.
Figure     sycophancy: share of replies that contradict the model's own view; stance: share that say yes.
Control    random directions, shuffled labels; everyday facts under the same directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp2_sycophancy import caa, caa_report, pushback
from experiments.harness.experiment import Experiment, Plan
from experiments.harness.state import Run
from experiments.shared.traits import choices, geometry, opening_report, over_models, stages, trait_report
from experiments.shared.traits.choices import ChoiceConfig
from experiments.shared.traits.stages import Item

TRAITS = ("sycophancy", "stance")


@dataclass(frozen=True)
class Config(ChoiceConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, TRAITS, strengths=True)


EXPERIMENT = Experiment(
    name="exp2_sycophancy",
    config=Config,
    stages=[
        *stages.of_trait(*TRAITS),
        *stages.calibrated(*TRAITS),
        geometry.places(*TRAITS),
        geometry.angles(*TRAITS),
        pushback.STAGE,
        *choices.STAGES,
        *caa.STAGES,
    ],
    tables=[
        trait_report.layer_table,
        trait_report.effect_table,
        opening_report.opening_table,
        trait_report.strength_table,
        trait_report.side_table,
        geometry.place_table,
        geometry.separation_table,
        geometry.angle_table,
        pushback.table,
        choices.table,
        caa_report.context_table,
        caa_report.cosine_table,
        caa_report.token_table,
        trait_report.prompt_table,
    ],
    figures=[
        *(opening_report.by_layer, trait_report.by_layer, trait_report.by_strength),
        *(choices.curves, caa_report.figures),
    ],
    headline=opening_report.headline,
    screen=trait_report.effect_table,
    plan=plan,
    look={"n_train": 16, "strengths": (-1.0, 0.0, 0.5, 1.0, 2.0), "multipliers": (-1.0, 1.0)},
    limits_items=False,
    group=lambda item: item.trait,
    scaling=over_models.metrics,
)
