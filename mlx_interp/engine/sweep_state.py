"""A recurrence in a sweep: rows of all groups run through it together, each from where its variants first differ.

The clean run is the first row. A group sets in at its start with a copy of that row's state, as a variant joins the
other steps with copies of the clean run's activations; from there on its state is its own, to the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mlx_interp.deferred import mx
from mlx_interp.engine.mixers import Mixers, Scan

Visit: TypeAlias = "Callable[[int, int, mx.array], mx.array]"
"""(group, position, states of its rows after the position wrote) -> the states that go on."""


@dataclass
class Rows:
    """One group: where it starts, and what its rows put into the recurrence, (row, pos from the start on, ...) each."""

    start: int
    inputs: Sequence[mx.array]
    read: list[mx.array] = field(default_factory=list)

    @property
    def n(self) -> int:
        return int(self.inputs[0].shape[0])


def scan_groups(
    net: Mixers, layer: int, clean: Sequence[mx.array], groups: Sequence[Rows], visit: Visit | None
) -> tuple[list[mx.array], list[mx.array]]:
    """`mixed` (row, pos, value head, d_value) and the last state of each group, which are ordered by their start.

    clean: the clean run's queries, keys, values, and all else that changes the state, (1, pos, ...) each.
    """
    running = [Rows(group.start, net.wide(group.inputs)) if group.n else None for group in groups]
    first, scan = net.wide(clean), Scan(net.no_state(1), net.rule(layer))
    place: dict[int, slice] = {}
    for position in range(clean[0].shape[1] if any(running) else 0):
        for index, group in enumerate(running):
            if group is not None and group.start == position:
                end = scan.state.shape[0]
                place[index] = slice(end, end + group.n)
                copies = mx.broadcast_to(scan.state[:1], (group.n, *scan.state.shape[1:]))
                scan.state = mx.concatenate([scan.state, copies])
        here = [(running[index], at) for index, at in place.items()]
        inputs = [
            mx.concatenate([a[:, position], *[g.inputs[number][:, position - g.start] for g, _ in here if g]])
            for number, a in enumerate(first)
        ]
        mixed = scan.step(inputs, None if visit is None else _shown(visit, position, place))
        for one, at in here:
            assert one is not None
            one.read.append(mixed[at])
    read = [_read(net, group, one) for group, one in zip(groups, running, strict=True)]
    return read, [scan.state[place[index]] if index in place else net.no_state(0) for index in range(len(groups))]


def _shown(visit: Visit, position: int, place: dict[int, slice]) -> Callable[[mx.array], mx.array]:
    """Shows each group its rows' states, in the order in which they lie behind the clean run's."""

    def shown(state: mx.array) -> mx.array:
        return mx.concatenate([state[:1], *[visit(index, position, state[at]) for index, at in place.items()]])

    return shown


def _read(net: Mixers, group: Rows, running: Rows | None) -> mx.array:
    if running is not None:
        return mx.stack(running.read, axis=1)
    n_pos = group.inputs[0].shape[1]
    return mx.zeros((0, n_pos, net.state_sizes.n_heads, net.state_sizes.d_value), dtype=group.inputs[0].dtype)
