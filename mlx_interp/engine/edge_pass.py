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
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from mlx_interp.deferred import mx
from mlx_interp.engine.block import Order, Step, block
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.errors import UnsupportedModel
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Wiring:
    """Numbers of a model's nodes and inputs, in the order of the forward pass."""

    n_layers: int
    n_heads: int
    parallel: bool = False
    """Whether a layer's MLP reads what its heads read, and not what they wrote."""

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
        return self.mlp(layer) if place == 3 * self.n_heads and not self.parallel else self.heads(layer).start

    def mask(self) -> mx.array:
        """(n_inputs, n_nodes) of bool: which edges there are."""
        limits = mx.array([self.sources(number) for number in range(self.n_inputs)])
        return mx.arange(self.n_nodes)[None] < limits[:, None]


def wiring(net: Network) -> Wiring:
    """Raises UnsupportedModel for layers whose parts are not the nodes and inputs that edges lead between."""
    if not net.uniform or net.family.attn_gate or net.family.layer_scalar or net.family.latent:
        raise UnsupportedModel(
            f"edges lead between heads and MLPs that add to one stream; some layers of {net.family.model_type} have a "
            "mixer without heads, keys of other layers or of a latent, a gate, or scale the stream: take attribution "
            "or patching of whole sites"
        )
    return Wiring(net.n_layers, net.n_heads, parallel=net.parallel)


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

    def split(now: mx.array, nodes: Nodes) -> tuple[mx.array, mx.array]:
        before = other.of(*nodes)
        return before.sum(1), now - before

    return _run(net, embedding, _Stream(net, weights, split))


def probed(net: Network, embedding: mx.array, change: Written, weights: mx.array) -> mx.array:
    """Logits of runs in which `weights` times a fixed change is added on every edge; shapes as in `patched`."""
    return _run(net, embedding, _Stream(net, weights, lambda now, nodes: (now.sum(1), change.of(*nodes))))


def _run(net: Network, embedding: mx.array, start: _Stream) -> mx.array:
    wires = wiring(net)
    stream: mx.array | _Stream = start.with_nodes(0, embedding[:, None], "embedding", 0)
    for layer in range(net.n_layers):
        stream = block(_Edges(net), layer, stream)
    assert isinstance(stream, _Stream)
    x = stream.read(slice(wires.logits_input, wires.n_inputs))[:, 0, -1]
    return net.unembed(net.final(x))


Nodes = tuple[str, int]
"""Kind of node and layer."""
Split: TypeAlias = "Callable[[mx.array, Nodes], tuple[mx.array, mx.array]]"
"""What nodes write now (row, node, pos, d_model) -> what all inputs read of it alike, summed over the nodes, and the
part of each node that the weights of its edges multiply."""


@dataclass(frozen=True)
class _Stream:
    """What was written so far, as a base that all inputs read alike and a part that the weights of an edge multiply."""

    net: Network
    weights: mx.array
    split: Split
    base: mx.array | None = None
    parts: tuple[mx.array, ...] = ()
    """(row, node, pos, d_model) of nodes that add to the stream as they are."""
    columns: tuple[range, ...] = ()
    normed: tuple[tuple[int, mx.array, mx.array], ...] = ()
    """Layers with a norm behind attention: the sum over heads, and each head's part."""

    def with_nodes(self, first: int, now: mx.array, kind: str, layer: int) -> _Stream:
        """The stream with what nodes write into it (row, node, pos, d_model), the first of them numbered `first`."""
        base, part = self.split(now, (kind, layer))
        return self._with(base, part, range(first, first + now.shape[1]))

    def with_heads(self, layer: int, now: mx.array) -> _Stream:
        """The stream with what a layer's heads write into it."""
        net = self.net
        base, part = self.split(now, ("heads", layer))
        base = net.with_attn_bias(layer, base)
        if net.family.norms.after_attn is not None:
            return replace(self, normed=(*self.normed, (layer, base, part)))
        heads = wiring(net).heads(layer)  # at most a multiplier follows: it acts on each head alone
        return self._with(net.after_attn(layer, base), net.after_attn(layer, part), range(heads.start, heads.stop))

    def _with(self, base: mx.array, part: mx.array, columns: range) -> _Stream:
        base = base if self.base is None else self.base + base
        return replace(self, base=base, parts=(*self.parts, part), columns=(*self.columns, columns))

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


