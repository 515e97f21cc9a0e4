"""The stages of exp18: attribution, its check by real patching, circuits under ablation, members dropped, tracing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from experiments.exp18_discover_circuits import words
from experiments.exp18_discover_circuits.config import (
    EDGE_METHODS,
    MAIN,
    RANDOM_ANSWERS,
    CircuitConfig,
    Item,
    items,
    mean_edges,
    split,
)
from experiments.exp18_discover_circuits.pair_sources import task_names
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.circuits import (
    METHODS,
    Pair,
    check,
    edge_circuits,
    edge_effects,
    edge_scores,
    jaccard,
    log_odds,
    node_circuits,
    node_effects,
    node_scores,
    pruned,
    resampled,
    sample,
    top,
    weighted_jaccard,
    wiring,
)
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.exact import Check, Floats, patches, replacements, sweep_metric
from mlx_interp.circuits.faithfulness import without_each
from mlx_interp.circuits.tracing import KINDS, NOISE, ROLES, Kind, by_role, causal_trace, spread, window_of
from mlx_interp.model import Model
from mlx_interp.reporting import finite

LARGE_NODE, LARGE_CELL, LARGE_EDGE = 0.05, 0.02, 0.01
"""From which share of m(M) - m(0) on the effect of a node, of a node at one position, of an edge is called large."""
STABLE_NODES = 0.25
"""Share of the nodes in the circuit whose stability is measured."""


def rounded(values: Any) -> list[Any]:
    """Numbers of records to five significant digits: enough for every table, and small on disk."""
    found: list[Any] = [finite(float(f"{x:.5g}")) for x in np.asarray(values, dtype=np.float64).ravel()]
    return found


class Attributed(TypedDict):
    """Scores of all nodes or edges, and what is known of the pairs that they are from."""

    level: str
    """node, edge or words."""
    task: str
    method: NotRequired[str]
    """Node and edge; so for the fields up to halves."""
    n: NotRequired[int]
    """Pairs."""
    values: NotRequired[list[float]]
    """Mean score of each node or edge."""
    size: NotRequired[int]
    """Of the circuit whose stability is measured."""
    jaccards: NotRequired[list[float]]
    """Overlap of the circuit with those of resampled pairs."""
    halves: NotRequired[float | None]
    """Weighted overlap of the scores of two disjoint halves; None for a single pair."""
    made: NotRequired[int]
    """Words; so for the following fields: pairs that there are."""
    uneven: NotRequired[int]
    """Pairs left out because their prompts are of unequal length."""
    used: NotRequired[int]
    told: NotRequired[list[float] | None]
    """Of each pair, the share of its two prompts that a bag of words tells right; None for too few pairs."""


def attribution(run: Run[CircuitConfig], item: Item) -> Iterator[Attributed]:
    """Mean scores of all nodes and edges over the pairs for discovery, and how stable the largest are."""
    model, config = run.model, run.config
    train, _ = split(run, item.task)
    every = existing(wiring(model.network))
    for method in METHODS:
        # A gradient for every site and step: on fewer pairs.
        some = train[: config.n_checked] if method == "ig-activations" else train
        found = node_scores(model, some, method=method, steps=config.steps)
        yield _attributed("node", item, method, found, STABLE_NODES, config)
    for method in EDGE_METHODS:
        found = edge_scores(model, train, method=method, steps=config.steps)[:, every]
        yield _attributed("edge", item, method, found, config.drawn_share, config)
    told = words.measure(run, item.task)
    yield {
        "level": "words",
        "task": item.task,
        "made": told["made"],
        "uneven": told["uneven"],
        "used": told["used"],
        "told": told["told"],
    }
    unmeant = with_random_answers(train, model.d_vocab, config.seed)
    found = edge_scores(model, unmeant, method=MAIN, steps=config.steps)[:, every]
    yield _attributed("edge", item, RANDOM_ANSWERS, found, config.drawn_share, config)


def with_random_answers(pairs: Sequence[Pair], d_vocab: int, seed: int) -> list[Pair]:
    """Every pair asking for one token drawn at random against another."""
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(d_vocab, 2, replace=False).tolist() for _ in pairs]
    return [replace(pair, answers=(a,), wrong=(b,)) for pair, (a, b) in zip(pairs, drawn, strict=True)]


def _attributed(level: str, item: Item, method: str, per_pair: Any, share: float, config: CircuitConfig) -> Attributed:
    """Means over pairs, overlap of the circuit with those of resampled pairs, and of the scores of disjoint halves."""
    n = max(1, round(share * per_pair[0].size))
    whole = top(per_pair.mean(0), n)
    overlaps = [jaccard(whole, top(mean, n)) for mean in resampled(per_pair, config.n_bootstrap, config.seed)]
    halves = [per_pair[start::2].mean(0) for start in (0, 1)] if len(per_pair) > 1 else []
    return {
        "level": level,
        "task": item.task,
        "method": method,
        "n": len(per_pair),
        "values": rounded(per_pair.mean(0)),
        "size": n,
        "jaccards": rounded(overlaps),
        "halves": weighted_jaccard(*halves) if halves else None,
    }


def checked_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    return items(run, earlier) if "patching" in run.config.parts else []


class Figures(TypedDict):
    """Estimates against effects."""

    spearman: float | None
    """Rank correlation; None for too few cells."""
    missed: float | None
    """Share of the large effects whose estimate is not large; None where none is large."""
    n_large: int
    cells: int


Estimates = TypedDict(
    "Estimates",
    {
        "attribution": list[float],
        "clean-corrupted": list[float],
        "ig-inputs": list[float],
        "ig-activations": list[float],
    },
    total=False,
)
"""Estimated effect of every node, by method."""


class Checked(Estimates):
    """Real patching of one pair: every node and layer, or a sample of cells or edges against their estimates."""

    task: str
    pair: str
    kind: str
    """nodes, cells or edges."""
    full: NotRequired[float]
    """Nodes; so for the fields up to layers: m of the model, nats."""
    empty: NotRequired[float]
    """m with all nodes replaced."""
    exact: NotRequired[list[float]]
    """Effect of replacing each node."""
    zeroed: NotRequired[list[float]]
    """The same with zeros."""
    layers: NotRequired[list[float]]
    """Effect of replacing each layer's heads, and each MLP."""
    method: NotRequired[str]
    """Cells and edges; so for the following fields."""
    spearman: NotRequired[float | None]
    """Rank correlation; None for too few cells."""
    missed: NotRequired[float | None]
    """Share of the large effects whose estimate is not large; None where none is large."""
    n_large: NotRequired[int]
    cells: NotRequired[int]


