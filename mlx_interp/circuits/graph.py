"""Circuit graphs, to be drawn or read elsewhere: JSON with nodes and edges, and one page of HTML that needs nothing.

Nodes stand by layer and head, MLPs in a column of their own on the right. Edges are as wide as their score is large and
say it when the pointer rests on them. Queries, keys and values of a head are drawn as one node.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mlx_interp.circuits.discovery import Bools, Floats
from mlx_interp.deferred import html
from mlx_interp.engine.edge_pass import Wiring
from mlx_interp.patching.nodes import LOGITS, Node, inputs, nodes, reader

WIDTH, ROW, MARGIN = 130, 46, 70


@dataclass(frozen=True)
class GraphNode:
    """A node of a circuit: where it stands, and its own score (the sum over its edges in the circuit)."""

    name: str
    layer: int
    column: int
    row: int
    score: float


@dataclass(frozen=True)
class GraphEdge:
    """An edge of a circuit. reads: the input it leads into, e.g. "q.3.1"; target: the node of that input."""

    source: str
    target: str
    reads: str
    score: float
    stream: float | None = None
    """Of an edge between features: the part of its score that the stream alone hands on."""


@dataclass(frozen=True)
class CircuitGraph:
    """A circuit with its scores, in the units of the metric."""

    title: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    @property
    def merged(self) -> dict[tuple[str, str], float]:
        """Scores by (source, target): the edge into a head's query, key and value as one."""
        found: dict[tuple[str, str], float] = defaultdict(float)
        for edge in self.edges:
            found[edge.source, edge.target] += edge.score
        return dict(found)


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


def as_html(graphs: Sequence[CircuitGraph], *, title: str) -> str:
    """One static page with all graphs as SVG: no script, no address, so that it opens anywhere and for ever."""
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        "<style>body{font:14px sans-serif;margin:2em;max-width:70em}text{font:11px sans-serif}"
        "table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}"
        "path:hover{stroke:#000}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        "<p>Blue edges carry what raises the metric on the clean prompt, orange ones what lowers it; width: size of "
        "the estimated effect. Rest the pointer on an edge or node to read it.</p>",
    ]
    for graph in graphs:
        parts += [f"<h2>{html.escape(graph.title)}</h2>", _svg(graph), _strongest(graph)]
    return "\n".join([*parts, "</body></html>", ""])


def _svg(graph: CircuitGraph) -> str:
    if not graph.nodes:
        return "<p>No edges.</p>"
    columns, rows = (max(getattr(node, axis) for node in graph.nodes) + 1 for axis in ("column", "row"))
    height = 2 * MARGIN + rows * ROW
    place = {n.name: (MARGIN + n.column * WIDTH + WIDTH // 2, height - MARGIN - n.row * ROW) for n in graph.nodes}
    largest = max((abs(score) for score in graph.merged.values()), default=0.0) or 1.0
    lines = [f'<svg width="{2 * MARGIN + columns * WIDTH}" height="{height}" role="img">']
    for (source, target), score in sorted(graph.merged.items(), key=lambda item: abs(item[1])):
        (x0, y0), (x1, y1) = place[source], place[target]
        bend = x0 + (x1 - x0) / 2 + (40 if x0 == x1 and abs(y0 - y1) > ROW else 0)
        colour = "#0072B2" if score < 0 else "#E69F00"  # an effect below 0: without it the metric falls
        size = abs(score) / largest
        lines.append(
            f'<path d="M{x0} {y0} Q{bend:.0f} {(y0 + y1) / 2:.0f} {x1} {y1}" fill="none" stroke="{colour}" '
            f'stroke-width="{0.5 + 5 * size:.2f}" stroke-opacity="{0.25 + 0.6 * size:.2f}">'
            f"<title>{html.escape(source)} to {html.escape(target)}: {score:.3f}</title></path>"
        )
    half = max(28, *(4 * len(node.name) for node in graph.nodes))
    for node in graph.nodes:
        x, y = place[node.name]
        box = f'x="{x - half}" y="{y - 10}" width="{2 * half}" height="20" rx="4"'
        lines.append(
            f'<g><title>{html.escape(node.name)}: {node.score:.3f}</title><rect {box} fill="#fff" stroke="#333"/>'
            f'<text x="{x}" y="{y + 4}" text-anchor="middle">{html.escape(node.name)}</text></g>'
        )
    return "\n".join([*lines, "</svg>"])


def _strongest(graph: CircuitGraph, n: int = 15) -> str:
    ranked = sorted(graph.edges, key=lambda edge: -abs(edge.score))[:n]
    with_stream = any(edge.stream is not None for edge in ranked)
    heads = ["from", "read by", "effect", *(["by the stream alone"] if with_stream else [])]
    cells = [[e.source, e.reads, f"{e.score:.3f}", *([] if e.stream is None else [f"{e.stream:.3f}"])] for e in ranked]
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{rows}</table>"
