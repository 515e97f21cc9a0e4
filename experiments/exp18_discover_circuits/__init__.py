"""exp18: circuits. Which heads, MLPs and edges make the model do a task, and are they the ones that really matter?

Question   Does attribution (EAP, EAP-IG) find what exhaustive patching finds; is the circuit it finds faithful,
           complete, minimal and stable; and do safe and toxic requests run through the same one?
Data       embedded models: two-hop queries, in-context tasks, refusals; pairs of a clean and a counterfactual prompt of
           equal length that differ in what matters; any model: a file of pairs (--data), or toxic and safe prompts that
           are matched (--toxic, --safe). Circuits are discovered on some pairs and scored on others.
Measure    m, log-odds of the right answer. Every node's and edge's effect on m by gradients, through the weights as
           they are; the same by real patching: all nodes, samples of node-positions and edges.
           f(C) = (m(C) - m(0)) / (m(M) - m(0)), edges outside the circuit carrying the counterfactual run, over sizes
           from .001 to 1 of all edges: CPR and CMD of the MIB benchmark, in linear and in log k.
           features: the same with latents of autoencoders and their errors as nodes, and edges between these, where
           --saes names some.
           tracing: noise on the subject, one clean state put back (ROME); --parts tracing alone is the preset.
           acdc, clusters: where named among the parts; every edge removed in turn, and prompts grouped by features.
Figure     estimates against real effects; f over circuit size; tasks' overlap; the circuits; heat maps of tracing.
Control    random circuits of equal size, and of equal size between each two layers; circuits of other tasks; circuits
           found for random answers; the circuit's complement; precision by chance; states of another prompt; a bag of
           words that tells clean from counterfactual prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.exp18_discover_circuits import (
    acdc,
    clusters,
    feature_edges,
    features,
    figures,
    headline,
    measure,
    overlap,
    report,
    tracing,
    words,
)
from experiments.exp18_discover_circuits.config import (
    ATTRIBUTION,
    NODE_SHARES,
    RANDOM,
    CircuitConfig,
    Item,
    items,
    scored_items,
    split,
)
from experiments.harness.experiment import Experiment, Plan, Stage
from mlx_interp.circuits import SHARES
from mlx_interp.model import Model


@dataclass(frozen=True)
class Config(CircuitConfig):
    """All fields are those of circuits."""


def plan(model: Model, chosen: Sequence[Item], config: Config) -> Plan:
    """Edges cost n_heads plain passes each time; a gradient about three passes."""
    prompts = sum(sum(map(len, split(model, item.task, config))) for item in chosen)
    circuits = len(SHARES) * (6 + 2 * RANDOM + len(config.names)) * model.n_heads + len(NODE_SHARES) * (6 + RANDOM)
    scored = len(chosen) * config.n_test * (circuits if "faithfulness" in config.parts else 0)
    checks = 2 * config.n_sampled * (4 + 3 * model.n_heads)
    checked = len(chosen) * config.n_checked * (checks if "patching" in config.parts else 0)
    slopes = len(chosen) * config.n_train * 3 * config.steps * (2 * model.n_layers + 4 * model.n_heads)
    rows = [[1] * 24] * 256
    memory = model.weight_bytes + model.n_heads * model.memory(rows)
    return Plan(prompts, scored + checked, float(scored + checked + slopes), memory)


EXPERIMENT = Experiment(
    name="exp18_discover_circuits",
    config=Config,
    stages=[
        Stage(ATTRIBUTION, items, measure.attribution),
        Stage("patching", measure.checked_items, measure.patching),
        Stage("faithfulness", scored_items, measure.faithfulness),
        Stage("minimality", measure.dropped_items, measure.minimality),
        Stage("acdc", acdc.acdc_items, acdc.measure),
        Stage("features", features.feature_items, features.measure),
        Stage(clusters.CLUSTERS, clusters.items, clusters.measure),
        Stage("tracing", measure.traced_items, measure.tracing),
    ],
    tables=[
        *(report.task_table, report.check_table, report.truth_table, report.area_table, report.complete_table),
        *(report.node_table, overlap.stability_table, overlap.overlap_table, words.word_table, figures.only_table),
        acdc.acdc_table,
        *(figures.minimality_table, features.check_table, features.size_table, features.strongest_table),
        *(
            feature_edges.check_table,
            feature_edges.share_table,
            feature_edges.size_table,
            feature_edges.strongest_table,
        ),
        *(clusters.agreement_table, clusters.cluster_table),
        tracing.best_table,
        tracing.position_table,
    ],
    figures=[
        *(figures.estimates, figures.faithfulness_curves, figures.overlap, figures.drawings, features.curves),
        feature_edges.drawings,
        tracing.heat_maps,
    ],
    headline=headline.headline,
    plan=plan,
    group=lambda item: item.task,
    scaling=report.metrics,
    files=figures.files,
)
