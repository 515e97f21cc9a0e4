"""A long text through the stages of a pipeline in pieces: while one process computes a piece, others have other ones.

Under causal attention a position reads nothing of later ones, so pieces can follow each other through the layers as a
wave (`wave.py`), each behind the keys and values of those before it. The last layer is computed as a whole: what a pass
drops there, or wants of its end, needs no case of its own.

Products of another shape may add in another order, so that numbers agree with those of a whole pass to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mlx_interp.deferred import mx
from mlx_interp.engine.block import block
from mlx_interp.engine.mixers import Visit
from mlx_interp.engine.network import Mask, Network
from mlx_interp.engine.wave import CHUNKS, Passing, in_waves

if TYPE_CHECKING:
    from mlx_interp.engine.forward import Pass

FEWEST = 128
"""Positions of a piece, over all rows: with fewer a layer's time goes into reading its weights."""
ACROSS = ("pattern", "scores", "state")
"""Sites that hold more than one position's share."""


@runtime_checkable
class Whole(Protocol):
    """A text from its first position on, which can be read in pieces."""

    def rotated_from(self, net: Network, layer: int, x: mx.array, name: str, first: int) -> mx.array:
        """Queries or keys of some positions, from the first one on, after RoPE."""
        ...

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]: ...

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask: ...


@dataclass
class Piece:
    """Some positions of a text, behind the keys and values of those before them: what a pass over them reads."""

    whole: Whole
    places: range
    last: bool
    k: dict[int, mx.array]
    """By layer, of all positions up to here; one dict for all pieces."""
    v: dict[int, mx.array]

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        return self.whole.rotated_from(net, layer, x, name, self.places.start)

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        if self.places.start:
            k, v = mx.concatenate([self.k[layer], k], axis=2), mx.concatenate([self.v[layer], v], axis=2)
        self.k[layer], self.v[layer] = k, v
        return self.whole.seen(layer, k, v) if self.last else (k, v)

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        mask = self.whole.mask(net, layer, self.places.stop)  # "causal" lets the last query see everything
        return mask[self.places.start : self.places.stop, : self.places.stop] if isinstance(mask, mx.array) else mask

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        raise AssertionError("a layer that reads of other positions by more than attention does not pass in stages")

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        raise AssertionError("a layer that reads of other positions by more than attention does not pass in stages")


def first_layers(run: Pass, x: mx.array, n_layers: int) -> tuple[mx.array, int]:
    """The stream (row, pos, d_model) behind some of the first layers, computed in pieces, and how many these are.

    None of them, and x as it is, where pieces are not worth while, or what is asked for needs all positions at once.
    n_layers: those that are to be computed at all.
    """
    n_layers = min(n_layers, run.network.n_layers - 1)
    pieces = _pieces(run, x)
    if len(pieces) < 2 or n_layers < 1:
        return x, 0
    passes = [run.piece(piece) for piece in pieces]

    def passed(one: Pass) -> Passing:
        return _passed(one, x[:, one.held.start : one.held.stop], n_layers)  # type: ignore[union-attr]

    behind = [found for _, (found,) in in_waves(passes, passed)]
    run.join(passes)
    return mx.concatenate(behind, axis=1), n_layers


def _pieces(run: Pass, x: mx.array) -> list[Piece]:
    relay, whole = run.relay, run.reading
    if relay is None or not isinstance(whole, Whole) or _needs_all(run):
        return []
    n_rows, n_positions, _ = x.shape
    size = max(-(-FEWEST // n_rows), -(-n_positions // (CHUNKS * relay.size)))
    k: dict[int, mx.array] = {}
    v: dict[int, mx.array] = {}
    return [
        Piece(whole, range(start, end := min(start + size, n_positions)), end == n_positions, k, v)
        for start in range(0, n_positions, size)
    ]


def _needs_all(run: Pass) -> bool:
    """Whether something is asked for that is not done position by position."""
    across = any(edit.intervention.across for edits in run.plan.edits.values() for edit in edits)
    return across or bool(run.plan.blocked) or any(site.name in ACROSS for site in (*run.wanted, *run.plan.edits))


def _passed(run: Pass, x: mx.array, n_layers: int) -> Passing:
    relay = run.relay
    assert relay is not None
    for layer in range(n_layers):
        x = block(run, layer, x)
        if run.large and relay.holds(layer):
            mx.eval(x, run.captured)  # Python sees a Ctrl-C only between evaluations
        if relay.ends_stage(layer):
            yield
    return [x]
