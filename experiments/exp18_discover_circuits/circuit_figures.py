"""Figures and files of exp18: estimates against patching, faithfulness, overlap, members, graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.exp18_discover_circuits import feature_edge_report
from experiments.exp18_discover_circuits.circuit_report import at_size, curve, ends, measured, rows_of
from experiments.exp18_discover_circuits.config import MAIN, CircuitConfig, mean_edges, tasks_of
from experiments.harness.experiment import Records
from mlx_interp.circuits import Wiring, greedy, inputs, nodes, pruned, top, weighted_jaccard
from mlx_interp.circuits.discovery import existing
from mlx_interp.circuits.graph import as_json, circuit_graph
from mlx_interp.pages import CircuitGraph
from mlx_interp.pages import graph as graph_page
from mlx_interp.reporting import Cell, Column, Panel, Plot, Series, Table, heat_map, line_with_band
from mlx_interp.reporting.graphs import Place, cloud, network
from mlx_interp.stats import number

LINES = {
    "ig-inputs": "EAP-IG",
    "attribution": "EAP",
    "complement": "all but EAP-IG's",
    "random, same layers": "random, same layers",
    "circuit of another task": "circuits of other tasks",
}
DRAWN = 60
"""Edges of a figure at most: more cannot be read."""


def estimates(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    """Every node's estimate against what patching it does, in shares of m(M) - m(0)."""
    found = rows_of(records, kind="nodes")
    if not found:
        return
    groups: dict[str, Any] = {}
    for method, label in (("attribution", "one gradient"), (MAIN, "integrated along the embeddings")):
        points: tuple[list[float], list[float]] = ([], [])
        for task in tasks_of(records):
            mine = rows_of(found, task=task)
            gap = abs(np.mean([r["full"] - r["empty"] for r in mine]))
            for side, name in zip(points, ("exact", method), strict=True):
                side.extend((np.mean([r[name] for r in mine], axis=0)[1:] / gap).tolist())
        groups[label] = points
    yield cloud(
        groups,
        name="estimates",
        title="Estimated against real effects of heads and MLPs",
        x_label="patched (share of m(M) - m(0))",
        y_label="estimated",
        caption=f"Heads and MLPs of {len(tasks_of(records))} tasks, {len(found) // len(tasks_of(records))} pairs each; "
        "the embedding is left out. The line is where both are equal.",
    )


