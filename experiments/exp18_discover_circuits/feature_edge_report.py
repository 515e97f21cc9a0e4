"""Tables, drawings and files of the edges between autoencoder features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.exp18_discover_circuits.circuit_report import rows_of
from experiments.exp18_discover_circuits.config import (
    CircuitConfig,
    Floats,
    tasks_of,
)
from experiments.exp18_discover_circuits.feature_edges import INTO, METHODS, STABLE_EDGES
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame
from mlx_interp.circuits import faithfulness
from mlx_interp.circuits.graph import as_json, feature_graph
from mlx_interp.pages import CircuitGraph
from mlx_interp.pages import graph as graph_page
from mlx_interp.reporting import Cell, Column, Plot, Table
from mlx_interp.reporting.graphs import Place, network
from mlx_interp.stats import Estimate, function_interval, mean_or_none, percentile_interval


def check_table(records: Records, config: CircuitConfig) -> Table | None:
    """Estimates of edges against patching them."""
    rows: list[list[Cell]] = []
    for task in tasks_of(records):
        for method in METHODS:
            found = rows_of(records, task=task, edge_check=method)
            if not found:
                continue
            values: list[Cell] = []
            for into in INTO:
                mine = [r for r in found if r["into"] == into and r["spearman"] is not None]
                values.append(Frame(mine).rate("spearman", unit="pair", seed=config.seed))
            n_pairs = len({r["pair"] for r in found})
            rows.append([task, method, n_pairs, sum(r["cells"] for r in found), *values])
    if not rows:
        return None
    return Table(
        "Edges between features: estimates against real patching",
        [
            *("task", "estimate", "pairs", "edges patched"),
            *(Column(f"rank correlation, into {into}") for into in INTO),
        ],
        rows,
        [
            "Patched: the upstream node takes its counterfactual value as the one downstream node alone sees it. Half "
            "the largest edges of each two sites by the first estimate, half others whose upstream node changes. Mean "
            "over sites and pairs.",
        ],
    )


def share_table(records: Records, config: CircuitConfig) -> Table | None:
    """What the edges between the strongest nodes hold, and how stable their circuit is."""
    rows: list[list[Cell]] = []
    for r in _found(records, config):
        values = [
            mean_or_none(r[name], unit=list(range(r["n"])), seed=config.seed)
            for name in ("kept_share", "stream_share", "error_share")
        ]
        stable = percentile_interval(float(np.mean(r["jaccards"])), r["jaccards"], n=r["n"])
        rows.append([r["task"], r["n"], len(r["feature_edges"]), *values, stable, r["by_chance"]])
    if not rows:
        return None
    shares = ("these, of all effects into them", "of these the stream alone", "of all from errors")
    return Table(
        "Edges between features",
        [
            *("task", "pairs", "edges"),
            *(Column(share, "%") for share in shares),
            *(Column(f"Jaccard of the {STABLE_EDGES} largest, resampled pairs"), Column("by chance")),
        ],
        rows,
        [
            f"Between the {config.edge_nodes} strongest nodes of each site. Of all effects: sizes of these edges over "
            "those from all nodes, errors included, of the upstream site into the same targets. The stream alone: what "
            "needs no block in between, signed, over the sizes; above 100 or below 0 where blocks take away.",
        ],
    )


def size_table(records: Records, config: CircuitConfig) -> Table | None:
    """Faithfulness of circuits of edges between features."""
    rows: list[list[Cell]] = []
    sizes: list[int] = []
    for task in tasks_of(records):
        for r in rows_of(records, task=task):
            if "edges_m" not in r:
                continue
            sizes = r["edge_sizes"]
            m, ends = np.array(r["edges_m"]), np.array(r["ends_m"])
            nodes = _f(ends[:, [2]], ends, config.seed)[0]
            for label, part in (("largest", m[:, : len(sizes)]), ("random", m[:, len(sizes) :])):
                rows.append([task, label, len(m), *_f(part, ends, config.seed), nodes])
    if not rows:
        return None
    heads = [Column(f"f of {size} edges") for size in sizes]
    return Table(
        "Faithfulness of circuits of edges between features",
        ["task", "edges", "pairs", *heads, Column("f of their nodes")],
        rows,
        [
            "Edges between the strongest nodes of each site; all others carry the counterfactual run. Random: of the "
            "same edges. Of their nodes: all of these nodes as the run has them, with every edge between them. Test "
            "pairs."
        ],
    )


def _f(m: Floats, ends: Floats, seed: int) -> list[Estimate | None]:
    """f of every circuit (n_pairs, n_circuits), between that of nothing and that of the model."""

    def at(place: int) -> Estimate | None:
        def of(pairs: Any) -> Floats:
            found: Floats = faithfulness(m[pairs][..., [place]], ends[pairs, 0], ends[pairs, 1])[..., 0]
            return found

        return function_interval(of, len(m), seed=seed)

    return [at(place) for place in range(m.shape[1])]


def strongest_table(records: Records, config: CircuitConfig) -> Table | None:
    rows: list[list[Cell]] = []
    for r in _found(records, config):
        graph = _graph({**r, "feature_edges": [edge for edge in r["feature_edges"] if edge[2] is not None]}, 8)
        ranked = sorted(graph.edges, key=lambda edge: -abs(edge.score))
        shown = ", ".join(f"{e.source} to {e.target} {e.score:.2f} ({e.stream or 0:.2f})" for e in ranked)
        rows.append([r["task"], r["n"], shown])
    heads = ["task", "pairs", "layer/feature to layer/feature: effect in nats (by the stream alone)"]
    return Table("Strongest edges between features", heads, rows) if rows else None


def _found(records: Records, config: CircuitConfig) -> list[Any]:
    return [r for task in tasks_of(records) for r in rows_of(records, task=task) if "feature_edges" in r]


def _graph(record: Any, n: int) -> CircuitGraph:
    """The n largest edges of a record."""
    ranked = sorted(record["feature_edges"], key=lambda edge: -abs(edge[4]))[:n]
    edges = [
        ((first, source), None if last is None else (last, target), value, stream)
        for first, source, last, target, value, stream in ranked
        if value
    ]
    errors = record["errors"]
    return feature_graph(edges, list(errors), errors, title=f"{record['task']}: {len(edges)} edges between features")


def drawings(records: Records, config: CircuitConfig) -> Iterator[Plot]:
    for r in _found(records, config):
        graph = _graph(r, STABLE_EDGES)
        if graph.nodes:
            yield network(
                [Place(node.name, node.column, node.row) for node in graph.nodes],
                graph.merged,
                name=f"feature_edges_{r['task']}",
                title=f"Edges between features: {r['task']}",
                caption=f"The {len(graph.edges)} largest edges between the strongest features of the sites (layer/"
                f"feature), and into the logits; {r['task']}, mean over n = {r['n']} pairs, one gradient each.",
                legend=("raises m", "lowers m"),
            )


def files(records: Records, config: CircuitConfig) -> Iterator[tuple[str, str]]:
    """The same edges as data, and as a page."""
    graphs = {r["task"]: _graph(r, STABLE_EDGES) for r in _found(records, config)}
    for task, graph in graphs.items():
        yield f"features_{task}.json", as_json(graph)
    if graphs:
        yield "features.html", graph_page(list(graphs.values()), title="Edges between autoencoder features").html


TABLES = (check_table, share_table, size_table, strongest_table)
