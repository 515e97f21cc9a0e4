"""Passes over what follows a beginning that prompts share: pairs that differ late, of which nothing earlier changes.

Under causal attention the beginning's keys and values are all that later positions read of it. They are computed once,
and later passes, with gradients or without, hold the positions behind them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.block import block
from mlx_interp.engine.forward import Pass, Prompts, forward
from mlx_interp.engine.gradients import Slopes, slopes_of
from mlx_interp.engine.host import on_host
from mlx_interp.engine.mixers import Visit
from mlx_interp.engine.network import Mask, Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.sites import Site

Rows: TypeAlias = Sequence[Sequence[int]]
"""Token ids of prompts of one length."""


@dataclass
class Start:
    """The text before some position of prompts of one length, as later positions read it."""

    n: int
    """Positions of it."""
    length: int
    """Tokens of the whole prompts."""
    k: dict[int, mx.array] = field(default_factory=dict)
    v: dict[int, mx.array] = field(default_factory=dict)

    def keep(self, layer: int, k: mx.array, v: mx.array) -> None:
        self.k[layer], self.v[layer] = k, v

    def repeated(self, times: int) -> Start:
        """Every row several times, next to each other."""
        if times == 1:
            return self
        k, v = ({layer: mx.repeat(x, times, axis=0) for layer, x in held.items()} for held in (self.k, self.v))
        return Start(self.n, self.length, k, v)

    # As the text that a pass over the later positions reads.

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        return net.rotate(layer, x, self.n, [self.length] * x.shape[0], of=name)

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        if not self.n:
            return k, v
        return mx.concatenate([self.k[layer], k], axis=2), mx.concatenate([self.v[layer], v], axis=2)

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        if not self.n:
            return net.mask(layer, n_queries)
        query, key = np.arange(self.n, self.length)[:, None], np.arange(self.length)[None]
        window = net.window(layer)
        return mx.array((key <= query) & (key > query - window) if window else key <= query)

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        return Prompts([self.length] * x.shape[0]).convolved(net, layer, x)

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        return Prompts([self.length] * inputs[0].shape[0]).recurred(net, layer, inputs, visit)


def shared_start(net: Network, *sides: Rows) -> Start:
    """What all sides begin with in common, row by row: never the last token, nothing where a layer holds a state."""
    first, *others = [np.array(rows) for rows in sides]
    differs = np.any([(other != first).any(axis=0) for other in others], axis=0)
    length = first.shape[1]
    n = 0 if net.recurrent else int(np.argmax(differs)) if differs.any() else length - 1
    start = Start(n, length)
    if n:
        lengths = [length] * len(first)  # RoPE may depend on those of the whole prompts
        forward(
            Pass(on_host(net), EditPlan(), lengths, text=Prompts(lengths, start.keep)), mx.array(first[:, :n]), "none"
        )
    return start


def later_tokens(start: Start, rows: Rows) -> mx.array:
    return mx.array(np.array(rows)[:, start.n :])


def embedded(net: Network, start: Start, tokens: mx.array) -> mx.array:
    """Later token ids (row, pos) -> what enters layer 0."""
    return net.embed(tokens, start.n)


def later_activations(net: Network, start: Start, tokens: mx.array, wanted: Sequence[Site]) -> dict[Site, mx.array]:
    """Activations at sites, of later positions, in the engine's axes."""
    run = Pass(on_host(net), EditPlan(), [tokens.shape[1]] * tokens.shape[0], frozenset(wanted), text=start)
    _through(run, start, tokens, embedded(net, start, tokens))
    return run.captured


def later_slopes(
    net: Network,
    start: Start,
    tokens: mx.array,
    embedding: mx.array,
    metric: Callable[[mx.array], mx.array],
    wanted: Sequence[Site],
) -> Slopes:
    """A metric (row,) of the logits at the end, differentiated by activations at later positions.

    embedding: what enters layer 0 (row, pos, d_model), which need not be that of the tokens.
    """

    def run(probes: dict[Site, mx.array]) -> tuple[mx.array, dict[Site, mx.array]]:
        lengths = [tokens.shape[1]] * tokens.shape[0]
        made = Pass(net, EditPlan(), lengths, frozenset(wanted), probes=probes, text=start)
        return net.unembed(_through(made, start, tokens, embedding)[:, -1]), made.captured

    return slopes_of(net, run, metric, wanted, tokens.shape)


def _through(run: Pass, start: Start, tokens: mx.array, x: mx.array) -> mx.array:
    """The residual stream through all layers and the last norm."""
    net = run.network
    run.own = net.own_inputs(tokens, embedded(net, start, tokens)) if net.d_ple else None
    for layer in range(net.n_layers):
        x = block(run, layer, x)
    return run.site("final", -1, net.final(x))
