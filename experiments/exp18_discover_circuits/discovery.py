"""The stages of exp18: attribution, circuits under ablation, members dropped, tracing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict

import numpy as np

from experiments.exp18_discover_circuits import words
from experiments.exp18_discover_circuits.config import (
    EDGE_METHODS,
    LEFT_OUT,
    MAIN,
    RANDOM_ANSWERS,
    CircuitConfig,
    Floats,
    Item,
    items,
    left_out,
    mean_edges,
    names,
    rounded,
    split,
)
from experiments.exp18_discover_circuits.pair_sources import REQUESTS, task_names, tasks_of_model
from experiments.harness.experiment import Records
from experiments.harness.state import Run
from mlx_interp.circuits import (
    METHODS,
    Pair,
    edge_circuits,
    edge_scores,
    jaccard,
    node_circuits,
    node_scores,
    pruned,
    resampled,
    top,
    weighted_jaccard,
    wiring,
)
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.faithfulness import without_each
from mlx_interp.circuits.tracing import KINDS, NOISE, ROLES, Kind, by_role, causal_trace, spread, window_of
from mlx_interp.errors import DataError

STABLE_NODES = 0.25
"""Share of the nodes in the circuit whose stability is measured."""


class Attributed(TypedDict):
    """Scores of all nodes or edges, and what is known of the pairs that they are from."""

    level: str
    """node, edge or words; left out, where a model does not do the task, and nothing else is known."""
    why: NotRequired[str]
    """Left out: what the model did."""
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
    try:
        train, _ = split(run, item.task)
    except DataError as error:
        if len(names(run)) == 1:
            raise
        yield {"level": LEFT_OUT, "task": item.task, "why": str(error)}
        return
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


def _attributed(
    level: str, item: Item, method: str, per_pair: Floats, share: float, config: CircuitConfig
) -> Attributed:
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
    dropped = without_each(circuit, run.config.n_dropped, run.config.seed)
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
    tasks = [task for task in config.trace_tasks if task in (*tasks_of_model(run.model), *REQUESTS)]
    # A file's categories are all traced, and so are those tasks that matched prompts have.
    chosen = task_names(config.source, tasks, run.model) if tasks or config.data else ()
    left = left_out(earlier)
    return [Item(task, task) for task in chosen if task not in left]


def windows(n_layers: int, config: CircuitConfig) -> list[tuple[Kind, int]]:
    """What is put back together: the stream of one layer, attention and MLPs of windows of layers."""
    chosen = config.trace_windows or (window_of(n_layers),)
    return [("resid_post", 1), *((kind, window) for kind in KINDS if kind != "resid_post" for window in chosen)]


class Traced(TypedDict):
    """What clean states restore under noise, for one prompt and kind of state."""

    task: str
    pair: str
    site: Kind
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
