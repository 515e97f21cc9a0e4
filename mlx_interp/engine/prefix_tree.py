"""Prompts side by side in one sequence, in which what several of them begin with stands once.

A column is a token of the prompts' prefix tree, and attends to the columns on its way to the root: under causal
attention a token's state depends on nothing else. Columns are ordered by their position in the prompt, so that what
comes after a position is the end of the sequence for all prompts at once. One prompt alone is its own layout.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.network import Mask, Network

ELEMENTWISE = 64
"""Multiplications that one exponential is worth, in the estimate of what a layout costs."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Which token each column holds, and which columns it sees."""

    tokens: np.ndarray
    """(column,) ids."""
    positions: np.ndarray
    """(column,) where in its prompt a column stands; never falls."""
    ends: np.ndarray
    """The columns of the prompts' last tokens, each once, in order: those whose logits are asked for."""
    sees: np.ndarray | None = None
    """bool (query column, key column); None for one prompt, in which each column sees those before it."""
    lengths: np.ndarray | None = None
    """(column,) tokens of a prompt that goes through it: RoPE may depend on that; None for one prompt."""

    @property
    def length(self) -> int:
        """Columns."""
        return len(self.tokens)

    def embed(self, net: Network) -> mx.array:
        """(1, column, d_model): what the first layer reads."""
        tokens = mx.array(self.tokens)
        if self.sees is None:
            return net.embed(tokens[None])
        return net.embed(tokens[:, None], mx.array(self.positions)).swapaxes(0, 1)

    def rotate(self, net: Network, layer: int, x: mx.array, first: int = 0, *, of: str = "k") -> mx.array:
        """RoPE on queries or keys (row, head, column, d_head), whose columns are those from `first` on."""
        if self.sees is None:
            return net.rotate(layer, x, first, [self.length] * x.shape[0], of=of)
        n_rows, n_heads, n_columns, d_head = x.shape
        held = slice(first, first + n_columns)
        each = x.transpose(2, 0, 1, 3).reshape(n_columns, n_rows * n_heads, 1, d_head)
        lengths = None if self.lengths is None else mx.array(self.lengths[held])
        turned = net.rotate(layer, each, mx.array(self.positions[held]), lengths, of=of)
        return turned.reshape(n_columns, n_rows, n_heads, d_head).transpose(1, 2, 0, 3)

    def clean_mask(self, net: Network, layer: int) -> Mask:
        """The mask of a whole pass: for one prompt the one that mlx-lm gives the layer."""
        if self.sees is None:
            return net.mask(layer, self.length)
        allowed = self.allowed(range(self.length), net.window(layer))
        return None if allowed is None else mx.array(allowed)

    def allowed(self, queries: Sequence[int], window: int | None) -> np.ndarray | None:
        """bool (query, column): what some columns may attend to; None where that is everything."""
        if self.sees is None and len(queries) == 1 and not (window and self.length > window):
            return None
        query = np.asarray(queries)
        sees = np.arange(self.length)[None] <= query[:, None] if self.sees is None else self.sees[query]
        if window:
            sees = sees & (self.positions[None] > self.positions[query][:, None] - window)
        return sees


def alone(tokens: Sequence[int], n_last: int = 1) -> Layout:
    """One prompt, of which the last so many tokens are asked for."""
    length = len(tokens)
    return Layout(np.array(tokens), np.arange(length), np.arange(length - n_last, length))


def together(prompts: Sequence[Sequence[int]], marks: Sequence[Sequence[Hashable]]) -> tuple[Layout, list[list[int]]]:
    """Prompts in one layout, and each prompt's columns, position by position.

    marks: something for each position of each prompt; what differs in it is kept apart, as different tokens are.
    """
    if len(prompts) == 1:
        return alone(prompts[0]), [list(range(len(prompts[0])))]
    column_of: dict[Hashable, int] = {}
    paths: list[list[int]] = [[] for _ in prompts]
    tokens: list[int] = []
    positions: list[int] = []
    for position in range(max(map(len, prompts))):
        for path, prompt, mark in zip(paths, prompts, marks, strict=True):
            if position >= len(prompt):
                continue
            node = (path[-1] if path else -1, prompt[position], mark[position])
            if node not in column_of:
                column_of[node] = len(tokens)
                tokens.append(prompt[position])
                positions.append(position)
            path.append(column_of[node])
    sees = np.zeros((len(tokens), len(tokens)), dtype=bool)
    lengths = np.zeros(len(tokens), dtype=int)
    for path in paths:
        lengths[path] = len(path)
        for i, column in enumerate(path):
            sees[column, path[: i + 1]] = True
    return Layout(np.array(tokens), np.array(positions), np.unique([path[-1] for path in paths]), sees, lengths), paths


def n_shared(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """How many items two sequences begin with in common."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    return min(len(one), len(other))


def columns_cost(net: Network, length: int) -> float:
    """Multiplications of a layer on so many columns, each of which meets all others in attention."""
    each = 4 * net.d_model**2 + (3 * net.d_model + ELEMENTWISE) * net.d_mlp
    return length * each + length**2 * pair_cost(net)


def pair_cost(net: Network) -> float:
    """Multiplications of a layer where one column meets another in attention."""
    return net.n_heads * (net.d_head + net.d_v) + ELEMENTWISE * net.n_heads
