"""A forward pass along edges: what each part of the model reads is put together from what the parts before it wrote.

Nodes write into the residual stream: the embedding, every head, every MLP. Inputs read from it: the query, key and
value of every head (grouped heads each read their own key and value), every MLP, and the logits. An edge leads from a
node to an input that comes after it. Two passes use them:

1. `patched`: every edge carries what its node writes now (weight 1) or what it wrote in another run (weight 0), so
   that a circuit made of edges is evaluated exactly. All weights 1 is the plain forward; all 0 the other run's.
2. `probed`: a multiple of a fixed change is added on every edge. The metric's derivative by these multiples at zero is
   what changing each edge alone is worth to first order: one backward pass for all edges (edge attribution patching).

A norm behind attention (Gemma) sees what one input reads of all heads, so that heads are mixed before it. Biases
belong to no node. Queries, keys and values are computed for each head's own input: n_heads times a plain pass's work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Wiring:
    """Numbers of a model's nodes and inputs, in the order of the forward pass."""

    n_layers: int
    n_heads: int

    @property
    def n_nodes(self) -> int:
        return 1 + self.n_layers * (self.n_heads + 1)

    @property
    def n_inputs(self) -> int:
        return self.n_layers * (3 * self.n_heads + 1) + 1

    def heads(self, layer: int) -> slice[int, int, None]:
        """The nodes of a layer's heads; node 0 is the embedding."""
        start = 1 + layer * (self.n_heads + 1)
        return slice(start, start + self.n_heads)

    def mlp(self, layer: int) -> int:
        return self.heads(layer).stop

    def attention_inputs(self, layer: int) -> slice[int, int, None]:
        """Inputs of a layer's attention: the queries of all heads, their keys, their values."""
        start = layer * (3 * self.n_heads + 1)
        return slice(start, start + 3 * self.n_heads)

    def mlp_input(self, layer: int) -> int:
        return self.attention_inputs(layer).stop

    @property
    def logits_input(self) -> int:
        return self.n_inputs - 1

    def sources(self, number: int) -> int:
        """How many nodes an input can read from: the first ones."""
        if number == self.logits_input:
            return self.n_nodes
        layer, place = divmod(number, 3 * self.n_heads + 1)
        return self.mlp(layer) if place == 3 * self.n_heads else self.heads(layer).start

    def mask(self) -> mx.array:
        """(n_inputs, n_nodes) of bool: which edges there are."""
        limits = mx.array([self.sources(number) for number in range(self.n_inputs)])
        return mx.arange(self.n_nodes)[None] < limits[:, None]


def wiring(net: Network) -> Wiring:
    return Wiring(net.n_layers, net.n_heads)


@dataclass(frozen=True)
class Written:
    """What every node wrote: embedding (row, pos, d_model), heads[layer] (row, head, pos, d_model), mlps[layer].

    Heads are held before the norm or multiplier behind attention, and without the output projection's bias.
    """

    embedding: mx.array
    heads: Sequence[mx.array]
    mlps: Sequence[mx.array]

    def of(self, kind: str, layer: int) -> mx.array:
        """What nodes of one kind wrote: (row, node, pos, d_model)."""
        if kind == "heads":
            return self.heads[layer]
        return (self.embedding if kind == "embedding" else self.mlps[layer])[:, None]

    def minus(self, other: Written) -> Written:
        return Written(
            self.embedding - other.embedding,
            [a - b for a, b in zip(self.heads, other.heads, strict=True)],
            [a - b for a, b in zip(self.mlps, other.mlps, strict=True)],
        )

    def rows(self, index: mx.array) -> Written:
        """Some rows, as often as they are named."""
        return Written(self.embedding[index], [a[index] for a in self.heads], [a[index] for a in self.mlps])

    @staticmethod
    def joined(runs: Sequence[Written]) -> Written:
        """The rows of several runs under each other."""
        layers = range(len(runs[0].mlps))
        return Written(
            mx.concatenate([run.embedding for run in runs]),
            [mx.concatenate([run.heads[layer] for run in runs]) for layer in layers],
            [mx.concatenate([run.mlps[layer] for run in runs]) for layer in layers],
        )

    def mean(self) -> Written:
        """The mean over rows, as one row."""
        return Written(
            self.embedding.mean(0, keepdims=True),
            [a.mean(0, keepdims=True) for a in self.heads],
            [a.mean(0, keepdims=True) for a in self.mlps],
        )


def written(net: Network, tokens: mx.array) -> tuple[Written, mx.array]:
    """What all nodes write in a plain run of (row, pos) token ids of equal length, and its last logits."""
    wanted = [Site("resid_pre", 0)]
    wanted += [Site(name, layer) for layer in range(net.n_layers) for name in ("head_out", "mlp_out")]
    run = Pass(net, EditPlan(), [tokens.shape[1]] * tokens.shape[0], frozenset(wanted))
    logits = forward(run, tokens, "last")
    assert logits is not None
    found = run.captured
    layers = range(net.n_layers)
    result = Written(
        found[Site("resid_pre", 0)],
        [found[Site("head_out", layer)].swapaxes(1, 2) for layer in layers],
        [found[Site("mlp_out", layer)] for layer in layers],
    )
    mx.eval(result.embedding, result.heads, result.mlps, logits)
    return result, logits