def patching(run: Run[CircuitConfig], item: Item) -> Iterator[Checked]:
    """Every node really patched, every layer too, and a sample of node-positions and edges; estimates beside them."""
    model = run.model
    train, _ = split(run, item.task)
    wires = wiring(model.network)
    cells = [(number, None) for number in range(wires.n_nodes)]
    for pair in train[: run.config.n_checked]:
        full, empty, layers = _whole_layers(model, pair)
        gap = abs(full - empty)
        exact = node_effects(model, [pair], cells)[0]
        zeroed = node_effects(model, [pair], cells, baseline="zero")[0]
        by_cell = {m: node_scores(model, [pair], method=m, steps=run.config.steps, positions=True)[0] for m in METHODS}
        base: Checked = {"task": item.task, "pair": pair.key, "kind": "nodes"}
        estimates = {method: rounded(found.sum(1)) for method, found in by_cell.items()}
        exactly = {"exact": rounded(exact), "zeroed": rounded(zeroed), "layers": rounded(layers)}
        yield cast(Checked, {**base, "full": full, "empty": empty, **exactly, **estimates})
        yield from _checked_cells(run, pair, by_cell, gap, base)
        yield from _checked_edges(run, pair, gap, base)


def _whole_layers(model: Model, pair: Pair) -> tuple[float, float, Floats]:
    """m of the model, m with all nodes replaced, and the effect of replacing each layer's heads, and each MLP."""
    wires = wiring(model.network)
    values = replacements(model, [pair])[0]
    masks = []
    for layer in range(wires.n_layers):
        for chosen in (wires.heads(layer), wires.mlp(layer)):
            mask = np.zeros(wires.n_nodes, bool)
            mask[chosen] = True
            masks.append(mask)
    variants = [[], patches(model, np.ones(wires.n_nodes, bool), values), *(patches(model, m, values) for m in masks)]
    found = sweep_metric(model, pair, variants, log_odds(model))
    return float(found[0]), float(found[1]), found[2:] - found[0]


