"""Tables, figures and page of attribution graphs: fidelity of transcoders, estimates against ablations, the graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

import numpy as np

from experiments.exp20_instruments.transcoder_graphs import KINDS, PER_LAYER, STAGE, TranscoderConfig
from experiments.harness.experiment import Records
from experiments.harness.frame import Frame, of
from mlx_interp.circuits.graph import from_json
from mlx_interp.circuits.graph_files import COLUMNS
from mlx_interp.pages import CircuitGraph, GraphNode, Page
from mlx_interp.pages import graph as graph_page
from mlx_interp.reporting import Cell, Column, Plot, Table
from mlx_interp.reporting.graphs import Place, cloud, network
from mlx_interp.stats import Estimate

SIGNS = "Blue edges, below 0, lower what they lead into: a feature's activation or a token's logit. Others raise it."
DRAWN = 24
"""Edges of the figure; the page has more."""


def _graphs(records: Records, kind: str) -> Frame:
    return of(records, STAGE, kind=kind, layer=None)


def headline(records: Records, config: TranscoderConfig) -> str | None:
    """How far total effects and edges of per-layer graphs agree with ablations."""
    mine = _graphs(records, PER_LAYER)
    if not mine:
        return None
    told = [
        f"{name} {mine.measured(field).rate(field, seed=config.seed)}"
        for name, field in (("features", "total"), ("edges", "edge"))
    ]
    return f"attribution graphs, Pearson with ablations: {', '.join(told)}"


def fidelity_table(records: Records, config: TranscoderConfig) -> Table | None:
    """Transcoders on held-out texts, over layers."""
    rows: list[list[Cell]] = []
    for kind in KINDS:
        mine = Frame(r for r in of(records, STAGE, kind=kind) if r.get("layer") is not None)
        if not mine:
            continue
        fve = [row["fve"] for row in mine]
        means = [float(np.mean(mine.values(name))) for name in ("fve", "l0", "dead")]
        rows.append([kind, len(mine), mine[0]["tokens"], means[0], min(fve), max(fve), *means[1:]])
    columns: list[Column | str] = [
        *("transcoders", "layers", "tokens", Column("variance explained"), Column("least"), Column("most")),
        *(Column("active features"), Column("dead", "%")),
    ]
    note = (
        f"Mean over layers; {config.transcoder_features} features a layer, trained in the run by "
        f"{config.transcoder_steps} steps of {config.transcoder_batch} tokens; the first position is left out."
    )
    return Table("Transcoders on held-out texts", columns, rows, [note]) if rows else None


def graph_table(records: Records, config: TranscoderConfig) -> Table | None:
    """Graphs by kind: size, scores, sums."""
    fields = ("replacement", "completeness", "explained")
    rows: list[list[Cell]] = []
    for kind in KINDS:
        if mine := _graphs(records, kind):
            sizes: list[Cell] = [round(float(np.mean(mine.values(name)))) for name in ("active", "nodes", "edges")]
            worst = f"{max(mine.values('sums')):.0e}"
            rows.append([kind, len(mine), *sizes, *_rates(mine, fields, config), worst])
    columns: list[Column | str] = [
        *("transcoders", "n graphs", "active features", "nodes left", "edges left"),
        *(Column("replacement"), Column("completeness"), Column("written by features")),
        "sums missed by at most",
    ]
    note = (
        "Replacement: embeddings' part in the influence of embeddings and errors. Completeness: share of what leads "
        "into nodes that is not from errors. Written by features: share of the squared length of MLP outputs. Sums: "
        "incoming edges and biases against a node's own value, by the largest value of its graph."
    )
    return Table("Attribution graphs", columns, rows, [note]) if rows else None


def ablation_table(records: Records, config: TranscoderConfig) -> Table | None:
    """Estimates against real ablations, by kind."""
    fields = ("total", "direct", "ranked", "length", "edge", "slope")
    rows: list[list[Cell]] = []
    for kind in KINDS:
        if mine := _graphs(records, kind):
            counts: list[Cell] = [len(mine), sum(mine.values("ablated")), sum(mine.values("cut"))]
            rows.append([kind, *counts, *_rates(mine, fields, config)])
    columns: list[Column | str] = [
        *("transcoders", "n graphs", "features", "edges", Column("total effect"), Column("direct effect")),
        *(Column("influence, ranks"), Column("length written, ranks"), Column("edges"), Column("slope of edges")),
    ]
    note = (
        "Correlation with what the model loses when a feature is ablated at its position, graph by graph. Total and "
        "direct effect: Pearson, the likeliest token's logit less the mean; influence: over all tokens, sizes. "
        "Control: the length of what a feature writes. Edges: Pearson with what the target loses, other MLPs between "
        "held; slope 1 where holding patterns and norms costs nothing. Features and edges are drawn at random."
    )
    return Table("Attribution graphs against real ablations", columns, rows, [note]) if rows else None


def largest_table(records: Records, config: TranscoderConfig) -> Table | None:
    """The most influential features beside what writes as much."""
    fields = ("largest", "matched", "random")
    rows: list[list[Cell]] = [
        [kind, len(mine), *_rates(mine, fields, config)] for kind in KINDS if (mine := _graphs(records, kind))
    ]
    columns: list[Column | str] = [
        *("transcoders", "n graphs", Column("most influential"), Column("others of equal length")),
        Column("random directions"),
    ]
    note = (
        f"Mean size of what logits lose, weighted by probability, over the {config.n_largest} most influential "
        "features of a graph (a quarter of all where there are fewer than four times as many), as many others that "
        "write vectors of nearest length, and random directions of equal length at the same places."
    )
    return Table("Ablated features by influence", columns, rows, [note]) if rows else None


def _rates(mine: Frame, fields: tuple[str, ...], config: TranscoderConfig) -> list[Estimate | None]:
    return [mine.measured(name).rate(name, seed=config.seed) for name in fields]


def figures(records: Records, config: TranscoderConfig) -> Iterator[Plot]:
    """Estimates beside real effects, and the first graph's strongest edges."""
    points = {}
    for kind in KINDS:
        if mine := _graphs(records, kind):
            points[kind] = tuple([x for row in mine for x in row[name]] for name in ("estimates", "effects"))
    if points:
        yield cloud(
            points,  # type: ignore[arg-type]
            name="total_effects",
            title="Features: total effect in the graph and in the model",
            x_label="total effect in the graph, logits",
            y_label="loss when ablated, logits",
            caption="Features drawn at random from all graphs; the line is where both are equal.",
        )
    shown = _shown(records)
    if shown:
        yield _drawn(shown[0])