def patched(net: Network, embedding: mx.array, other: Written, weights: mx.array) -> mx.array:
    """Logits (row, d_vocab) of runs in which each edge carries its node's own present output, or another run's.

    embedding: (row, pos, d_model), what enters layer 0 now. other: what nodes wrote in the other run, one row or as
    many. weights: (row, n_inputs, n_nodes), 1 for the present output, 0 for the other's, or a mixture.
    """

    def split(now: mx.array, block: Block) -> tuple[mx.array, mx.array]:
        before = other.of(*block)
        return before.sum(1), now - before

    return _run(net, embedding, _Stream(net, weights, split))


def probed(net: Network, embedding: mx.array, change: Written, weights: mx.array) -> mx.array:
    """Logits of runs in which `weights` times a fixed change is added on every edge; shapes as in `patched`."""
    return _run(net, embedding, _Stream(net, weights, lambda now, block: (now.sum(1), change.of(*block))))


def _run(net: Network, embedding: mx.array, stream: _Stream) -> mx.array:
    wires, length = wiring(net), embedding.shape[1]
    stream.write(0, embedding[:, None], 0, "embedding")
    for layer in range(net.n_layers):
        heads = _heads(net, layer, stream.read(wires.attention_inputs(layer)), length)
        stream.write_heads(layer, heads)
        number = wires.mlp_input(layer)
        x = stream.read(slice(number, number + 1))[:, 0]
        stream.write(wires.mlp(layer), net.mlp_out(layer, net.mlp_act(layer, x))[:, None], layer, "mlp")
    x = stream.read(slice(wires.logits_input, wires.n_inputs))[:, 0, -1]
    return net.unembed(net.final(x))


def _heads(net: Network, layer: int, x: mx.array, length: int) -> mx.array:
    """What queries, keys, values read (row, 3 * head, pos, d_model) -> what heads write (row, head, pos, d_model)."""
    n = net.n_heads
    repeats = n // net.n_kv_heads
    q, k, v = (net.qkv(layer, x[:, part * n : (part + 1) * n])[part] for part in range(3))
    q = mx.stack([q[:, head, :, head] for head in range(n)], axis=1)
    k, v = (mx.stack([a[:, head, :, head // repeats] for head in range(n)], axis=1) for a in (k, v))
    q, k = net.rotate(layer, q), net.rotate(layer, k)
    z = net.attend(layer, q, k, v, net.mask(layer, length))
    return net.head_out(layer, z.transpose(0, 2, 1, 3)).swapaxes(1, 2)


Block = tuple[str, int]
"""Kind of node and layer."""
Split = Callable[[mx.array, Block], tuple[mx.array, mx.array]]
"""What nodes write now (row, node, pos, d_model) -> what all inputs read of it alike, summed over the nodes, and the
part of each node that the weights of its edges multiply."""


@dataclass
class _Stream:
    """What was written so far, as a base that all inputs read alike and a part that the weights of an edge multiply."""

    net: Network
    weights: mx.array
    split: Split
    base: mx.array | None = None
    parts: list[mx.array] = field(default_factory=list)
    """(row, node, pos, d_model) of nodes that add to the stream as they are."""
    columns: list[range] = field(default_factory=list)
    normed: list[tuple[int, mx.array, mx.array]] = field(default_factory=list)
    """Layers with a norm behind attention: the sum over heads, and each head's part."""

    def write(self, first: int, now: mx.array, layer: int, kind: str) -> None:
        base, part = self.split(now, (kind, layer))
        self._add(base, part, range(first, first + now.shape[1]))

    def write_heads(self, layer: int, now: mx.array) -> None:
        net = self.net
        base, part = self.split(now, ("heads", layer))
        base = net.with_attn_bias(layer, base)
        if net.family.norms.after_attn is not None:
            self.normed.append((layer, base, part))
        else:  # at most a multiplier follows: it acts on each head alone
            self._add(
                net.after_attn(layer, base),
                net.after_attn(layer, part),
                range(wiring(net).heads(layer).start, wiring(net).heads(layer).stop),
            )

    def _add(self, base: mx.array, part: mx.array, columns: range) -> None:
        self.base = base if self.base is None else self.base + base
        self.parts.append(part)
        self.columns.append(columns)

    def read(self, inputs: slice) -> mx.array:
        """What inputs read: (row, input, pos, d_model)."""
        weights = self.weights[:, inputs]
        chosen = mx.concatenate([weights[:, :, c.start : c.stop] for c in self.columns], axis=2)
        n_rows = max(part.shape[0] for part in (*self.parts, weights))
        parts = [mx.broadcast_to(part, (n_rows, *part.shape[1:])) for part in self.parts]
        assert self.base is not None  # the embedding came first
        x = self.base[:, None] + _weighted(chosen, mx.concatenate(parts, axis=1))
        for layer, base, part in self.normed:
            mixed = base[:, None] + _weighted(weights[:, :, wiring(self.net).heads(layer)], part)
            x = x + self.net.after_attn(layer, mixed)
        return x


def _weighted(weights: mx.array, part: mx.array) -> mx.array:
    """(row, input, node) and (row, node, pos, d_model) -> (row, input, pos, d_model)."""
    flat = weights.astype(part.dtype) @ part.reshape(*part.shape[:2], -1)
    return flat.reshape(*flat.shape[:2], *part.shape[2:])