def _checked_cells(
    run: Run[CircuitConfig], pair: Pair, by_cell: dict[Any, Any], gap: float, base: Checked
) -> Iterator[Checked]:
    """One sample for all methods: where EAP-IG sees most, and elsewhere."""
    chosen = sample(by_cell[MAIN], top=run.config.n_sampled, random=run.config.n_sampled, seed=run.config.seed)
    n_positions = by_cell[MAIN].shape[1]
    exact = node_effects(run.model, [pair], [divmod(index, n_positions) for index in chosen])[0]
    for method, scores in by_cell.items():
        found = check(scores.ravel()[chosen], exact, large=LARGE_CELL * gap)
        yield {**base, "kind": "cells", "method": method, **_figures(found)}


def _checked_edges(run: Run[CircuitConfig], pair: Pair, gap: float, base: Checked) -> Iterator[Checked]:
    config = run.config
    wires = wiring(run.model.network)
    every = existing(wires)
    scores = {
        m: np.where(every, edge_scores(run.model, [pair], method=m, steps=config.steps)[0], np.nan)
        for m in EDGE_METHODS
    }
    chosen = sample(scores[MAIN], top=config.n_sampled, random=config.n_sampled, seed=config.seed)
    exact = edge_effects(run.model, [pair], [divmod(index, wires.n_nodes) for index in chosen])[0]
    for method, found in scores.items():
        figures = check(found.ravel()[chosen], exact, large=LARGE_EDGE * gap)
        yield {**base, "kind": "edges", "method": method, **_figures(figures)}


def _figures(found: Check) -> Figures:
    return {"spearman": finite(found.spearman), "missed": found.missed, "n_large": found.n_large, "cells": found.n}


class Faithful(TypedDict):
    """The metric m (log-odds of the answer, nats) of test pairs with everything outside of circuits replaced."""

    task: str
    pairs: list[str]
    """The test pairs, as rows below have them."""
    level: str
    """ends or mean ends; edge, node or mean edge."""
    full: NotRequired[list[float]]
    """Ends: m of the whole model."""
    empty: NotRequired[list[float]]
    """Ends: m of nothing; of mean ends everything takes its mean."""
    kind: NotRequired[str]
    """By what the circuits were chosen."""
    sizes: NotRequired[list[int]]
    m: NotRequired[list[list[float]]]
    """By pair and size."""


def faithfulness(run: Run[CircuitConfig], item: Item) -> Iterator[Faithful]:
    """The metric on every test pair with everything outside a circuit replaced, for all circuits of a task."""
    model = run.model
    _, test = split(run, item.task)
    wires = wiring(model.network)
    every = existing(wires)
    ends = edge_circuits(model, test, [every, every & False])
    mean_empty = edge_circuits(model, test, [every & False], baseline="mean")[:, 0]
    base: Faithful = {"task": item.task, "pairs": [pair.key for pair in test], "level": "ends"}
    yield {**base, "full": rounded(ends[:, 0]), "empty": rounded(ends[:, 1])}
    yield {**base, "level": "mean ends", "full": rounded(ends[:, 0]), "empty": rounded(mean_empty)}
    for level, kinds, evaluate in (("edge", item.edges, edge_circuits), ("node", item.nodes, node_circuits)):
        for kind, circuits in kinds.items():
            # The last circuit is the whole model; of complements, nothing.
            last = ends[:, [1 if kind == "complement" else 0]]
            found = np.concatenate([evaluate(model, test, circuits[:-1]), last], axis=1)
            yield {
                **base,
                "level": level,
                "kind": kind,
                "sizes": [int(c.sum()) for c in circuits],
                "m": [rounded(row) for row in found],
            }
    found = np.concatenate([edge_circuits(model, test, item.edges[MAIN][:-1], baseline="mean"), ends[:, :1]], axis=1)
    yield {
        **base,
        "level": "mean edge",
        "kind": MAIN,
        "sizes": [int(c.sum()) for c in item.edges[MAIN]],
        "m": [rounded(row) for row in found],
    }


