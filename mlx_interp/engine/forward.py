"""One forward pass over a batch of prompts, with every site open for reading and changing.

Prompts of different lengths are padded on the right: under causal attention no real position sees a position after it,
so padding cannot enter any result. Without edits each operation is the one mlx-lm performs, on the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.apply_edits import apply_edits, blocked_mask
from mlx_interp.engine.block import Order, Step, block
from mlx_interp.engine.memory import LARGE, bytes_per_position
from mlx_interp.engine.mixers import Visit
from mlx_interp.engine.network import Mask, Network, seen
from mlx_interp.engine.pieces import Piece, first_layers
from mlx_interp.engine.plan import EditPlan
from mlx_interp.sites import Site

if TYPE_CHECKING:
    from mlx_interp.engine.stages import Relay

Logits = Literal["last", "all", "none"]
K = TypeVar("K")


class Text(Protocol):
    """Where the positions of a pass stand, and which keys and values they attend to; arrays are head before pos."""

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        """Queries or keys after RoPE."""
        ...

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        """All keys and values that there are to attend to, those of the pass included."""
        ...

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        """Which of them each query may attend to."""
        ...

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        """A convolution over the positions of the pass and those before it."""
        ...

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        """What queries read in the state that the text before the pass left, and that its positions change."""
        ...


@dataclass
class Prompts:
    """Whole prompts, each row from its first token on."""

    lengths: Sequence[int]
    keep: Callable[[int, mx.array, mx.array], None] | None = None
    """Gets what later tokens read of each layer, for a cache: its keys and values after their edits; or of a mixer,
    the last inputs of its convolution and its state."""
    last_inputs: dict[int, mx.array] = field(default_factory=dict)

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        return self.rotated_from(net, layer, x, name, 0)

    def rotated_from(self, net: Network, layer: int, x: mx.array, name: str, first: int) -> mx.array:
        return net.rotate(layer, x, first, self.lengths, of=name)

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        if self.keep is not None:
            self.keep(layer, k, v)
        return k, v

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        return net.mask(layer, n_queries)

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        made, inputs = net.convolved(layer, None, x)
        if self.keep is not None:
            ends = mx.array(list(self.lengths))[:, None] + mx.arange(inputs.shape[1] - x.shape[1])
            self.last_inputs[layer] = mx.take_along_axis(inputs, ends[..., None], axis=1)
            if not net.has_state:
                self.keep(layer, self.last_inputs[layer], net.no_state(x.shape[0]))
        return made

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        n_pos = inputs[0].shape[1]
        uneven = self.keep is not None and min(self.lengths) < n_pos  # a state must be that of the prompt's own end
        real = mx.arange(n_pos)[None] < mx.array(list(self.lengths))[:, None] if uneven else None
        if visit is None:
            mixed, state = net.recurred(layer, inputs, None, real)
        else:
            mixed, state = net.visited(layer, inputs, None, visit, real)
        if self.keep is not None:
            self.keep(layer, self.last_inputs.pop(layer), state)
        return mixed


HEADS_FIRST = frozenset({"q", "k", "v"})
"""Values that a pass holds as (batch, head, pos, d_head), as attention wants them; all others are (batch, pos, ...)."""
ROTATED = ("q", "k")
"""Sites that are read after RoPE."""


@dataclass
class Pass:
    """One pass under way: what it changes, and what it keeps. It carries one array a value through `block`."""

    network: Network
    plan: EditPlan
    lengths: Sequence[int]
    wanted: frozenset[Site] = frozenset()
    captured: dict[Site, mx.array] = field(default_factory=dict)
    own: mx.array | None = None
    """Each layer's own input (batch, pos, layer, d_ple), where a model has such."""
    lent: dict[int, tuple[mx.array, mx.array]] = field(default_factory=dict)
    """By layer: keys and values to which later layers attend."""
    text: Text | None = None
    """What it reads; None for prompts of these lengths."""
    probes: Mapping[Site, mx.array] = field(default_factory=dict)
    """What is added at sites, after their edits: the zeros that a metric is differentiated by."""
    held: range | None = None
    """Its positions of the text; None for all."""
    large: bool = False
    """Whether it takes long enough that a Ctrl-C is to be heard on the way."""

    def piece(self, text: Piece) -> Pass:
        """The same over some positions; what is asked for is everything before the last layer."""
        return replace(self, text=text, held=text.places, captured={})

    def join(self, pieces: Sequence[Pass]) -> None:
        """Keep what pieces have kept."""
        self.captured |= joined([piece.captured for piece in pieces])

    @property
    def relay(self) -> Relay | None:
        """As a carrier of `block`; with gradients each product is sent instead, so that they can come back."""
        return None if self.probes or not self.network.staged else self.network.relay

    @cached_property
    def reading(self) -> Text:
        return Prompts(self.lengths) if self.text is None else self.text

    @cached_property
    def orders(self) -> tuple[Order, ...]:
        """The steps of each layer, open where something is kept or changed."""
        return self.network.orders(frozenset(s.name for s in (*self.wanted, *self.probes, *self.plan.edits)))

    def order(self, layer: int) -> Order:
        return self.orders[layer]

    @cached_property
    def idle(self) -> bool:
        """Whether there is no site at which anything happens."""
        return not (self.wanted or self.probes or self.plan.edits)

    def site(self, name: str, layer: int, x: mx.array) -> mx.array:
        """An activation (batch, pos, ...) after the edits of its site, kept if it was asked for."""
        if self.idle:
            return x
        site = Site(name, layer)
        edits = self.plan.at(site)
        if (edits or site in self.wanted) and (relay := self.relay) is not None:
            x = relay.shown(x)
        if edits:
            x = apply_edits(x, edits, self.plan, lengths=self.lengths, held=self.held)
        if site in self.probes:
            x = x + self.probes[site].astype(x.dtype)
        if site in self.wanted:
            self.captured[site] = x
        return x

    def head_site(self, name: str, layer: int, x: mx.array) -> mx.array:
        """A site of (batch, pos, head, d_head) on an array that attention holds with head before pos."""
        if not self.touched(name, layer):
            return x
        edited = self.site(name, layer, x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
        # Rotated arrays lie in memory head by head. A BLAS may sum in another order where the rows of a matrix lie
        # further apart, so that an edit that changes nothing would change the last bit.
        return mx.contiguous(edited) if name in ROTATED and self.network.turns(layer) else edited

    def touched(self, name: str, layer: int) -> bool:
        if self.idle:
            return False
        site = Site(name, layer)
        return site in self.wanted or bool(self.plan.at(site))

    def changes(self, name: str, layer: int) -> bool:
        """Whether something is done to a site."""
        site = Site(name, layer)
        return bool(self.plan.at(site)) or site in self.probes

    # As a carrier of `block`.

    def each(self, step: Step, layer: int, *values: mx.array) -> tuple[mx.array, ...]:
        made = step.apply(self.network, layer, *values)
        if HEADS_FIRST.isdisjoint(step.makes):
            return made
        named = zip(step.makes, made, strict=True)
        return tuple(x.transpose(0, 2, 1, 3) if name in HEADS_FIRST else x for name, x in named)

    def turned(self, name: str, layer: int, value: mx.array) -> mx.array:
        return self.reading.rotated(self.network, layer, value, name)

    def attended(self, layer: int, q: mx.array, k: mx.array | None = None, v: mx.array | None = None) -> mx.array:
        net = self.network
        k, v = self.lent[net.kv_source(layer)] if k is None or v is None else self.reading.seen(layer, k, v)
        if layer in net.lenders:
            self.lent[layer] = k, v
        mask = self.reading.mask(net, layer, q.shape[2])
        z = net.attend(layer, q, k, v, mask)
        if self.touched("pattern", layer) or self.touched("scores", layer) or layer in self.plan.blocked:
            z = z + pattern_change(self, layer, q, k, v, mask).astype(z.dtype)
        return z.transpose(0, 2, 1, 3)

    def of_token(self, layer: int) -> mx.array:
        assert self.own is not None
        return self.own[:, :, layer]

    def convolved(self, layer: int, value: mx.array) -> mx.array:
        return self.reading.convolved(self.network, layer, value)

    def recurred(self, layer: int, *values: mx.array) -> mx.array:
        shown = StateSite(self, layer) if self.touched("state", layer) or self.changes("state", layer) else None
        mixed = self.reading.recurred(self.network, layer, values, shown)
        if shown is not None:
            shown.keep()
        return mixed

    def summed(self, step: Step, layer: int, *values: mx.array) -> mx.array:
        return step.apply(self.network, layer, *values)[0]

    def entered(self, step: Step, layer: int, held: dict[str, mx.array]) -> None:
        """Nobody joins a pass on its way."""

    def opened(self, name: str, layer: int, value: mx.array) -> mx.array:
        return self.head_site(name, layer, value) if name in HEADS_FIRST else self.site(name, layer, value)

    def left(self, step: Step, layer: int, held: dict[str, mx.array]) -> None:
        """All positions are kept."""


@dataclass
class StateSite:
    """The site of a state, open after each position: what is done there is in all that follow."""

    run: Pass
    layer: int
    seen: list[mx.array] = field(default_factory=list)

    def __call__(self, place: int, state: mx.array) -> mx.array:
        site, run = Site("state", self.layer), self.run
        shown = state.reshape(state.shape[0], 1, state.shape[1], -1)
        if edits := run.plan.at(site):
            shown = apply_edits(shown, edits, run.plan, lengths=[1] * shown.shape[0], held=[place])
        if site in run.probes:
            shown = shown + run.probes[site][:, place : place + 1]
        if run.changes("state", self.layer):
            state = shown.reshape(state.shape)
        self.seen.append(shown)
        return state

    def keep(self) -> None:
        site = Site("state", self.layer)
        if site in self.run.wanted:
            self.run.captured[site] = mx.concatenate(self.seen, axis=1)


def forward(run: Pass, tokens: mx.array, logits: Logits) -> mx.array | None:
    """Token ids (batch, pos) -> logits: (batch, d_vocab) at each prompt's end, (batch, pos, d_vocab), or None."""
    net = run.network
    x = net.embed(tokens)
    run.own = net.own_inputs(tokens, x)
    run.large = bytes_per_position(net) * tokens.size > LARGE and not run.probes
    x, done = first_layers(run, x, net.n_layers)
    for layer in range(done, net.n_layers):
        x = block(run, layer, x)
        if run.large:
            mx.eval(x, run.captured)  # Python sees a Ctrl-C only between evaluations
    x = run.site("final", -1, net.final(x))
    if logits == "none":
        return None
    return net.unembed(last_positions(x, run.lengths) if logits == "last" else x)


def pattern_change(
    run: Pass, layer: int, q: mx.array, k: mx.array, v: mx.array, mask: mx.array | str | None
) -> mx.array:
    """What edits of the pattern add to z: exactly zero where they change nothing, whatever kernel computed z."""
    net = run.network
    clean = pattern = net.pattern(layer, q, k, mask)
    allowed = _left_by_knockouts(run, layer, q.shape, k.shape[2], mask)
    if run.touched("scores", layer):
        scores = _scores_site(run, layer, net.scores(layer, q, k), seen(mask, q.shape[2]))
        if run.changes("scores", layer) or allowed is not None:
            pattern = net.softmax(layer, scores, seen(mask, q.shape[2], allowed))
    elif allowed is not None:
        pattern = net.pattern(layer, q, k, mask, allowed)
    edited = run.site("pattern", layer, pattern.swapaxes(1, 2)).swapaxes(1, 2)
    if allowed is None and not run.changes("pattern", layer) and not run.changes("scores", layer):
        return mx.zeros((1,), dtype=q.dtype)
    return net.mix(edited.astype(mx.float32) - clean.astype(mx.float32), v.astype(mx.float32))


def _left_by_knockouts(
    run: Pass, layer: int, shape: tuple[int, ...], n_keys: int, mask: mx.array | str | None
) -> mx.array | None:
    """What Knockouts leave allowed, bool (batch, head, query, key); None where there are none."""
    blocks = run.plan.blocked.get(layer)
    if not blocks:
        return None
    return blocked_mask(
        blocks,
        run.plan,
        n_rows=shape[0],
        n_heads=run.network.n_heads,
        queries=range(n_keys - shape[2], n_keys),
        n_keys=n_keys,
        blind=run.network.family.sinks is not None,
        sees=np.asarray(mask) if isinstance(mask, mx.array) else None,  # windows, and empty slots of a cache
    )


def _scores_site(run: Pass, layer: int, scores: mx.array, sees: mx.array | None) -> mx.array:
    """Scores (batch, kv head, heads a kv head, query, key) after the edits of their site."""
    shape, net = scores.shape, run.network
    shown = scores.reshape(shape[0], net.n_heads, *shape[3:])
    if sees is not None:
        shown = mx.where(sees, shown, mx.zeros((), shown.dtype))
    return run.site("scores", layer, shown.swapaxes(1, 2)).swapaxes(1, 2).reshape(shape)


def joined(pieces: Sequence[Mapping[K, mx.array]]) -> dict[K, mx.array]:
    """Activations (row, pos, ...) of pieces of a text, by name, in one."""
    return {name: mx.concatenate([piece[name] for piece in pieces], axis=1) for name in pieces[0]}


def last_positions(x: mx.array, lengths: Sequence[int]) -> mx.array:
    """(batch, pos, width) -> (batch, width) at each prompt's last position."""
    if len(set(lengths)) == 1:
        return x[:, lengths[0] - 1]
    return x[mx.arange(len(lengths)), mx.array([length - 1 for length in lengths])]
