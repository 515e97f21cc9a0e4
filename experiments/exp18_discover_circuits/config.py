"""Fields of exp18, and the pairs and items that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from experiments.exp18_discover_circuits.pair_sources import Drawn, Source, Task, drawn, most_pairs, task_names
from experiments.harness.experiment import ExperimentConfig, Records
from experiments.harness.state import Run
from mlx_interp.circuits import METHODS, SHARES, Pair, Wiring, random_edges, random_nodes, top, wiring
from mlx_interp.circuits.attribution import Method
from mlx_interp.circuits.discovery import existing, greedy, sizes
from mlx_interp.circuits.own_pairs import Unequal
from mlx_interp.errors import ConfigError, DataError
from mlx_interp.reporting import finite

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Part = Literal["patching", "faithfulness", "minimality", "tracing", "acdc", "clusters"]
PARTS: tuple[Part, ...] = ("patching", "faithfulness", "minimality", "tracing")
ATTRIBUTION = "attribution"
EDGE_METHODS: tuple[Method, ...] = tuple(method for method in METHODS if method != "ig-activations")
MAIN: Method = "ig-inputs"
"""The method whose circuits are compared, dropped and drawn."""
NODE_SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
RANDOM_ANSWERS = "random answers"
"""Edges scored for a metric of two tokens drawn at random: what any metric finds."""
LEFT_OUT = "left out"
RANDOM = 2
"""Random circuits of each size."""
LARGE_NODE, LARGE_CELL, LARGE_EDGE = 0.05, 0.02, 0.01
"""From which share of m(M) - m(0) on the effect of a node, of a node at one position, of an edge is called large."""


def rounded(values: Any) -> list[Any]:
    """Numbers of records to five significant digits: enough for every table, and small on disk."""
    found: list[Any] = [finite(float(f"{x:.5g}")) for x in np.asarray(values, dtype=np.float64).ravel()]
    return found


@dataclass(frozen=True)
class CircuitConfig(ExperimentConfig):
    tasks: tuple[Task, ...] = ()
    """What the circuits are for; none: all that embedded models, or others, have. With data=FILE its categories are."""
    data: str = ""
    """A file of pairs (CSV, JSON Lines, parquet): columns clean, corrupt, answer, wrong, category; for any model."""
    data_chat: bool = False
    """Prompts of that file are users' turns, for the chat template."""
    unequal: Unequal = "refuse"
    """What becomes of pairs of unequal length in tokens: refuse, or drop."""
    toxic: str = ""
    """Toxic prompts to match with safe ones of their category and length: a file, owner/name:subset of the Hub, or
    world:harmful."""
    safe: str = ""
    """The safe prompts."""
    refusals: tuple[str, ...] = ()
    """Openers of a refusal, of matched prompts; none: the project's own list."""
    parts: tuple[Part, ...] = PARTS
    """What is measured beside attribution; acdc, which takes minutes, and clusters (of --saes) only where named."""
    n_train: int = 16
    """Pairs of each task that circuits are discovered on."""
    n_test: int = 16
    """Other pairs of it that they are scored on."""
    n_checked: int = 6
    """Pairs on which estimates are checked by real patching, and members of circuits dropped."""
    shares: tuple[float, ...] = SHARES
    """Sizes of circuits of edges, as shares of all edges, rising to 1; .1 is among them."""
    steps: int = 5
    """Gradients of a path of integration."""
    n_sampled: int = 100
    """The check by real patching: this many cells of the largest score, and as many others at random."""
    n_bootstrap: int = 50
    """Resamples of the pairs for the stability of circuits."""
    drawn_share: float = 0.02
    """Share of the edges in the circuits that are drawn and compared."""
    drawn_tasks: tuple[Task, ...] = ("two_hop", "toxic", "recall", "agreement", "greater_than")
    """Tasks whose circuit is a figure; the page and the JSON files have all of them."""
    dropped_share: float = 0.1
    """Share of the edges in the circuit whose edges are dropped one by one."""
    n_dropped: int = 200
    """At most so many of them, drawn at random."""
    acdc_thresholds: tuple[float, ...] = (0.03, 0.003)
    """Growth of the divergence, in nats, below which ACDC removes an edge."""
    saes: str = ""
    """Folder with autoencoders, as exp17 leaves them, for circuits of features; {model} stands for the model's name."""
    edge_nodes: int = 8
    """Nodes of each autoencoder, the strongest, that edges between features lead into and from."""
    n_clusters: int = 8
    """Clusters that prompts of all tasks fall into by their features."""
    trace_tasks: tuple[Task, ...] = ("two_hop", "recall")
    """Tasks whose prompts are traced with noise; those that a kind of model does not have are passed over."""
    n_traced: int = 6
    """Prompts of each that are traced."""
    trace_windows: tuple[int, ...] = ()
    """Layers of attention or of MLPs that are put back together; none: the paper's ten of 48, in proportion."""
    noise_samples: int = 3
    """Draws of noise of each prompt."""

    def __post_init__(self) -> None:
        if 0.1 not in self.shares or self.shares[-1] != 1 or list(self.shares) != sorted(set(self.shares)):
            raise ConfigError(f"shares={self.shares}: sizes of circuits rise to 1, and .1 is among them")

    @property
    def source(self) -> Source:
        return Source(self.data, self.data_chat, self.unequal, self.toxic, self.safe, self.refusals)

    @property
    def n_pairs(self) -> int:
        """Pairs of a task, for discovery and for scoring."""
        return self.at_most(self.n_train) + self.at_most(self.n_test)


