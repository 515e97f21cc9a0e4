"""Files of attribution graphs: JSON that circuit-tracer's viewer and Neuronpedia read, and our own graph page.

The viewer reads `<slug>.json` and, as its list of graphs, `graph-metadata.json` beside it. Nodes and links are named as
circuit-tracer 0.5 names them, with one difference: there an error of layer 0's row has the same id as a feature of
layer 0 ("0_3_5" is error 3 at position 5 and feature 3 of layer 0), so that one of them is lost; here errors are
"error_<layer>_<position>". The viewer tells kinds by `feature_type`, not by the id.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mlx_interp.circuits.attribution_graphs import AttributionGraph
from mlx_interp.circuits.graph_influence import NODES, Pruned
from mlx_interp.errors import CircuitError
from mlx_interp.model import Model
from mlx_interp.pages import CircuitGraph, GraphEdge, GraphNode
from mlx_interp.reporting.files import make_folder, write_atomically

LIST = "graph-metadata.json"
COLUMNS = 1000
"""Columns of our graph page that a position has."""
FEATURE, ERROR, EMBEDDING, LOGIT = "cross layer transcoder", "mlp reconstruction error", "embedding", "logit"
"""What the viewer calls kinds of nodes; features of per-layer transcoders have the first name as well."""


def viewer_json(
    model: Model, graph: AttributionGraph, pruned: Pruned, *, slug: str, share: float = NODES
) -> dict[str, Any]:
    """A pruned graph as circuit-tracer's viewer reads it.

    slug: its name in the list of graphs. share: the share of influence that nodes were pruned to.
    Raises CircuitError for a slug that is no file name.
    """
    if not slug or slug != Path(slug).name or slug.startswith("."):
        raise CircuitError(f"slug {slug!r}: a name without folders is needed, such as 'capital-of-texas'")
    ids = {place: _identity(graph, place) for place in range(graph.n_nodes) if pruned.nodes[place]}
    links = [
        {"source": ids[source], "target": ids[target], "weight": float(graph.effects[target, source])}
        for target, source in np.argwhere(pruned.edges).tolist()
        if source in ids and target in ids
    ]
    linked = {end for link in links for end in (link["source"], link["target"])}
    always = range(graph.embeddings.start, graph.n_nodes)
    nodes = [
        _node(model, graph, pruned, place, name) for place, name in ids.items() if name in linked or place in always
    ]
    name = graph.transcoders.name
    about = {
        "slug": slug,
        "scan": name,
        "transcoder_list": [],
        "prompt_tokens": list(graph.prompt.pieces),
        "prompt": graph.prompt.text,
        "node_threshold": share,
        "schema_version": 1,
    }
    asked = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    return {"metadata": about, "qParams": asked, "nodes": nodes, "links": links}


def save_viewer(
    model: Model, graph: AttributionGraph, pruned: Pruned, folder: Path | str, *, slug: str, share: float = NODES
) -> Path:
    """Write a graph where circuit-tracer's viewer finds it, and enter it into the folder's list; returns its file.

    `circuit-tracer start-server --graph_file_dir FOLDER` shows it. Raises CircuitError as `viewer_json`, and for a list
    that cannot be read; RunError where the folder cannot be written.
    """
    made = viewer_json(model, graph, pruned, slug=slug, share=share)
    folder = Path(folder)
    make_folder(folder)
    path, listed = folder / f"{slug}.json", folder / LIST
    try:
        known = json.loads(listed.read_text(encoding="utf-8"))["graphs"] if listed.exists() else []
        others = [one for one in known if one["slug"] != slug]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CircuitError(f"{listed}: no list of graphs ({error}); delete it, or give another folder") from error
    write_atomically(path, json.dumps(made, indent=1) + "\n")
    write_atomically(listed, json.dumps({"graphs": [*others, made["metadata"]]}, indent=1) + "\n")
    return path


def page_graph(model: Model, graph: AttributionGraph, pruned: Pruned, *, title: str) -> CircuitGraph:
    """A pruned graph for our graph page: nodes by layer and position, edges by direct effect."""
    used = sorted({int(place) for ends in np.argwhere(pruned.edges) for place in ends})
    names = {place: _name(model, graph, place) for place in used}
    edges = tuple(
        GraphEdge(names[source], names[target], names[target], float(graph.effects[target, source]))
        for target, source in np.argwhere(pruned.edges).tolist()
    )
    last = {place: float(graph.effects[graph.logits, place] @ graph.probabilities) for place in used}
    taken: dict[tuple[int, int], int] = {}
    nodes = []
    for place in used:
        layer, position = _where(graph, place)
        row = 2 * (layer + 1) + 1 * (graph.n_features <= place < graph.errors.stop)
        column = taken.get((row, position), 0)
        taken[row, position] = column + 1
        nodes.append(GraphNode(names[place], layer, COLUMNS * position + column, row, last[place]))
    return CircuitGraph(title, tuple(nodes), edges)


def _where(graph: AttributionGraph, place: int) -> tuple[int, int]:
    """Layer and position: embeddings are of layer -1, logits of the layer after the last, at the prompt's end."""
    if place < graph.n_features:
        return int(graph.features[place, 0]), int(graph.features[place, 1])
    if place < graph.errors.stop:
        layer, position = divmod(place - graph.errors.start, graph.n_positions)
        return layer, position
    if place < graph.embeddings.stop:
        return -1, place - graph.embeddings.start
    return graph.n_layers, graph.n_positions - 1


