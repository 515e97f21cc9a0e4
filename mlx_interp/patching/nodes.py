"""Names of a circuit's nodes and inputs: what writes into the residual stream, and what reads from it.

Nodes: `embed`, `z.3.1` (layer 3, head 1), `mlp.3`. Inputs: `q.3.1`, `k.3.1`, `v.3.1`, `mlp.3`, `logits`. An edge is
written `z.0.2 -> q.3.1`. Numbers are those of `engine.edge_pass.Wiring`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mlx_interp.engine.edge_pass import Wiring
from mlx_interp.errors import CircuitError, nearest

EMBED, HEAD, MLP = "embed", "head", "mlp"
LOGITS = "logits"


@dataclass(frozen=True)
class Node:
    """What writes into the residual stream; the embedding has layer -1."""

    kind: str
    layer: int
    head: int = 0

    def __str__(self) -> str:
        return {EMBED: "embed", HEAD: f"z.{self.layer}.{self.head}", MLP: f"mlp.{self.layer}"}[self.kind]

    @property
    def block(self) -> tuple[str, int]:
        """What its layer profile counts: kind and layer."""
        return self.kind, self.layer


@cache
def nodes(wires: Wiring) -> tuple[Node, ...]:
    """All nodes by number."""
    found = [Node(EMBED, -1)]
    for layer in range(wires.n_layers):
        found += [Node(HEAD, layer, head) for head in range(wires.n_heads)]
        found.append(Node(MLP, layer))
    return tuple(found)


@cache
def inputs(wires: Wiring) -> tuple[str, ...]:
    """Names of all inputs by number."""
    found: list[str] = []
    for layer in range(wires.n_layers):
        found += [f"{part}.{layer}.{head}" for part in "qkv" for head in range(wires.n_heads)]
        found.append(f"mlp.{layer}")
    return (*found, LOGITS)


@cache
def reader(wires: Wiring) -> tuple[int, ...]:
    """For each input, the node that it belongs to; the number of nodes stands for the logits."""
    found: list[int] = []
    for layer in range(wires.n_layers):
        found += [wires.heads(layer).start + head for _ in "qkv" for head in range(wires.n_heads)]
        found.append(wires.mlp(layer))
    return (*found, wires.n_nodes)


def node_number(wires: Wiring, name: str) -> int:
    """Number of a node by its name. Raises CircuitError with the nearest names."""
    known = {str(node): number for number, node in enumerate(nodes(wires))}
    if name not in known:
        raise CircuitError(f"no node {name!r}: {nearest(name, known)}nodes are embed, z.LAYER.HEAD and mlp.LAYER")
    return known[name]


def input_number(wires: Wiring, name: str) -> int:
    """Number of an input by its name. Raises CircuitError with the nearest names."""
    known = {one: number for number, one in enumerate(inputs(wires))}
    if name not in known:
        raise CircuitError(
            f"no input {name!r}: {nearest(name, known)}inputs are q.LAYER.HEAD, k.LAYER.HEAD, v.LAYER.HEAD, mlp.LAYER "
            "and logits"
        )
    return known[name]