def _drawn(graph: CircuitGraph) -> Plot:
    links = dict(sorted(graph.merged.items(), key=lambda item: -abs(item[1]))[:DRAWN])
    ends = {end for link in links for end in link}
    nodes = [node for node in graph.nodes if node.name in ends]
    rows = {row: at for at, row in enumerate(sorted({node.row for node in nodes}))}
    columns: dict[int, float] = {}  # a prompt's position is as wide as its fullest row
    widths = [(position, _fullest(nodes, position)) for position in sorted({_position(node) for node in nodes})]
    for (position, _), start in zip(widths, accumulate((width for _, width in widths), initial=0), strict=False):
        columns[position] = start
    places = []
    taken: Counter[tuple[int, int]] = Counter()
    for node in sorted(nodes, key=lambda node: node.column):
        cell = (node.row, _position(node))
        places.append(Place(node.name, 1.6 * (columns[_position(node)] + taken[cell]), 2.0 * rows[node.row]))
        taken[cell] += 1
    return network(
        places,
        links,
        name="attribution_graph",
        title=graph.title,
        caption=f"The {len(links)} strongest direct effects of the pruned graph: layer/feature@position, inputs below.",
        legend=("lowers", "raises"),
    )


def _position(node: GraphNode) -> int:
    return node.column // COLUMNS


def _fullest(nodes: list[GraphNode], position: int) -> int:
    return max(Counter(node.row for node in nodes if _position(node) == position).values())


def _shown(records: Records) -> list[CircuitGraph]:
    return [from_json(row["graph"]) for row in of(records, STAGE) if row.get("graph")]


def pages(records: Records, config: TranscoderConfig) -> Iterator[tuple[str, Page]]:
    """The first graphs of each kind, with their strongest edges."""
    if shown := _shown(records):
        yield "attribution_graph", graph_page(shown, title="Attribution graphs", about=SIGNS)


TABLES = (fidelity_table, graph_table, ablation_table, largest_table)