def _name(model: Model, graph: AttributionGraph, place: int) -> str:
    """As `graph.node`, with tokens as texts."""
    if graph.embeddings.start <= place < graph.embeddings.stop:
        position = place - graph.embeddings.start
        return f"{graph.prompt.pieces[position].strip()}@{position}"
    if place >= graph.logits.start:
        return f"logit {_text(model, graph.tokens[place - graph.logits.start]).strip()}"
    return graph.node(place)


def _identity(graph: AttributionGraph, place: int) -> str:
    layer, position = _where(graph, place)
    if place < graph.n_features:
        return f"{layer}_{graph.features[place, 2]}_{position}"
    if place < graph.errors.stop:
        return f"error_{layer}_{position}"
    if place < graph.embeddings.stop:
        return f"E_{graph.prompt.tokens[position]}_{position}"
    return f"{graph.n_layers + 1}_{graph.tokens[place - graph.logits.start]}_{position}"


def _node(model: Model, graph: AttributionGraph, pruned: Pruned, place: int, identity: str) -> dict[str, Any]:
    layer, position = _where(graph, place)
    node: dict[str, Any] = {
        "node_id": identity,
        "layer": str(layer),
        "ctx_idx": position,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "clerp": "",
        "influence": float(pruned.cumulative[place]),
        "activation": None,
    }
    if place < graph.n_features:
        number = int(graph.features[place, 2])
        own = {"activation": float(graph.activations[place]), "jsNodeId": f"{layer}_{number}-0"}
        return node | own | {"feature": _paired(layer, number), "feature_type": FEATURE}
    if place < graph.errors.stop:
        return node | {"feature": -1, "feature_type": ERROR, "jsNodeId": f"{layer}_{position}-0"}
    if place < graph.embeddings.stop:
        token = graph.prompt.tokens[position]
        return node | {
            "layer": "E",
            "feature": position,
            "feature_type": EMBEDDING,
            "jsNodeId": f"E_{token}-{position}",
        }
    nth = place - graph.logits.start
    token, probability = graph.tokens[nth], float(graph.probabilities[nth])
    own = {"feature": token, "feature_type": LOGIT, "jsNodeId": f"L_{token}-{position}", "influence": None}
    own |= {"layer": str(graph.n_layers + 1), "token_prob": probability, "is_target_logit": nth == 0}
    return node | own | {"clerp": f'Output "{_text(model, token)}" (p={probability:.3f})'}


def _paired(layer: int, number: int) -> int:
    """One number of two (Cantor), by which the viewer looks a feature up."""
    return (layer + number) * (layer + number + 1) // 2 + number


def _text(model: Model, token: int) -> str:
    return str(model.tokenizer.decode([token]))