def faithfulness_curves(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    for task in tasks_of(records):
        bounds = ends(records, task)
        if bounds is None:
            continue
        series = []
        for kind, label in LINES.items():
            values = [curve(records, task, "edge", kind, at_size(at), config.seed) for at in range(len(config.shares))]
            if measured(records, task, "edge", kind):
                series.append(Series(label, values))
        yield line_with_band(
            [float(np.log10(share)) for share in config.shares],
            series,
            name=f"faithfulness_{task}",
            title=f"Faithfulness of circuits of edges: {task}",
            x_label="share of the edges (log10)",
            y_label="f",
            caption=f"f over the share of edges that carry the clean run, the others the counterfactual; {task}, "
            f"n = {len(bounds[0])} test pairs; bands: 95 % intervals over pairs. Random: as many edges between each "
            "two layers.",
        )


def overlap(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    if len(tasks_of(records)) < 2:
        return
    scores = {t: np.array(rows_of(records, level="edge", task=t, method=MAIN)[0]["values"]) for t in tasks_of(records)}
    values = [[weighted_jaccard(scores[a], scores[b]) for b in tasks_of(records)] for a in tasks_of(records)]
    yield heat_map(
        [Panel("weighted Jaccard of edge scores", values)],
        name="overlap",
        title="Do tasks share edges?",
        x_label="task",
        y_label="task",
        value_label="weighted Jaccard",
        caption="Weighted Jaccard of the tasks' mean scores of all edges; 1: the same profile.",
        x_ticks=[task.replace("_", " ") for task in tasks_of(records)],
        y_ticks=[task.replace("_", " ") for task in tasks_of(records)],
        limits=(0, 1),
    )


def wiring_of(records: Records) -> Wiring:
    """The model's size, from the records alone: nodes are 1 + L (H + 1), edges are counted."""
    node = next(len(r["values"]) for r in records if r["level"] == "node") - 1
    edges = next(len(r["values"]) for r in records if r["level"] == "edge")
    sizes = [Wiring(n, node // n - 1) for n in range(1, node + 1) if node % n == 0 and node // n > 1]
    return next(wires for wires in sizes if int(existing(wires).sum()) == edges)


def graphs(records: Records, config: CircuitConfig) -> dict[str, CircuitGraph]:
    """Each task's circuit of edges, as large as is drawn."""
    wires = wiring_of(records)
    found: dict[str, CircuitGraph] = {}
    n = round(config.drawn_share * existing(wires).sum())
    for task in tasks_of(records):
        scores = mean_edges(records, task, MAIN, wires)
        circuit = pruned(top(scores, n), wires)
        found[task] = circuit_graph(circuit, scores, wires, title=f"{task}: {int(circuit.sum())} edges")
    return found


def drawings(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    wires = wiring_of(records)
    n = min(DRAWN, round(config.drawn_share * existing(wires).sum()))
    known = tasks_of(records)
    for task in [task for task in config.drawn_tasks if task in known] or (known[:2] if config.data else []):
        scores = mean_edges(records, task, MAIN, wires)
        circuit = pruned(greedy(scores, n, wires), wires)
        graph = circuit_graph(circuit, scores, wires, title=task)
        if not graph.nodes:
            continue
        yield network(
            [Place(node.name, node.column, node.row) for node in graph.nodes],
            graph.merged,
            name=f"circuit_{task}",
            title=f"Circuit: {task}",
            caption=f"The {n} largest edges from the logits downward, by EAP-IG on the pairs for discovery, without "
            f"those that the embedding does not reach; {task}. Query, key and value edges of a head are one line.",
            legend=("raises m", "lowers m"),
        )


def files(records: Records, config: CircuitConfig) -> Iterator[tuple[str, str]]:
    """The circuits as data, and as a page."""
    found = graphs(records, config)
    for task, graph in found.items():
        yield f"circuit_{task}.json", as_json(graph)
    yield "circuits.html", graph_page(list(found.values()), title="Circuits found by EAP-IG").html
    yield from feature_edge_report.files(records, config)


def minimality_table(records: Records, config: CircuitConfig) -> Table | None:
    """What the circuit loses with each of its edges."""
    rows: list[list[Cell]] = []
    names = _names(records)
    for r in records:
        if "dropped" not in r:
            continue
        full, empty, whole, m = (np.array(r[name]) for name in ("full", "empty", "circuit", "m"))
        gap = full.mean() - empty.mean()
        losses = (whole.mean() - m.mean(0)) / gap
        order = np.argsort(-losses)[:3]
        strongest = ", ".join(f"{names(*r['dropped'][i])} {number(losses[i])}" for i in order)
        f = (whole.mean() - empty.mean()) / gap
        shares = [float((losses > bound).mean()) for bound in (0.01, 0.0)]
        rows.append([r["task"], len(full), len(losses), float(f), *shares, strongest])
    if not rows:
        return None
    return Table(
        f"Minimality of the circuit of {config.dropped_share:.0%} of the edges",
        [
            *("task", "pairs", "edges", Column("f"), Column("lose more than .01", "%"), Column("lose anything", "%")),
            "largest losses of f",
        ],
        rows,
        [f"Each edge dropped alone from the pruned circuit; of more than {config.n_dropped}, so many drawn at random."],
    )


def _names(records: Records) -> Any:
    wires = wiring_of(records)
    return lambda reads, node: f"{nodes(wires)[node]} to {inputs(wires)[reads]}"


def only_table(records: Records, config: CircuitConfig) -> Table | None:
    """The strongest edges that one class of requests has and the other has not."""
    if not {"toxic", "safe"} <= set(tasks_of(records)):
        return None
    wires, name = wiring_of(records), _names(records)
    n = round(config.drawn_share * existing(wires).sum())
    scores = {task: mean_edges(records, task, MAIN, wires) for task in ("toxic", "safe")}
    masks = {task: top(found, n) for task, found in scores.items()}
    rows: list[list[Cell]] = []
    for task, other in (("toxic", "safe"), ("safe", "toxic")):
        alone = masks[task] & ~masks[other]
        ranked = sorted(np.argwhere(alone).tolist(), key=lambda at: -abs(scores[task][tuple(at)]))
        shown = ", ".join(f"{name(*at)} {number(scores[task][tuple(at)])}" for at in ranked[:5])
        rows.append([task, int(masks[task].sum()), int(alone.sum()), shown or "none"])
    return Table(
        "Edges of one class of requests only",
        ["requests", "edges", "only here", "strongest of them (estimated effect, nats)"],
        rows,
        [f"Circuits of {config.drawn_share:.0%} of the edges, EAP-IG."],
    )