@dataclass(frozen=True)
class Item:
    """One task, and the circuits that earlier stages found."""

    key: str
    task: str
    edges: Mapping[str, Sequence[Bools]] = field(default_factory=dict)
    nodes: Mapping[str, Sequence[Bools]] = field(default_factory=dict)


def names(run: Run[CircuitConfig]) -> tuple[str, ...]:
    """The tasks of a run, whether or not the model does them. Raises ConfigError, DataError."""
    return task_names(run.config.source, run.config.tasks, run.model)


def drawn_pairs(run: Run[CircuitConfig], task: str) -> Drawn:
    config = run.config
    return drawn(run, config.source, task, config.n_pairs, config.seed)


def most_prompts(run: Run[CircuitConfig], task: str) -> int:
    """Pairs of a task at most: which of them the model does, only a run tells."""
    config = run.config
    return most_pairs(run.model, config.source, task, config.n_pairs, config.seed)


def split(run: Run[CircuitConfig], task: str) -> tuple[list[Pair], list[Pair]]:
    """Pairs of a task for discovery, and others for scoring; where there are too few, half of them each."""
    found = list(drawn_pairs(run, task).pairs)
    n_train = min(run.config.at_most(run.config.n_train), len(found) // 2)
    return found[:n_train], found[n_train:]


def tasks_of(records: Records) -> list[str]:
    """The tasks that were measured, in their order."""
    return list(dict.fromkeys(r["task"] for r in records if r.get("level") == "node" and "method" in r))


def items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    """The tasks, without those that attribution left out because the model does not do them."""
    left = left_out(earlier)
    return [Item(task, task) for task in names(run) if task not in left]


def done(run: Run[CircuitConfig]) -> list[str]:
    """The tasks that the model does; what it does is asked of it."""
    found = []
    for task in names(run):
        with suppress(DataError):
            drawn_pairs(run, task)
            found.append(task)
    return found


def left_out(records: Records) -> dict[str, str]:
    """Why a task has no circuit, by task."""
    return {r["task"]: r["why"] for r in records if r.get("level") == LEFT_OUT}


def mean_edges(records: Records, task: str, method: str, wires: Wiring) -> Floats:
    """Mean scores of all edges (n_inputs, n_nodes), as attribution recorded them."""
    row = next(r for r in records if r["level"] == "edge" and r["task"] == task and r["method"] == method)
    found = np.zeros((wires.n_inputs, wires.n_nodes))
    found[existing(wires)] = row["values"]
    return found


def mean_nodes(records: Records, task: str, method: str) -> Floats:
    """Mean scores of all nodes."""
    row = next(r for r in records if r["level"] == "node" and r["task"] == task and r["method"] == method)
    return np.array(row["values"])


def scored_items(run: Run[CircuitConfig], earlier: Records) -> list[Item]:
    """Tasks with all circuits that are scored on them, by kind; one circuit a share."""
    if "faithfulness" not in run.config.parts:
        return []
    wires = wiring(run.model.network)
    return [
        replace(
            item, edges=_edge_kinds(earlier, item.task, run.config, wires), nodes=_node_kinds(earlier, item.task, wires)
        )
        for item in items(run, earlier)
    ]


def _edge_kinds(records: Records, task: str, config: CircuitConfig, wires: Wiring) -> dict[str, list[Bools]]:
    every = existing(wires)
    counts = sizes(config.shares, int(every.sum()))

    def of(scores: Floats) -> list[Bools]:
        return [top(scores, n) if n < every.sum() else every for n in counts]

    found: dict[str, list[Bools]] = {method: of(mean_edges(records, task, method, wires)) for method in EDGE_METHODS}
    main = found[MAIN]
    found["greedy"] = [greedy(mean_edges(records, task, MAIN, wires), n, wires) for n in counts[:-1]] + [every]
    found["complement"] = [every & ~circuit for circuit in main]
    found[RANDOM_ANSWERS] = of(mean_edges(records, task, RANDOM_ANSWERS, wires))
    for other in tasks_of(records):
        if other != task:
            found[f"circuit of {other}"] = of(mean_edges(records, other, MAIN, wires))
    for turn in range(RANDOM):
        seeds = [config.seed + 1000 * turn + place for place in range(len(main))]
        drawn = [(circuit & every, seed) for circuit, seed in zip(main, seeds, strict=True)]
        found[f"random, same layers {turn}"] = [random_edges(circuit, wires, seed) for circuit, seed in drawn]
        found[f"random {turn}"] = [random_edges(circuit, wires, seed, profile=False) for circuit, seed in drawn]
    return found


def _node_kinds(records: Records, task: str, wires: Wiring) -> dict[str, list[Bools]]:
    """Circuits of nodes; the embedding is in all of them, for free."""
    counts = sizes(NODE_SHARES, wires.n_nodes - 1)

    def of(scores: Floats) -> list[Bools]:
        rest = scores.copy()
        rest[0] = 0
        return [with_embedding(top(rest, n)) for n in counts]

    found: dict[str, list[Bools]] = {method: of(mean_nodes(records, task, method)) for method in METHODS}
    exact = [r["exact"] for r in records if r.get("kind") == "nodes" and r["task"] == task]
    if exact:
        found["exact patching"] = of(np.array(exact).mean(0))
    for turn in range(RANDOM):
        drawn = [random_nodes(circuit, wires, 100 * turn + n) for n, circuit in enumerate(found[MAIN])]
        found[f"random, same layers {turn}"] = [with_embedding(circuit) for circuit in drawn]
    found["complement"] = [with_embedding(~circuit) for circuit in found[MAIN]]
    return found


def with_embedding(circuit: Bools) -> Bools:
    circuit = circuit.copy()
    circuit[0] = True
    return circuit