@dataclass(frozen=True)
class _Edges:
    """Carries what each input reads through `block`; the stream is its parts, what heads write stays apart."""

    network: Network
    relay: None = None
    """What inputs read differs from edge to edge: each product is sent."""

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """No site is open."""
        return self.network.orders(frozenset())

    def order(self, layer: int) -> Order:
        return self.orders[layer]

    def each(self, step: Step, layer: int, *values: mx.array | _Stream) -> tuple[mx.array | _Stream, ...]:
        net, x = self.network, values[0]
        if "attn_out" in step.makes:
            return (net.head_out(layer, x.transpose(0, 2, 1, 3)).swapaxes(1, 2),)  # type: ignore[union-attr]
        if isinstance(x, _Stream):
            wires = wiring(net)
            number = wires.mlp_input(layer)
            of_mlp = "mlp_in" in (*step.makes, *step.functions)
            x = x.read(slice(number, number + 1))[:, 0] if of_mlp else x.read(wires.attention_inputs(layer))
        return self._by_head(step, layer, x) if "q" in step.makes else step.apply(net, layer, x, *values[1:])  # type: ignore[arg-type]

    def _by_head(self, step: Step, layer: int, x: mx.array) -> tuple[mx.array, ...]:
        """What queries, keys, values read (row, 3 * head, pos, d_model) -> each of its own (row, head, pos, d_head)."""
        n = self.network.n_heads
        repeats = n // self.network.n_kv_heads
        q, k, v = (step.apply(self.network, layer, x[:, part * n : (part + 1) * n])[part] for part in range(3))
        return (
            mx.stack([q[:, head, :, head] for head in range(n)], axis=1),
            *(mx.stack([a[:, head, :, head // repeats] for head in range(n)], axis=1) for a in (k, v)),
        )

    def turned(self, name: str, layer: int, value: mx.array | _Stream) -> mx.array:
        return self.network.rotate(layer, value, of=name)  # type: ignore[arg-type]

    def of_token(self, layer: int) -> mx.array:
        raise NotImplementedError("wiring refuses models with inputs of their own")

    def attended(
        self,
        layer: int,
        q: mx.array | _Stream,
        k: mx.array | _Stream | None = None,
        v: mx.array | _Stream | None = None,
    ) -> mx.array:
        mask = self.network.mask(layer, q.shape[2])  # type: ignore[union-attr]
        return self.network.attend(layer, q, k, v, mask)  # type: ignore[arg-type]

    def convolved(self, layer: int, value: mx.array | _Stream) -> mx.array:
        raise NotImplementedError("wiring refuses models with mixers")

    def recurred(self, layer: int, *values: mx.array | _Stream) -> mx.array:
        raise NotImplementedError("wiring refuses models with mixers")

    def summed(self, step: Step, layer: int, *values: mx.array | _Stream) -> _Stream:
        stream, *updates = values
        assert isinstance(stream, _Stream)
        for name, update in zip(step.reads[1:], updates, strict=True):
            assert isinstance(update, mx.array)
            if name == "attn_out":
                stream = stream.with_heads(layer, update)
            else:
                stream = stream.with_nodes(wiring(self.network).mlp(layer), update[:, None], "mlp", layer)
        return stream

    def touched(self, name: str, layer: int) -> bool:
        return False

    def entered(self, step: Step, layer: int, held: dict[str, mx.array | _Stream]) -> None:
        """Nobody joins."""

    def opened(self, name: str, layer: int, value: mx.array | _Stream) -> mx.array | _Stream:
        return value

    def left(self, step: Step, layer: int, held: dict[str, mx.array | _Stream]) -> None:
        """All positions are kept."""


def _weighted(weights: mx.array, part: mx.array) -> mx.array:
    """(row, input, node) and (row, node, pos, d_model) -> (row, input, pos, d_model)."""
    flat = weights.astype(part.dtype) @ part.reshape(*part.shape[:2], -1)
    return flat.reshape(*flat.shape[:2], *part.shape[2:])
