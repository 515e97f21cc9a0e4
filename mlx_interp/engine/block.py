"""A transformer block, step by step: what is computed of what, in which order, at which sites it is open, at what cost.

`tables.py` says it once. `block` carries values through it, for anyone who can carry them: a batch of prompts, the
clean run of a sweep, a sweep's variants, a pass along edges. What a sweep may share follows from it: a variant joins
behind the first product of weights that it changes, with clean copies of all that later steps read; and so does what
is left to compute.

A value is a site if `sites.KINDS` has its name. What nobody asks for is computed together with what reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from mlx_interp.deferred import mx

if TYPE_CHECKING:
    from mlx_interp.engine.network import Network
    from mlx_interp.engine.stages import Relay

T = TypeVar("T")


@dataclass(frozen=True)
class Extent:
    """How much of a prompt a layer computes."""

    positions: int
    """Where keys and values are computed."""
    queries: int
    """Where everything else is."""
    pairs: int
    """Of queries and keys."""
    layer: int = 0


@dataclass(frozen=True)
class Step:
    """One step of a layer: `makes` = function(`reads`)."""

    makes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    """Methods of `Network`, one after the other: (layer, what is read) -> what is made."""
    how: Literal["given", "token", "each", "sum", "attention", "convolution", "recurrence"] = "each"
    """What the layer is given, or has of the token; each position by itself, by weights; a sum; across positions."""
    turned: tuple[str, ...] = ()
    """What RoPE turns before anybody sees it."""
    inside: tuple[str, ...] = ()
    """Sites that are met within the step."""
    aside: bool = False
    """Nothing is computed from it: it is made where somebody asks for it."""
    flops: Callable[[Network, Extent], float] | None = None
    """Operations of its matrix products; None where there are none, so that nothing is saved by entering behind it."""
    join: int | None = None
    """Number of the place behind it where a variant may join (`Order` counts them)."""
    live: tuple[str, ...] = ()
    """What a variant that joins there needs of the clean run."""
    open: tuple[str, ...] = ()
    """What it makes that is a site."""
    parts: tuple[Step, ...] = ()
    """The same in smaller steps, which are taken where somebody asks for a site between them."""
    last_seen: bool = False
    """Whether all is made by now that attention reads of other positions: of all else, ends are enough from here on."""

    def apply(self, net: Network, layer: int, *values: mx.array) -> tuple[mx.array, ...]:
        """The step on plain arrays, each position by itself."""
        for name in self.functions:
            made: Any = getattr(net, name)(layer, *values)
            values = made if isinstance(made, tuple) else (made,)
        return values


SEEN = frozenset({"k", "v"})
"""What attention reads of other positions; of all else, the last layer's result needs a prompt's last position only."""


@dataclass(frozen=True)
class Order:
    """The steps of a layer as they are carried out, and what follows from them."""

    steps: tuple[Step, ...]
    join_of: dict[str, int]
    """Where a variant joins that changes a site first."""

    @cached_property
    def sites(self) -> frozenset[str]:
        """The sites of a layer."""
        return frozenset(name for step in self.steps for name in (*step.open, *step.inside))

    def flops(self, net: Network, extent: Extent, join: int = 0) -> float:
        """Operations of a layer, from behind a place of joining on."""
        return sum(step.flops(net, extent) for step in self.steps if step.flops and step.join and step.join > join)


def order_of(steps: tuple[Step, ...], named: frozenset[str]) -> Order:
    """The order that a table describes where these sites are asked for: hidden values fused with what reads them.

    Places of joining are counted alike whichever sites are named.
    """
    return _order(steps, named)


@lru_cache(maxsize=256)
def _order(steps: tuple[Step, ...], named: frozenset[str]) -> Order:
    placed: list[Step] = []
    join_of: dict[str, int] = {}
    join = -1
    seen = False
    fused = _fused([part for step in steps for part in _apart(step, named)], named)
    for number, step in enumerate(fused):
        join_of |= dict.fromkeys(step.inside, join)
        made = {name for earlier in fused[: number + 1] for name in earlier.makes}
        read = {name for later in fused[number + 1 :] for name in later.reads}
        if step.flops or step.how == "given":
            join += 1
            step = replace(step, join=join, live=tuple(sorted(made & read)))
        step = replace(step, open=tuple(name for name in step.makes if name in named))
        if not seen and not any(_of_all_positions(later, made) for later in fused[number + 1 :]):
            seen, step = True, replace(step, last_seen=True)
        if not step.aside:
            join_of |= dict.fromkeys(step.open, join)
        placed.append(step)
    return Order(tuple(placed), join_of)


def _of_all_positions(step: Step, made: set[str]) -> bool:
    """Whether a step that is still to come needs more of what was made than keys and values at all positions."""
    unread = step.how == "attention" and not made >= SEEN & set(step.reads)
    return unread or step.how in ("convolution", "recurrence") or bool(step.turned)


def _apart(step: Step, named: frozenset[str]) -> tuple[Step, ...]:
    """A step, or its parts where somebody asks for what is between them."""
    between = {name for part in step.parts for name in part.makes} - set(step.makes)
    return step.parts if between & named else (step,)


def _fused(steps: Sequence[Step], named: frozenset[str]) -> list[Step]:
    """Steps whose one result nobody sees, carried out together with the step that reads it."""
    hidden: dict[str, Step] = {}
    fused: list[Step] = []
    for step in steps:
        if step.how == "each" and (before := hidden.pop(step.reads[0], None)):
            step = replace(step, reads=before.reads, functions=before.functions + step.functions)
        readers = [later for later in steps if step.makes[0] in later.reads]
        alone = len(step.makes) == len(readers) == 1 and step.how == readers[0].how == "each"
        if alone and step.makes[0] not in named and len(readers[0].reads) == 1 and not step.flops:
            hidden[step.makes[0]] = step
        else:
            fused.append(step)
    return fused


class Carrier(Protocol[T]):
    """Who carries values through a layer; T is what it holds of one value (an array, an array a group, ...)."""

    @property
    def relay(self) -> Relay | None:
        """What hands the stream from process to process where each holds some layers (`stages.py`)."""
        ...

    def order(self, layer: int) -> Order:
        """The steps of a layer, open at the sites that somebody asks for."""
        ...

    def each(self, step: Step, layer: int, *values: T) -> tuple[T, ...]:
        """A step that treats each position by itself."""
        ...

    def turned(self, name: str, layer: int, value: T) -> T:
        """Queries or keys after RoPE."""
        ...

    def attended(self, layer: int, q: T, k: T | None = None, v: T | None = None) -> T:
        """z, with the pattern's site on the way. Without keys and values: an earlier layer's."""
        ...

    def convolved(self, layer: int, value: T) -> T:
        """A convolution's results, each of a position and some before it."""
        ...

    def recurred(self, layer: int, *values: T) -> T:
        """What a state gives that each position changes, with the state's site on the way."""
        ...

    def summed(self, step: Step, layer: int, *values: T) -> T:
        """The residual stream with what is added to it."""
        ...

    def of_token(self, layer: int) -> T:
        """A layer's own input, which depends on the token alone."""
        ...

    def touched(self, name: str, layer: int) -> bool:
        """Whether somebody asks for a site."""
        ...

    def entered(self, step: Step, layer: int, held: dict[str, T]) -> None:
        """Behind a product of weights, before its sites: where variants join."""
        ...

    def opened(self, name: str, layer: int, value: T) -> T:
        """A site's activation, after what is done to it."""
        ...

    def left(self, step: Step, layer: int, held: dict[str, T]) -> None:
        """Behind keys, values and their sites: where positions that nobody reads any more are dropped."""
        ...


