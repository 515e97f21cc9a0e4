"""exp18: circuits. Which heads, MLPs and edges make the model do a task, and are they the ones that really matter?

Question   Does attribution (EAP, EAP-IG) find what exhaustive patching finds; is the circuit it finds faithful,
           complete, minimal and stable; and do safe and toxic requests run through the same one?
Data       pairs of a clean and a counterfactual prompt of equal length that differ in what matters. Embedded models:
           two-hop queries, in-context tasks, refusals. Others: these by the tables of facts and requests of this
           project, single-hop recall, agreement of subject and verb, later years; a file of pairs (--data), or toxic
           and safe prompts that are matched (--toxic, --safe). Circuits are discovered on some pairs and scored on
           others; a task that a model does not do is left out, with its counts.
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

from dataclasses import dataclass

from experiments.exp18_discover_circuits import (
    acdc,
    circuit_figures,
    circuit_report,
    clusters,
    cost,
    discovery,
    feature_edge_report,
    features,
    headline,
    overlap,
    patching_check,
    tracing,
    words,
)
from experiments.exp18_discover_circuits.config import ATTRIBUTION, CircuitConfig, items, scored_items
from experiments.exp18_discover_circuits.feature_edges import Featured
from experiments.harness.experiment import Experiment, Stage


@dataclass(frozen=True)
class Config(CircuitConfig):
    """All fields are those of circuits."""


EXPERIMENT = Experiment(
    name="exp18_discover_circuits",
    config=Config,
    stages=[
        Stage(ATTRIBUTION, items, discovery.attribution, record=discovery.Attributed),
        Stage("patching", patching_check.checked_items, patching_check.patching, record=patching_check.Checked),
        Stage("faithfulness", scored_items, discovery.faithfulness, record=discovery.Faithful),
        Stage("minimality", discovery.dropped_items, discovery.minimality, record=discovery.Dropped),
        Stage("acdc", acdc.acdc_items, acdc.measure, record=acdc.Pruned),
        Stage("features", features.feature_items, features.measure, record=Featured),
        Stage(clusters.CLUSTERS, clusters.items, clusters.measure, record=clusters.Clustered),
        Stage("tracing", discovery.traced_items, discovery.tracing, record=discovery.Traced),
    ],
    tables=[
        *(
            circuit_report.task_table,
            circuit_report.check_table,
            circuit_report.truth_table,
            circuit_report.area_table,
            circuit_report.complete_table,
        ),
        *(
            circuit_report.node_table,
            overlap.stability_table,
            overlap.overlap_table,
            words.word_table,
            circuit_figures.only_table,
        ),
        acdc.acdc_table,
        circuit_figures.minimality_table,
        features.check_table,
        features.size_table,
        features.strongest_table,
        *feature_edge_report.TABLES,
        *(clusters.agreement_table, clusters.cluster_table),
        tracing.best_table,
        tracing.position_table,
    ],
    figures=[
        *(circuit_figures.estimates, circuit_figures.faithfulness_curves),
        *(circuit_figures.overlap, circuit_figures.drawings, features.curves),
        feature_edge_report.drawings,
        tracing.heat_maps,
    ],
    headline=headline.headline,
    screen=circuit_report.area_table,
    plan=cost.plan,
    limits_items=False,
    look={
        "n_train": 2,
        "shares": (0.1, 1.0),
        "n_test": 2,
        "n_checked": 1,
        "n_sampled": 2,
        "n_dropped": 10,
        "n_bootstrap": 5,
        "tasks": ("two_hop", "toxic"),
        "steps": 2,
        "noise_samples": 1,
        "acdc_thresholds": (0.03,),
        "parts": ("patching", "faithfulness", "minimality"),
    },
    group=lambda item: item.task,
    scaling=circuit_report.metrics,
    files=circuit_figures.files,
)
