"""Exact counterfactuals of attribution graphs: what the real model does without a feature, or without one edge.

A feature is ablated by taking what it writes off the MLP outputs, at its position, in the model as it is: nothing is
held, later MLPs are the model's own. An edge is ablated likewise, with all other MLP outputs between its ends at their
clean values, so that attention and norms alone hand the change on, now free. Effects are what is lost: clean less
ablated, in the units of the graph's values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_interp.circuits.attribution_graphs import AttributionGraph
from mlx_interp.controls import random_like
from mlx_interp.deferred import mx
from mlx_interp.engine.held_stream import read_there
from mlx_interp.errors import CircuitError
from mlx_interp.interventions import Add, Intervention, Patch
from mlx_interp.model import Model


def feature_ablations(model: Model, graph: AttributionGraph, features: Sequence[int]) -> np.ndarray:
    """What the graph's logits lose without each feature, by the model itself: (n_logits, n_features asked for).

    features: places of nodes. Raises CircuitError for places that are no features, or another model than the graph's.
    """
    _check(model, graph, features)
    return _lost(model, graph, [_taken_off(graph, place) for place in features])


def random_ablations(model: Model, graph: AttributionGraph, features: Sequence[int], *, seed: int) -> np.ndarray:
    """The same for a random direction of equal length in the place of what each feature writes: a control."""
    _check(model, graph, features)
    variants: list[list[Intervention]] = []
    for place in features:
        name, position = graph.node(place), int(graph.features[place, 1])
        drawn = {at: random_like(x, seed=seed, key=(name, at)) for at, x in _written(graph, place).items()}
        variants.append([Add(f"mlp_out.{at}", -x, positions=position) for at, x in drawn.items()])
    return _lost(model, graph, variants)


def edge_ablations(model: Model, graph: AttributionGraph, edges: Sequence[tuple[int, int]]) -> np.ndarray:
    """What each edge's target loses without its source, all other MLP outputs between at clean values: (n_edges,).

    edges: (target, source), a feature or logit of a later layer and a feature. Raises CircuitError for others.
    """
    _check(model, graph, [source for _, source in edges])
    found = np.zeros(len(edges))
    ends = [_layer(graph, target) for target, _ in edges]
    for target, source in edges:
        if not graph.features[source, 0] < _layer(graph, target):
            raise CircuitError(f"no edge leads from {graph.node(source)} to {graph.node(target)}: give later targets")
    clean = model.run(graph.prompt, capture="mlp_out", logits="none")
    for end in sorted(set(ends)):
        mine = [n for n, one in enumerate(ends) if one == end]
        sources = sorted({edges[n][1] for n in mine})
        variants = [[*_held(graph, source, end, clean), *_taken_off(graph, source, end)] for source in sources]
        if end == graph.n_layers:
            lost = _lost(model, graph, variants)
            for n in mine:
                found[n] = lost[edges[n][0] - graph.logits.start, sources.index(edges[n][1])]
            continue
        one = graph.transcoders.of(end)
        assert one is not None
        before = "resid_pre" if model.network.parallel else "resid_mid"
        states = model.sweep(graph.prompt, [[], *variants], capture=f"{before}.{end}", logits="none")
        made = np.asarray(one.pre_activations(read_there(model.network, end, states[f"{before}.{end}"], one.reads)))
        for n in mine:
            _, position, number = graph.features[edges[n][0]]
            found[n] = made[0, position, number] - made[1 + sources.index(edges[n][1]), position, number]
    return found


def _check(model: Model, graph: AttributionGraph, features: Sequence[int]) -> None:
    graph.transcoders.check_fits(model)
    if outside := [place for place in features if not 0 <= place < graph.n_features]:
        raise CircuitError(f"features of the graph are nodes 0 to {graph.n_features - 1}, not {outside[0]}")


def _layer(graph: AttributionGraph, place: int) -> int:
    """The layer at whose MLP a target is read; n_layers of logits."""
    if place < graph.n_features:
        return int(graph.features[place, 0])
    if place < graph.logits.start:
        raise CircuitError(f"{graph.node(place)} is no target: nothing leads into errors and embeddings")
    return graph.n_layers


def _taken_off(graph: AttributionGraph, place: int, end: int | None = None) -> list[Add]:
    """Interventions that take off what a feature writes below layer `end`."""
    position = int(graph.features[place, 1])
    wrote = _written(graph, place)
    return [Add(f"mlp_out.{at}", -x, positions=position) for at, x in wrote.items() if end is None or at < end]


def _written(graph: AttributionGraph, place: int) -> dict[int, mx.array]:
    """What a feature writes, by layer (d_model,)."""
    layer, _, number = (int(x) for x in graph.features[place])
    one = graph.transcoders.of(layer)
    assert one is not None
    wrote = float(graph.activations[place]) * one.weights["W_dec"][number]
    return {layer + step: wrote[step] for step in range(one.n_written)}


def _held(graph: AttributionGraph, source: int, end: int, clean: object) -> list[Intervention]:
    """MLP outputs between the ends at their clean values."""
    first = int(graph.features[source, 0])
    return [Patch(f"mlp_out.{at}", clean[f"mlp_out.{at}"][0]) for at in range(first, end)]  # type: ignore[index]


def _lost(model: Model, graph: AttributionGraph, variants: Sequence[Sequence[Intervention]]) -> np.ndarray:
    """What each logit, less the mean, before a cap, loses under variants: (n_logits, n_variants)."""
    name = model.network.family.softcap_logits
    cap = float(getattr(model.network.args, name)) if name else None

    def centred(logits: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)
        if cap is not None:
            logits = cap * mx.arctanh(mx.clip(logits / cap, -1 + 1e-6, 1 - 1e-6))
        return logits[:, mx.array(graph.tokens)] - logits.mean(-1, keepdims=True)

    measured = np.asarray(model.sweep(graph.prompt, [[], *variants], metric=centred), np.float64)
    return (measured[:1] - measured[1:]).T
