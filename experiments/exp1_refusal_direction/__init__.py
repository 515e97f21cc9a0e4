"""exp1: refusal is mediated by a single direction (Arditi et al. 2024).

Question   Is there one direction whose removal stops refusals and whose addition causes them?
Data       requests that are refused and requests of the same form that are not, in three disjoint splits: the
           synthetic world's on embedded models, the project's own bare ones on others.
Measure    candidates at every layer and every template token behind the instruction; selected by bypass, induce and KL;
           then on held-out prompts: ablated everywhere, added once, and the weights orthogonalised for good; every
           layer by its effect; strengths with repetition and likelihood of the texts; everyday facts beside it;
           loss on other text, ablated against subtracted, a fine-tune beside it; an adversarial suffix, and what
           it does to the last token and to the heads that write the direction.
Figure     rate of refusals, read from the opening of the reply, with a 95 % interval over prompts.
Control    random directions (drawn many times at the chosen layer) and directions from shuffled labels, of the same
           length at the same place; orthogonalised weights must agree with ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp1_refusal_direction import judged, loss, orthogonalised, selection, suffixes
from experiments.exp1_refusal_direction.orthogonalised import TRAIT
from experiments.harness.experiment import Experiment, Plan, Records, Stage
from experiments.harness.state import Run
from experiments.shared.traits import geometry, over_models, random_draws, stages, trait_report
from experiments.shared.traits.stages import Item


@dataclass(frozen=True)
class Config(random_draws.DrawConfig, suffixes.SuffixConfig):
    """Nothing of its own."""


def drawn_at(run: Run[random_draws.DrawConfig], earlier: Records) -> tuple[list[str], float]:
    """The language of the study, and the whole difference of means."""
    return [""], 1.0


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    return trait_report.plan_of(run, [TRAIT], strengths=True)


EXPERIMENT = Experiment(
    name="exp1_refusal_direction",
    config=Config,
    stages=[
        *stages.of_trait(TRAIT),
        Stage(selection.SCORES, selection.items, selection.measure, batch=64, record=selection.Scored),
        Stage(orthogonalised.WEIGHTS, orthogonalised.forms, orthogonalised.measure_form, record=orthogonalised.Replied),
        *stages.calibrated(TRAIT),
        Stage(loss.LOSS, loss.items, loss.measure, record=loss.Cost),
        random_draws.stage(TRAIT, drawn_at, positions=stages.added_at(TRAIT)),
        geometry.places(TRAIT),
        geometry.angles(TRAIT, "sycophancy", "stance", "confidence"),
        *suffixes.STAGES,
        judged.STAGE,
    ],
    tables=[
        selection.table,
        orthogonalised.form_table,
        trait_report.layer_table,
        trait_report.effect_table,
        random_draws.table,
        trait_report.strength_table,
        trait_report.side_table,
        loss.table,
        loss.reported,
        selection.metric_table,
        geometry.place_table,
        geometry.separation_table,
        geometry.angle_table,
        suffixes.table,
        suffixes.head_table,
        judged.table,
        trait_report.prompt_table,
    ],
    figures=[
        selection.figure,
        trait_report.by_layer,
        random_draws.figure,
        trait_report.by_strength,
        geometry.angle_figure,
        suffixes.figure,
    ],
    headline=trait_report.headline,
    screen=trait_report.effect_table,
    plan=plan,
    look={"n_train": 16, "strengths": (-1.0, 0.0, 0.5, 1.0, 2.0), "n_draws": 5, "suffix_steps": 1},
    limits_items=False,
    scaling=over_models.metrics,
)
