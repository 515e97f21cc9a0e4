"""exp4: confidence. Is expressed certainty a direction, and does it go with the certainty of the output?

Question   Does one direction make a model say that it is sure, and does a state's projection on it go with the entropy
           of what the model predicts?
Data       embedded models: questions on facts that were taught ("I am certain: ...") and on names that occur in none
           ("I am not sure."). Other models: questions that anyone can answer, and that nobody can.
Measure    difference of means at the last prompt token, every layer; ablated, or added once; over strengths; log-odds
           of "I am certain" against "I am not sure" as the reply's first words. For
           the entropy: the first token of the reply after the plain prompt, and projections at every layer.
Figure     share of replies that assert more than they hedge; Spearman's correlation of projection and entropy.
Control    random directions, shuffled labels; for the correlation, the projection on the random direction; everyday
           facts under the same directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp4_confidence import calibration, entropy
from experiments.exp4_confidence.entropy import TRAIT
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.traits import geometry, opening_report, over_models, stages, trait_report
from experiments.shared.traits.stages import Item, TraitConfig


@dataclass(frozen=True)
class Config(TraitConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, [TRAIT], strengths=True)


EXPERIMENT = Experiment(
    name="exp4_confidence",
    config=Config,
    stages=[
        *stages.of_trait(TRAIT),
        *stages.calibrated(TRAIT),
        Stage(entropy.ENTROPY, entropy.test_prompts, entropy.measure_entropy, record=entropy.Uncertain),
        geometry.places(TRAIT),
    ],
    tables=[
        trait_report.layer_table,
        trait_report.effect_table,
        opening_report.opening_table,
        trait_report.strength_table,
        entropy.entropy_table,
        calibration.calibration_table,
        trait_report.side_table,
        geometry.place_table,
        geometry.separation_table,
        trait_report.prompt_table,
    ],
    figures=[opening_report.by_layer, trait_report.by_layer, trait_report.by_strength],
    headline=opening_report.headline,
    screen=trait_report.effect_table,
    plan=plan,
    look={"n_train": 16, "strengths": (-1.0, 0.0, 0.5, 1.0, 2.0)},
    limits_items=False,
    scaling=over_models.metrics,
)
