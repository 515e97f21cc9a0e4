"""Edges between autoencoder features in exp18: estimated, checked by patching single edges, drawn.

Edges lead into the strongest nodes of each site, and into the logits; those whose upstream node is among the strongest
too are kept. Beside the estimate, by one gradient, stand integrated ones, what the stream alone hands on, and, as
control, the estimate of another edge from the same upstream node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from experiments.exp18_discover_circuits.config import (
    LARGE_EDGE,
    CircuitConfig,
    Floats,
    rounded,
)
from experiments.harness.state import Run
from mlx_interp.circuits import Pair, check, jaccard, resampled, sample, top
from mlx_interp.circuits.feature_edge_circuits import feature_edge_circuits
from mlx_interp.circuits.feature_edges import FeatureEdges, feature_edge_effects, feature_edges, links
from mlx_interp.circuits.features import feature_circuits
from mlx_interp.reporting import finite
from mlx_interp.sae import SAE

STABLE_EDGES = 40
"""Edges of the circuit whose stability is measured and that are drawn."""
SIZES = (10, 20, 50, 100, 200, 500, 1000)
METHODS = ("one gradient", "integrated", "stream alone", "control: another target")
INTO = ("features", "logits")


class Kept(TypedDict):
    """Edges between the strongest nodes, and what of all effects they hold."""

    feature_edges: list[list[str | int | float | None]]
    """Site and number of the upstream node, of the one downstream (None: a logit), the effect, the stream's part."""
    errors: dict[str, int]
    """By site, which number stands for the error."""
    kept_share: list[float]
    """By pair, of all edges' effects."""
    stream_share: list[float]
    """By pair, of these edges' effects, what the stream alone hands on."""
    error_share: list[float]
    """By pair, of all edges' effects, those of errors."""
    jaccards: list[float]
    """Overlap of the circuit with those of resampled pairs."""
    by_chance: float


class Scored(TypedDict):
    """m of test pairs under circuits of edges, nats."""

    edge_sizes: list[int]
    edges_m: list[list[float]]
    """By pair: the largest edges of every size, then as many at random."""
    ends_m: list[list[float]]
    """By pair: everything, nothing, and the nodes alone restricted."""


class Featured(TypedDict):
    """A task's features in one dictionary: a check of estimates, the strongest, edges between them, or circuits."""

    task: str
    dictionary: str
    site: NotRequired[str]
    """Latents of this site were patched; estimates against effects."""
    pair: NotRequired[str]
    spearman: NotRequired[float | None]
    """Rank correlation; None for too few cells."""
    missed: NotRequired[float | None]
    """Share of the large effects whose estimate is not large; None where none is large."""
    cells: NotRequired[int]
    strongest: NotRequired[list[list[str | int | float]]]
    """Site, number (or error) and mean score of the strongest nodes."""
    n: NotRequired[int]
    """Pairs."""
    feature_edges: NotRequired[list[list[str | int | float | None]]]
    """Site and number of the upstream node, of the one downstream (None: a logit), the effect, the stream's part."""
    errors: NotRequired[dict[str, int]]
    """By site, which number stands for the error."""
    kept_share: NotRequired[list[float]]
    """By pair, of all edges' effects."""
    stream_share: NotRequired[list[float]]
    """By pair, of these edges' effects, what the stream alone hands on."""
    error_share: NotRequired[list[float]]
    """By pair, of all edges' effects, those of errors."""
    jaccards: NotRequired[list[float]]
    """Overlap of the circuit with those of resampled pairs."""
    by_chance: NotRequired[float]
    edge_sizes: NotRequired[list[int]]
    edges_m: NotRequired[list[list[float]]]
    """By pair: m under the largest edges of every size, then as many at random, nats."""
    ends_m: NotRequired[list[list[float]]]
    """By pair: m of everything, of nothing, and with the nodes alone restricted."""
    edge_check: NotRequired[str]
    """By which method edges were estimated that were then patched."""
    into: NotRequired[str]
    """features or logits."""
    nodes: NotRequired[int]
    """In all."""
    sizes: NotRequired[list[int]]
    features_m: NotRequired[list[list[float]]]
    """By pair and size, and of all nodes: m of circuits of features."""


def measure(
    run: Run[CircuitConfig],
    saes: Sequence[SAE],
    pairs: Sequence[Pair],
    test: Sequence[Pair],
    scores: Sequence[Floats],
    task: str,
) -> Iterator[Featured]:
    """Edges into the strongest nodes of every site, and their check on some of the pairs."""
    config = run.config
    kept = [np.argsort(-np.abs(mine.mean(0)))[: config.edge_nodes].tolist() for mine in scores]
    found = feature_edges(run.model, pairs, saes, kept)
    base: Featured = {"task": task, "dictionary": "trained"}
    circuit = _circuit(saes, kept, found, config)
    yield {**base, **circuit, "n": len(pairs)}
    if links(run.model, saes) == [(place, place + 1) for place in range(len(saes))]:
        yield {**base, **_scored(run, saes, test, kept, circuit["feature_edges"])}
    some = pairs[: config.n_checked]
    integrated = feature_edges(run.model, some, saes, kept, method="ig-activations", steps=config.steps)
    for row, pair in enumerate(some):
        for edges, other in zip(found, integrated, strict=True):
            yield from _checked(run, saes, pair, row, edges, other, base)


