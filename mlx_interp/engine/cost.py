"""What a sweep costs at least: the floating-point operations of matrix products that its variants cannot share.

Counted for each variant: its positions from the first changed one on, in the layers from the first changed one on,
entering where it enters; the last layer beyond keys and values for the last position only; one row of logits. On top of
these, one clean pass without logits. Element-wise work (softmax, activations, norms) is left out on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_interp.engine.block import Extent
from mlx_interp.engine.clean_run import Entry
from mlx_interp.engine.memory import bytes_per_variant
from mlx_interp.engine.network import Network


@dataclass(frozen=True)
class Cost:
    """The least that a sweep costs."""

    flops: float
    forward_passes: float
    """The same in plain forward passes over the prompt (all logits, as mlx-lm computes them)."""
    memory_bytes: int
    """What the variants would take as one batch; a sweep splits them to stay within its budget."""


def sweep_cost(net: Network, length: int, entries: Sequence[Entry]) -> Cost:
    """The cost of variants that enter as said, over a prompt of `length` tokens."""
    every = range(length)
    plain = sum(_layer(net, layer, every, every) for layer in range(net.n_layers)) + length * _logits(net)
    clean = Entry(0, 0, 0)
    flops = variant_flops(net, length, clean) - _logits(net)
    flops += sum(variant_flops(net, length, entry) for entry in entries)
    memory = sum(bytes_per_variant(net, length, length - entry.start, True) for entry in entries)
    return Cost(flops, flops / plain, memory)


def variant_flops(net: Network, length: int, entry: Entry) -> float:
    """Operations of one variant that nobody else computes, logits of the last position included."""
    positions, total = range(entry.start, length), _logits(net)
    for layer in range(entry.layer, net.n_layers):
        last = layer == net.n_layers - 1
        queries = range(length - 1, length) if last else positions
        join = entry.join if layer == entry.layer else 0
        total += _layer(net, layer, positions, queries, join)
    return total


def _layer(net: Network, layer: int, positions: range, queries: range, join: int = 0) -> float:
    """One layer for keys and values at `positions` and everything else at `queries`, from a place of joining on."""
    pairs = sum(query + 1 for query in queries)
    return net.order(layer).flops(net, Extent(len(positions), len(queries), pairs, layer), join)


def _logits(net: Network) -> float:
    return 2.0 * net.d_model * net.d_vocab