def dropped_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    """Tasks with the circuit of edges that is drawn, pruned to what leads from the embedding to the logits."""
    if "minimality" not in run.config.parts:
        return []
    wires = wiring(run.model.network)
    n = round(run.config.dropped_share * existing(wires).sum())
    found = []
    for item in items(run, earlier):
        circuit = pruned(top(mean_edges(earlier, item.task, MAIN, wires), n), wires)
        found.append(replace(item, edges={MAIN: [circuit]}))
    return found


class Dropped(TypedDict):
    """The drawn circuit without each of its edges."""

    task: str
    dropped: list[list[int]]
    """The edges, as their two ends."""
    full: list[float]
    """m of the whole model, by pair, nats."""
    empty: list[float]
    circuit: list[float]
    m: list[list[float]]
    """Of the circuit without each edge, by pair."""


def minimality(run: Run[CircuitConfig], item: Item) -> Iterator[Dropped]:
    """The metric on test pairs of the circuit, and of the circuit without each of its edges."""
    _, test = split(run, item.task)
    circuit = item.edges[MAIN][0]
    dropped = without_each(circuit)
    ends = [existing(wiring(run.model.network)), circuit & False, circuit]
    found = edge_circuits(run.model, test[: run.config.n_checked], [*ends, *(smaller for _, smaller in dropped)])
    yield {
        "task": item.task,
        "dropped": [list(member) for member, _ in dropped],
        "full": rounded(found[:, 0]),
        "empty": rounded(found[:, 1]),
        "circuit": rounded(found[:, 2]),
        "m": [rounded(row) for row in found[:, 3:]],
    }


def traced_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    config = run.config
    if "tracing" not in config.parts:
        return []
    # A file's categories are all traced, and so are those tasks that matched prompts have.
    chosen = config.names if config.data else task_names(config.source, config.trace_tasks)
    return [Item(task, task) for task in chosen]


def windows(n_layers: int, config: CircuitConfig) -> list[tuple[Kind, int]]:
    """What is put back together: the stream of one layer, attention and MLPs of windows of layers."""
    chosen = config.trace_windows or (window_of(n_layers),)
    return [("resid_post", 1), *((kind, window) for kind in KINDS if kind != "resid_post" for window in chosen)]


class Traced(TypedDict):
    """What clean states restore under noise, for one prompt and kind of state."""

    task: str
    pair: str
    site: str
    window: int
    """Layers that are put back together."""
    arm: str
    """clean, or other: the counterfactual prompt's states."""
    roles: list[str]
    clean: float
    """Probability of the answer."""
    noisy: float
    """The same under noise on the subject."""
    effects: list[list[float | None]]
    """Probability restored, by layer and role; None where the prompt has no such position."""


def tracing(run: Run[CircuitConfig], item: Item) -> Iterator[Traced]:
    """ROME's heat maps: noise where the clean prompt differs from the counterfactual; clean states put back."""
    config = run.config
    train, test = split(run, item.task)
    chosen = [*test, *train][: config.n_traced]
    noise = NOISE * spread(run.model, [pair.clean for pair in chosen])
    for pair in chosen:
        subject = [
            n for n, (a, b) in enumerate(zip(pair.clean.tokens, pair.counterfactual.tokens, strict=True)) if a != b
        ]
        for kind, window in windows(run.model.n_layers, config):
            for arm, donor in (("clean", None), ("other", pair.counterfactual)):
                found = causal_trace(
                    run.model,
                    pair.clean,
                    subject,
                    pair.answers[0],
                    kind=kind,
                    window=window,
                    noise=noise,
                    samples=config.noise_samples,
                    seed=config.seed,
                    donor=donor,
                )
                effects = [rounded(row) for row in by_role(found.effects, subject)]
                yield {
                    "task": item.task,
                    "pair": pair.key,
                    "site": kind,
                    "window": window,
                    "arm": arm,
                    "roles": list(ROLES),
                    "clean": found.clean,
                    "noisy": found.noisy,
                    "effects": effects,
                }