def _circuit(
    saes: Sequence[SAE], kept: Sequence[Sequence[int]], found: Sequence[FeatureEdges], config: CircuitConfig
) -> Kept:
    """Edges between nodes that are kept, with means over pairs; what of all effects they and the stream hold."""
    names: list[list[Any]] = []
    values, streams = [], []
    for edges in found:
        first, last = edges.link
        site = saes[last].site if last < len(saes) else None
        for column, target in enumerate(edges.targets):
            for source in kept[first]:
                names.append([saes[first].site, source, site, target])
                values.append(edges.values[:, column, source])
                streams.append(edges.stream[:, column, source])
    mine, stream = np.array(values).T, np.array(streams).T
    size = np.abs(mine).sum(1)
    every = sum(np.abs(edges.values).sum((1, 2)) for edges in found)
    n = min(STABLE_EDGES, len(names))
    whole = top(mine.mean(0), n)
    return {
        "feature_edges": [
            [*name, *rounded([value, part])]
            for name, value, part in zip(names, mine.mean(0), stream.mean(0), strict=True)
        ],
        "errors": {sae.site: sae.d_sae for sae in saes},
        "kept_share": rounded(size / every),
        "stream_share": rounded((stream * np.sign(mine)).sum(1) / size),
        "error_share": rounded(sum(np.abs(edges.values[..., -1]).sum(1) for edges in found) / every),
        "jaccards": rounded([jaccard(whole, top(m, n)) for m in resampled(mine, config.n_bootstrap, config.seed)]),
        "by_chance": n / (2 * len(names) - n),
    }


def _scored(
    run: Run[CircuitConfig],
    saes: Sequence[SAE],
    test: Sequence[Pair],
    kept: Sequence[Sequence[int]],
    edges: Sequence[Sequence[Any]],
) -> Scored:
    """m of test pairs under the largest edges, under random ones of these, and with the nodes alone restricted."""
    places = {sae.site: place for place, sae in enumerate(saes)}
    made = [
        (places[first], source, len(saes) if last is None else places[last], target)
        for first, source, last, target, *_ in edges
    ]
    order = np.argsort([-abs(edge[4]) for edge in edges], kind="stable")
    shuffled = np.random.default_rng(run.config.seed).permutation(len(made))
    sizes = [*(size for size in SIZES if size < len(made)), len(made)]
    circuits = [[made[i] for i in which[:size]] for which in (order, shuffled) for size in sizes]
    whole = [np.ones(sae.d_sae + 1, bool) for sae in saes]
    nodes = [np.isin(np.arange(sae.d_sae + 1), numbers) for sae, numbers in zip(saes, kept, strict=True)]
    ends = feature_circuits(run.model, test, saes, [whole, [~mask for mask in whole], nodes])
    return {
        "edge_sizes": sizes,
        "edges_m": [rounded(row) for row in feature_edge_circuits(run.model, test, saes, circuits)],
        "ends_m": [rounded(row) for row in ends],
    }


def _checked(
    run: Run[CircuitConfig],
    saes: Sequence[SAE],
    pair: Pair,
    row: int,
    edges: FeatureEdges,
    integrated: FeatureEdges,
    base: Featured,
) -> Iterator[Featured]:
    """The largest edges of a link and others, patched one by one; upstream nodes that do not change are left out."""
    values = edges.values[row]
    there = np.where(np.abs(values).sum(0, keepdims=True) > 0, values, np.nan)
    n = max(1, run.config.n_sampled // (2 * len(links(run.model, saes))))
    chosen = sample(there, top=n, random=n, seed=run.config.seed)
    if len(chosen) < 3:
        return
    cells = [divmod(index, values.shape[1]) for index in chosen]
    made = [(edges.link[0], source, edges.link[1], edges.targets[column]) for column, source in cells]
    exact = feature_edge_effects(run.model, [pair], saes, made)[0]
    turned = np.roll(values, 1, axis=0)  # the next target's estimate, of the same upstream node
    estimates = dict(zip(METHODS, (values, integrated.values[row], edges.stream[row], turned), strict=True))
    large = LARGE_EDGE * float(np.abs(exact).max())
    for name, estimated in estimates.items():
        if name == METHODS[-1] and len(values) < 2:
            continue  # into the logits there is no other target
        result = check(estimated.ravel()[chosen], exact, large=large)
        yield {
            **base,
            "edge_check": name,
            "into": INTO[edges.link[1] == len(saes)],
            "pair": pair.key,
            "spearman": finite(result.spearman),
            "cells": result.n,
        }
