"""Graph page: circuits and attribution graphs as nodes by layer and edges by score, a node's own edges when chosen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mlx_interp.pages.page import AsPage, Page, numbers, page

SIGNS = (
    "Blue edges, below 0, carry what raises the metric on the clean prompt: without them it falls. Red ones lower it."
)
"""What the colours of a circuit say."""


@dataclass(frozen=True)
class GraphNode:
    """A node of a circuit: where it stands, and its own score (the sum over its edges in the circuit)."""

    name: str
    layer: int
    column: int
    row: int
    score: float


@dataclass(frozen=True)
class GraphEdge:
    """An edge of a circuit. reads: the input it leads into, e.g. "q.3.1"; target: the node of that input."""

    source: str
    target: str
    reads: str
    score: float
    stream: float | None = None
    """Of an edge between features: the part of its score that the stream alone hands on."""


@dataclass(frozen=True)
class CircuitGraph(AsPage):
    """A circuit with its scores, in the units of the metric."""

    title: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]

    @property
    def merged(self) -> dict[tuple[str, str], float]:
        """Scores by (source, target): the edge into a head's query, key and value as one."""
        found: dict[tuple[str, str], float] = defaultdict(float)
        for edge in self.edges:
            found[edge.source, edge.target] += edge.score
        return dict(found)

    def page(self) -> Page:
        """The graph as a page: a chosen node shows its own edges."""
        return graph([self], title=self.title)


def graph(graphs: Sequence[CircuitGraph], *, title: str = "Circuit", about: str = SIGNS) -> Page:
    """Graph page of one circuit, or of several to choose from. about: what scores below and above 0 mean."""
    return page(
        "graph",
        title=title,
        about=about,
        graphs=[
            {
                "title": one.title,
                "nodes": [{**asdict(node), "score": numbers(node.score)} for node in one.nodes],
                "edges": [
                    {**asdict(edge), "score": numbers(edge.score), "stream": _part(edge.stream)} for edge in one.edges
                ],
            }
            for one in graphs
        ],
    )


def _part(stream: float | None) -> float | None:
    found: float | None = None if stream is None else numbers(stream)
    return found
