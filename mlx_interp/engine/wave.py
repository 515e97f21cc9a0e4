"""Batches of a sweep as a wave through the stages of a pipeline: in every step each process works on another one.

A step lets a new batch set out, then those under way go on, the youngest first, and the oldest arrives. What a process
computes in a step reached it in the step before, so that all compute at the same time; only then somebody reads the
oldest's result, which the last process makes. All take the same steps: what they exchange has one order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from mlx_interp.deferred import mx

if TYPE_CHECKING:
    from mlx_interp.engine.stages import Relay

T = TypeVar("T")
Passing = Generator[None, None, "list[mx.array]"]
"""A batch's pass; it stops where another process goes on."""
CHUNKS = 2
"""Batches for each stage: the wave takes as many steps as there are stages to run full, and to run out."""
FEWEST = 4
"""Rows of a batch that is cut for the wave's sake."""


def cut(rows: list[int], relay: Relay | None) -> Iterator[list[int]]:
    """A batch in parts that travel behind each other; whole where one process has all layers."""
    if relay is None:
        yield rows
        return
    size = max(FEWEST, -(-len(rows) // (CHUNKS * relay.size)))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def in_waves(batches: Iterable[T], begun: Callable[[T], Passing]) -> Iterator[tuple[T, list[mx.array]]]:
    """Each batch with what its pass gives, in order."""
    waiting = iter(batches)
    under_way: list[tuple[T, Passing]] = []
    """The oldest first."""
    last = False
    while under_way or not last:
        young: list[tuple[T, Passing]] = []
        for batch in waiting:
            young.append((batch, begun(batch)))
            break
        else:
            last = True
        arrived = []
        for one in [*young, *reversed(under_way)]:
            finals = _stepped(one[1])
            if finals is not None:
                arrived.append((one, finals))
        under_way = [*under_way, *young]
        for one, finals in reversed(arrived):
            under_way = [other for other in under_way if other is not one]
            yield one[0], finals


def _stepped(passing: Passing) -> Any:
    """What a pass gives once it is through; None where it stopped on the way."""
    try:
        next(passing)
    except StopIteration as done:
        return done.value
    return None
