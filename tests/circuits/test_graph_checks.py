"""Attribution graphs outside: ablations by hand beside them, files that circuit-tracer's viewer reads, our page."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_interp import Add, Model, Patch
from mlx_interp.circuits import (
    AttributionGraph,
    attribution_graph,
    edge_ablations,
    feature_ablations,
    page_graph,
    prune,
    random_ablations,
    save_viewer,
    viewer_json,
)
from mlx_interp.errors import CircuitError
from tests.sae.transcoder_examples import random_set
from tests.tiny import tiny_model

TOKENS = [3, 5, 8, 13, 21]


def traced(model: Model, *, cross: bool = False) -> AttributionGraph:
    transcoders = random_set(model.n_layers, model.d_model, cross=cross)
    return attribution_graph(model, TOKENS, transcoders, mass=1.0, n_tokens=3, least_explained=-1e9)


def centred(model: Model, edits: list[Add | Patch]) -> np.ndarray:
    """Logits before the cap, less their mean, of one plain run."""
    logits = np.asarray(model.run(TOKENS, interventions=edits).logits[0], np.float64)  # type: ignore[index]
    if model.network.family.softcap_logits:
        cap = float(getattr(model.network.args, model.network.family.softcap_logits))
        logits = cap * np.arctanh(logits / cap)
    found: np.ndarray = logits - logits.mean()
    return found


def writes(graph: AttributionGraph, place: int) -> dict[str, mx.array]:
    layer, _, number = graph.features[place]
    decoder = graph.transcoders.transcoders[layer].weights["W_dec"][int(number)]
    return {f"mlp_out.{layer + step}": graph.activations[place] * vector for step, vector in enumerate(decoder)}


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("cross", [False, True])
def test_an_ablated_feature_is_what_it_writes_taken_off_a_plain_run(family: str, cross: bool) -> None:
    model = tiny_model(family)
    graph = traced(model, cross=cross)
    places = [0, graph.n_features // 2, graph.n_features - 1]
    found = feature_ablations(model, graph, places)
    for column, place in enumerate(places):
        position = int(graph.features[place, 1])
        edits = [Add(site, -vector, positions=position) for site, vector in writes(graph, place).items()]
        lost = (centred(model, []) - centred(model, [*edits]))[list(graph.tokens)]
        assert np.allclose(found[:, column], lost, atol=2e-3 if family == "gemma2" else 1e-4)
    random = random_ablations(model, graph, places, seed=0)
    assert not np.allclose(random, found, atol=1e-3)
    assert np.array_equal(random, random_ablations(model, graph, places, seed=0))


@pytest.mark.parametrize("cross", [False, True])
def test_an_ablated_edge_holds_all_other_mlps(llama: Model, cross: bool) -> None:
    graph = traced(llama, cross=cross)
    inside = np.argwhere(graph.effects[: graph.n_features, : graph.n_features])
    targets = [tuple(edge) for edge in inside[:: len(inside) // 4]]
    edges = [*targets, (graph.logits.start, 0), (graph.logits.start + 1, graph.n_features - 1)]
    found = edge_ablations(llama, graph, edges)
    clean = llama.run(TOKENS, capture=["mlp_out", "mlp_in"])
    for value, (target, source) in zip(found, edges, strict=True):
        end = int(graph.features[target, 0]) if target < graph.n_features else llama.n_layers
        first, position = (int(x) for x in graph.features[source, :2])
        held = {f"mlp_out.{at}": np.array(clean[f"mlp_out.{at}"][0]) for at in range(first, end)}
        for site, vector in writes(graph, source).items():
            if site in held:
                held[site][position] -= np.asarray(vector)
        edits = [Patch(site, mx.array(x)) for site, x in held.items()]
        if target >= graph.n_features:
            lost = (centred(llama, []) - centred(llama, [*edits]))[graph.tokens[target - graph.logits.start]]
        else:
            _, there, number = (int(x) for x in graph.features[target])
            encoder = graph.transcoders.transcoders[end].weights["W_enc"][:, number]
            changed = llama.run(TOKENS, capture=f"mlp_in.{end}", interventions=edits)
            lost = float((clean[f"mlp_in.{end}"] - changed[f"mlp_in.{end}"])[0, there] @ encoder)
        assert value == pytest.approx(lost, abs=1e-4)


def test_ablations_of_what_is_no_feature_are_refused(llama: Model) -> None:
    graph = traced(llama)
    with pytest.raises(CircuitError, match=rf"nodes 0 to {graph.n_features - 1}, not {graph.n_features}"):
        feature_ablations(llama, graph, [graph.n_features])
    with pytest.raises(CircuitError, match="nothing leads into errors"):
        edge_ablations(llama, graph, [(graph.errors.start, 0)])
    with pytest.raises(CircuitError, match="give later targets"):
        edge_ablations(llama, graph, [(0, graph.n_features - 1)])


NODE = {
    "node_id": str, "feature": int, "layer": str, "ctx_idx": int, "feature_type": str, "token_prob": float,
    "is_target_logit": bool, "run_idx": int, "reverse_ctx_idx": int, "jsNodeId": str, "clerp": str,
}  # fmt: skip
"""Fields that circuit-tracer 0.5 requires of a node, and their types."""


def test_files_have_the_fields_of_circuit_tracers_viewer(llama: Model, tmp_path: Path) -> None:
    graph = traced(llama)
    pruned = prune(graph, nodes=0.9)
    made = json.loads(save_viewer(llama, graph, pruned, tmp_path, slug="numbers").read_text())
    assert set(made) == {"metadata", "qParams", "nodes", "links"}
    ids = [node["node_id"] for node in made["nodes"]]
    assert len(set(ids)) == len(ids) > 10
    for node in made["nodes"]:
        for name, kind in NODE.items():
            assert isinstance(node[name], kind), name
        assert node["influence"] is None or 0 < node["influence"] <= 1.0001
    kinds = {node["feature_type"] for node in made["nodes"]}
    assert kinds == {"cross layer transcoder", "mlp reconstruction error", "embedding", "logit"}
    assert len(made["links"]) == pruned.edges.sum()
    assert {end for link in made["links"] for end in (link["source"], link["target"])} <= set(ids)
    total = sum(link["weight"] for link in made["links"])
    assert total == pytest.approx(graph.effects[pruned.edges].sum())
    assert len(made["metadata"]["prompt_tokens"]) == len(TOKENS)
    targets = [node for node in made["nodes"] if node["is_target_logit"]]
    assert [node["feature"] for node in targets] == [graph.tokens[0]]
    model = pytest.importorskip(
        "circuit_tracer.frontend.graph_models", reason="pip install circuit-tracer reads it too"
    )
    assert len(model.Model.model_validate(made).nodes) == len(ids)


def test_a_folders_list_has_each_graph_once(llama: Model, tmp_path: Path) -> None:
    graph = traced(llama)
    pruned = prune(graph)
    for slug in ("one", "two", "one"):
        save_viewer(llama, graph, pruned, tmp_path, slug=slug)
    listed = json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]
    assert [one["slug"] for one in listed] == ["two", "one"]
    with pytest.raises(CircuitError, match="a name without folders"):
        viewer_json(llama, graph, pruned, slug="../one")
    (tmp_path / "graph-metadata.json").write_text("[]")
    with pytest.raises(CircuitError, match="no list of graphs"):
        save_viewer(llama, graph, pruned, tmp_path, slug="three")


def test_our_page_has_the_pruned_edges(llama: Model) -> None:
    graph = traced(llama)
    pruned = prune(graph)
    shown = page_graph(llama, graph, pruned, title="numbers")
    assert len(shown.edges) == pruned.edges.sum()
    assert {end for edge in shown.edges for end in (edge.source, edge.target)} == {node.name for node in shown.nodes}
    places = [(node.row, node.column) for node in shown.nodes]
    assert len(set(places)) == len(places)
    assert "numbers" in shown.page().html
