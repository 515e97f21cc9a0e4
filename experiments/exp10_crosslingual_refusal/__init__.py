"""exp10: is the refusal direction of one language that of the others? (Wang et al. 2025, PolyRefuse)

Question   Does the direction found on English requests remove refusals, and bring them, in other languages; and do
           the other languages' directions work in English?
Data       the synthetic world's requests in six languages; it was taught to refuse in five of them, and never in
           Italian, which is the control. Other models: the project's own requests in five languages, or published sets
           (--set harmful=polyrefuse-harmful --set harmless=polyrefuse-harmless --set languages=en,de,...).
Measure    a direction from each language, at the layer chosen on English prompts; ablated everywhere on harmful
           requests of every language, added at every position of harmless ones with the least strength that suffices
           on prompts of every language set aside; a refusal is read with that language's phrases.
Figure     matrix of refusal rates, source language by target language, on held-out prompts; cosines of the directions.
Control    random directions of the same length in every language, each drawn many times, evenly from the sphere and at
           right angles to the found one: at most 5 points from the plain rate on average; harmless prompts under
           ablation must stay answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments.exp10_crosslingual_refusal.languages import (
    DOSE,
    EDITS,
    PARALLEL,
    TRAIT,
    TRANSFER,
    Config,
    Dosed,
    Parallel,
    Transferred,
    dose_items,
    drawn_at,
    languages,
    measure_cosine,
    measure_dose,
    measure_transfer,
    places,
    prompt_items,
    transfers,
)
from experiments.exp10_crosslingual_refusal.languages_report import (
    capability_table,
    english_table,
    headline,
    matrices,
    metrics,
    reported,
    source_table,
)
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run
from experiments.shared.traits import geometry, random_draws, stages, trait_report
from experiments.shared.traits.stages import Item
from experiments.shared.traits.trait_records import PROMPTS, SIDE, SideEffect, Used


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    base = trait_report.plan_of(run, [TRAIT], strengths=False)
    n = len(languages(run))
    texts = n * n * len(EDITS) * 2 * run.config.n_test
    drawn = int(n * 2 * run.config.n_test * 0.8 * run.config.n_draws)  # a fifth of it orthogonal, or ablated
    return replace(
        base,
        prompts=base.prompts + texts,
        counterfactuals=base.counterfactuals + texts + drawn,
        forward_passes=base.forward_passes + 2.0 * texts + 0.6 * drawn * (1 + run.config.new_tokens / base.tokens),
    )


EXPERIMENT = Experiment(
    name="exp10_crosslingual_refusal",
    config=Config,
    stages=[
        *stages.of_trait(TRAIT)[:2],
        Stage(PROMPTS, prompt_items, stages.measure_prompts, record=Used),
        Stage(DOSE, dose_items, measure_dose, record=Dosed),
        Stage(TRANSFER, transfers, measure_transfer, record=Transferred),
        random_draws.stage(TRAIT, drawn_at, positions=None),
        Stage(PARALLEL, transfers, measure_cosine, record=Parallel),
        Stage(geometry.PLACES, places, geometry.measure_places, record=geometry.Placed),
        Stage(
            SIDE,
            lambda run, earlier: stages.side_items(run, earlier, [TRAIT]),
            stages.measure_side_effects,
            record=SideEffect,
        ),
    ],
    tables=[
        english_table,
        random_draws.table,
        source_table,
        capability_table,
        geometry.place_table,
        geometry.separation_table,
        trait_report.side_table,
        trait_report.layer_table,
        trait_report.prompt_table,
        reported,
    ],
    figures=[matrices, random_draws.figure, trait_report.by_layer],
    headline=headline,
    plan=plan,
    look={"n_train": 16, "n_draws": 5, "doses": (0.5, 1.0)},
    limits_items=False,
    scaling=metrics,
)
