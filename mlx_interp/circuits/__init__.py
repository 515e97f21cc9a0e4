"""Circuits: which heads, MLPs and edges make a model do a task, estimated by gradients, checked by real patching.

scores = circuits.node_scores(model, pairs)              # or edge_scores
exact = circuits.node_effects(model, pairs, cells)       # real patching, by one sweep a pair
circuit = circuits.top(scores.mean(0), 10)
m = circuits.node_circuits(model, pairs, [circuit])      # the metric with everything else replaced
"""

from mlx_interp.circuits.attribution import METHODS, edge_scores, node_scores
from mlx_interp.circuits.attribution_graphs import AttributionGraph, attribution_graph
from mlx_interp.circuits.composition import chance_composition, composition_scores, copying_scores
from mlx_interp.circuits.discovery import (
    greedy,
    jaccard,
    pruned,
    random_edges,
    random_nodes,
    resampled,
    top,
    weighted_jaccard,
)
from mlx_interp.circuits.exact import Check, check, edge_effects, node_effects, sample
from mlx_interp.circuits.faithfulness import SHARES, cmd, cpr, edge_circuits, faithfulness, node_circuits
from mlx_interp.circuits.graph_checks import edge_ablations, feature_ablations, random_ablations
from mlx_interp.circuits.graph_files import page_graph, save_viewer, viewer_json
from mlx_interp.circuits.graph_influence import GraphScores, Pruned, graph_scores, node_influence, prune
from mlx_interp.circuits.pairs import Metric, Pair, log_odds, screened
from mlx_interp.circuits.relevance import relevance_model, relevance_scores
from mlx_interp.circuits.weights import HeadWeights, QKCircuit, head_weights, normed_stream, ov_circuit, qk_circuit
from mlx_interp.engine.edge_pass import Wiring, wiring
from mlx_interp.patching.nodes import Node, inputs, nodes

__all__ = [
    "METHODS",
    "SHARES",
    "AttributionGraph",
    "Check",
    "GraphScores",
    "HeadWeights",
    "Metric",
    "Node",
    "Pair",
    "Pruned",
    "QKCircuit",
    "Wiring",
    "attribution_graph",
    "chance_composition",
    "check",
    "cmd",
    "composition_scores",
    "copying_scores",
    "cpr",
    "edge_ablations",
    "edge_circuits",
    "edge_effects",
    "edge_scores",
    "faithfulness",
    "feature_ablations",
    "graph_scores",
    "greedy",
    "head_weights",
    "inputs",
    "jaccard",
    "log_odds",
    "node_circuits",
    "node_effects",
    "node_influence",
    "node_scores",
    "nodes",
    "normed_stream",
    "ov_circuit",
    "page_graph",
    "prune",
    "pruned",
    "qk_circuit",
    "random_ablations",
    "random_edges",
    "random_nodes",
    "relevance_model",
    "relevance_scores",
    "resampled",
    "sample",
    "save_viewer",
    "screened",
    "top",
    "viewer_json",
    "weighted_jaccard",
    "wiring",
]