def block(carrier: Carrier[T], layer: int, x: T) -> T:
    """One layer: residual stream in, residual stream out."""
    relay = carrier.relay
    if relay is None:
        return _through(carrier, layer, x)
    with relay.inside(layer):
        x = _through(carrier, layer, x, relay.blanked if relay.absent else None)
    return relay.departed(layer, x)


def _through(carrier: Carrier[T], layer: int, x: T, blanked: Callable[[T], T] | None = None) -> T:
    """The steps of a layer. blanked: puts nothing in the place of what each makes, where another process holds it."""
    held: dict[str, T] = {}
    for step in carrier.order(layer).steps:
        if step.aside and not carrier.touched(step.makes[0], layer):
            continue
        if step.how == "each":
            made = carrier.each(step, layer, *[held[name] for name in step.reads])
            if step.turned:
                named = zip(step.makes, made, strict=True)
                made = tuple(carrier.turned(name, layer, a) if name in step.turned else a for name, a in named)
            held.update(zip(step.makes, made, strict=True))
        elif step.how == "sum":
            held[step.makes[0]] = carrier.summed(step, layer, *[held[name] for name in step.reads])
        elif step.how == "attention":
            held[step.makes[0]] = carrier.attended(layer, *[held[name] for name in step.reads])
        elif step.how == "token":
            held[step.makes[0]] = carrier.of_token(layer)
        elif step.how == "convolution":
            held[step.makes[0]] = carrier.convolved(layer, held[step.reads[0]])
        elif step.how == "recurrence":
            held[step.makes[0]] = carrier.recurred(layer, *[held[name] for name in step.reads])
        else:
            held[step.makes[0]] = x
        if blanked is not None:
            held |= {name: blanked(held[name]) for name in step.makes}
        if step.join is not None:
            carrier.entered(step, layer, held)
        for name in step.open:
            held[name] = carrier.opened(name, layer, held[name])
        if step.last_seen:
            carrier.left(step, layer, held)
    return held["resid_post"]
