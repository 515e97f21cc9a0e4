"""Circuit graphs, to be drawn or read elsewhere: JSON with nodes and edges; `pages.graph` makes one page of several.

Nodes stand by layer and head, MLPs in a column of their own on the right. Queries, keys and values of a head are one
node.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mlx_interp.circuits.discovery import Bools, Floats
from mlx_interp.engine.edge_pass import Wiring
from mlx_interp.pages import CircuitGraph, GraphEdge, GraphNode
from mlx_interp.patching.nodes import LOGITS, Node, inputs, nodes, reader


def circuit_graph(edges: Bools, scores: Floats, wires: Wiring, *, title: str) -> CircuitGraph:
    """The graph of a circuit's edges (n_inputs, n_nodes), with scores of that shape."""
    known, reads, owner = nodes(wires), inputs(wires), reader(wires)
    names = [*(str(node) for node in known), LOGITS]
    found = [
        GraphEdge(names[node], names[owner[row]], reads[row], float(scores[row, node]))
        for row, node in np.argwhere(edges)
    ]
    totals: dict[str, float] = defaultdict(float)
    for edge in found:
        totals[edge.source] += edge.score
    used = {edge.source for edge in found} | {edge.target for edge in found}
    placed = [_placed(node, wires, totals[str(node)]) for node in known if str(node) in used]
    if LOGITS in used:
        placed.append(GraphNode(LOGITS, wires.n_layers, wires.n_heads // 2, 2 * wires.n_layers + 1, 0.0))
    return CircuitGraph(title, tuple(placed), tuple(found))


def feature_graph(
    edges: Sequence[tuple[tuple[str, int], tuple[str, int] | None, float, float]],
    sites: Sequence[str],
    errors: Mapping[str, int],
    *,
    title: str,
) -> CircuitGraph:
    """The graph of edges between features: (site, node) -> (site, node), or None for the logits; score, stream part.

    sites: from below; each is a row, its nodes stand by number. errors: for each site the number of its error.
    Names are `4/17` for latent 17 after layer 4, `4/error`; with the whole site where sites are of several kinds.
    """
    kinds = {site.partition(".")[0] for site in sites}

    def name(node: tuple[str, int] | None) -> str:
        if node is None:
            return LOGITS
        site, number = node
        where = site.rpartition(".")[2] if len(kinds) == 1 else site
        return f"{where}/{'error' if number == errors[site] else number}"

    found = [GraphEdge(name(a), name(b), name(b), score, stream) for a, b, score, stream in edges]
    totals: dict[str, float] = defaultdict(float)
    for edge in found:
        totals[edge.source] += edge.score
    placed = []
    for row, site in enumerate(sites):
        here = sorted({node for a, b, *_ in edges for node in (a, b) if node is not None and node[0] == site})
        layer = int(site.rpartition(".")[2])
        placed += [GraphNode(name(node), layer, n, 3 * row, totals[name(node)]) for n, node in enumerate(here)]
    if placed and any(b is None for _, b, *_ in edges):
        width = max(node.column for node in placed)
        placed.append(GraphNode(LOGITS, placed[-1].layer + 1, width // 2, 3 * len(sites), 0.0))
    return CircuitGraph(title, tuple(placed), tuple(found))


def _placed(node: Node, wires: Wiring, score: float) -> GraphNode:
    if node.kind == "embed":
        return GraphNode(str(node), -1, wires.n_heads // 2, 0, score)
    if node.kind == "head":
        return GraphNode(str(node), node.layer, node.head, 2 * node.layer + 1, score)
    return GraphNode(str(node), node.layer, wires.n_heads, 2 * node.layer + 2, score)


def as_json(graph: CircuitGraph) -> str:
    """The graph as JSON: title, nodes, edges; `from_json` is the inverse."""
    return json.dumps(asdict(graph), indent=1) + "\n"


def from_json(text: str) -> CircuitGraph:
    data: dict[str, Any] = json.loads(text)
    made = tuple(GraphNode(**node) for node in data["nodes"])
    return CircuitGraph(data["title"], made, tuple(GraphEdge(**edge) for edge in data["edges"]))
