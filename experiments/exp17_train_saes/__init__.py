"""exp17: sparse autoencoders. What do kinds and sparsities cost, and do features stand for what the model knows?

Question   How much of the activations, and of what the model makes of them, survives a sparse code; and is a state, a
           task, a language or harm a single feature of it?
Data       two-hop facts of half of the subjects, single facts, in-context prompts, requests: of the embedded world, for
           other models of this project (or a store of exp16, --set store=FOLDER); measured on the other half's facts,
           new prompts, and requests never trained on.
Measure    relu, gated, topk, batchtopk, jumprelu over sparsities at the middle layer; topk at other layers and widths,
           with nested prefixes, on chats alone, and from a second seed. L0, FVE, cosine, dead and dense features, and
           loss with the reconstruction spliced in at every position but BOS.
           SHIFT: latents of a spurious cue removed from a classifier, with --shift-languages; every metric over
           further seeds with --reseeds (experiments/configs/sae_audit.yaml has both).
Figure     FVE and delta CE against L0; F1 of the best single feature of each concept, chosen on one half of the tokens
           and scored on the other; AUROC of probes on k features; share of features that a second seed finds again;
           files/features.html shows the features that stand for something.
Control    an untrained dictionary, principal components and neurons with as many active, one trained on activations
           whose dimensions were shuffled apart; raw neurons, random directions and a probe on all dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp17_train_saes import dictionaries_compared, feature_truth, reseeds, runs, sae_report, shift, texts
from experiments.exp17_train_saes.runs import PAGES, POSITIONS, SEEDS, TRAINED, TRUTH, Item, SAEConfig
from experiments.harness.experiment import Experiment, Plan, Stage
from experiments.harness.state import Run

ABLATED, SPLICED = 3, 2
"""Passes over the held-out texts for each site (clean, zero, mean), and for each dictionary (clean, spliced)."""


@dataclass(frozen=True)
class Config(SAEConfig):
    """Nothing of its own."""


def plan(run: Run[Config], items: Sequence[Item]) -> Plan:
    """Forward passes of reading and of splicing; training itself is matrix products beside the model."""
    config = run.config
    prompts = len(texts.training_prompts(run, config.seed, config.n_tasks, most=config.most_texts))
    sites = len({item.site for item in items})
    memory = run.model.memory([[1] * 32] * 32, logits="all") + 2**29
    arms = ABLATED * sites + SPLICED * len(items)
    counterfactuals = arms - sites - len(items)
    passes = sites * prompts + arms * config.n_texts
    return Plan(prompts, counterfactuals * config.n_texts, passes, run.model.weight_bytes + memory)


EXPERIMENT = Experiment(
    name="exp17_train_saes",
    config=Config,
    stages=[
        Stage(TRAINED, runs.items, runs.measure, record=runs.Trained),
        Stage(
            POSITIONS,
            runs.middle_items,
            dictionaries_compared.measure_positions,
            record=dictionaries_compared.AtPositions,
        ),
        Stage(TRUTH, feature_truth.questions, feature_truth.measure, record=feature_truth.Detected),
        Stage(reseeds.RESEEDS, reseeds.items, reseeds.measure, record=reseeds.Again),
        Stage(shift.SHIFT, shift.cases, shift.measure, record=shift.Shifted),
        Stage(
            SEEDS,
            dictionaries_compared.seed_items,
            dictionaries_compared.measure_seeds,
            record=dictionaries_compared.Found,
        ),
        Stage(PAGES, feature_truth.shown, feature_truth.measure_pages, record=feature_truth.Paged),
    ],
    tables=[
        *map(sae_report.fidelity_tables, ("kind", "control", "layer", "width", "nested", "data")),
        sae_report.position_table,
        sae_report.truth_table,
        sae_report.probe_table,
        sae_report.seed_table,
        reseeds.reseed_table,
        shift.shift_table,
        shift.judged_table,
    ],
    figures=[sae_report.pareto, sae_report.truth_figure],
    headline=sae_report.headline,
    plan=plan,
    look={
        "k": (4, 16),
        "relu_sparsity": (0.1,),
        "gated_sparsity": (0.2,),
        "widths": (2,),
        "steps": 60,
        "layer_step": 0,
        "n_tasks": 60,
        "most_texts": 60,
        "n_texts": 6,
        "per_concept": 3,
    },
    group=lambda item: item.role,
    scaling=sae_report.metrics,
    files=feature_truth.files,
    whole_model="writes dictionaries",
    alone="trains dictionaries that its later stages look at",
)
