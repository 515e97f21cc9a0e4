"""States of many prompts at a few positions: what prompts begin with in common is computed once.

1. Prompts, sorted, are packed into prefix trees (prefix_tree.py), as long as a larger one is cheaper than two and fits
   the memory: a chat template, a system prompt, examples that stand in front are read once for all of them.
2. Prompts with too little in common go through padded batches, as in any run; so do all where a layer's state goes from
   position to position: a tree has no one order of them.
3. Of each pass the states at the positions asked for are copied to the host, in float32: the device keeps nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import Entry, run_clean
from mlx_interp.engine.forward import Pass, forward
from mlx_interp.engine.memory import bytes_of_run, rows_that_fit
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.engine.prefix_tree import columns_cost, n_shared, together
from mlx_interp.engine.shared_prefill import LONGEST, WORTH
from mlx_interp.sites import Site

Tokens = Sequence[int]


def shared_states(
    net: Network,
    prompts: Sequence[Tokens],
    wanted: Sequence[Site],
    positions: Sequence[Sequence[int]],
    *,
    budget: int,
) -> np.ndarray:
    """(n_prompts, n_sites, n_positions, width), float32: sites of one width at positions of each prompt.

    positions: for each prompt as many, counted from its start. budget: bytes that a pass may take.
    """
    found: dict[int, np.ndarray] = {}
    lonely: list[int] = []
    for members in _packs(net, prompts, wanted, budget):
        if len(members) == 1:
            lonely += members
        else:
            found |= _of_tree(net, prompts, members, wanted, positions)
    found |= _of_batches(net, prompts, sorted(lonely), wanted, positions, budget)
    return np.stack([found[number] for number in range(len(prompts))])


def _packs(net: Network, prompts: Sequence[Tokens], wanted: Sequence[Site], budget: int) -> Iterator[list[int]]:
    """Numbers of prompts that are read as one tree; one by itself where there is little to share."""
    if net.recurrent:
        yield from ([number] for number in range(len(prompts)))
        return
    pack: list[int] = []
    length = total = 0
    for number in [*sorted(range(len(prompts)), key=lambda number: list(prompts[number])), None]:
        own = new = 0
        if number is not None:
            own = len(prompts[number])
            new = own - (_shared(net, prompts[pack[-1]], prompts[number]) if pack else 0)
            longer = columns_cost(net, length + new) <= columns_cost(net, length) + columns_cost(net, own)
            fits = length + new <= LONGEST and bytes_of_run(net, 1, length + new, wanted, "none") <= budget
            if not pack or (longer and fits):
                pack.append(number)
                length, total = length + new, total + own
                continue
        if length <= WORTH * total:
            yield pack
        else:
            yield from ([member] for member in pack)
        pack, length, total = ([] if number is None else [number]), own, own


def _shared(net: Network, one: Tokens, other: Tokens) -> int:
    """How many tokens two prompts share: none where RoPE depends on a prompt's length and theirs differ in it."""
    return n_shared(one, other) if net.rope_regime(len(one)) == net.rope_regime(len(other)) else 0


def _of_tree(
    net: Network,
    prompts: Sequence[Tokens],
    members: Sequence[int],
    wanted: Sequence[Site],
    positions: Sequence[Sequence[int]],
) -> dict[int, np.ndarray]:
    some = [prompts[member] for member in members]
    layout, paths = together(some, [[net.rope_regime(len(prompt))] * len(prompt) for prompt in some])
    nothing = Entry(layout.length - 1, net.n_layers, 0)
    captured = run_clean(net, layout, EditPlan(), [nothing], frozenset(wanted), whole=True).captured
    columns = mx.array([[path[at] for at in positions[member]] for member, path in zip(members, paths, strict=True)])
    read = np.stack([np.asarray(captured[site][0][columns].astype(mx.float32)) for site in wanted], axis=1)
    return dict(zip(members, read, strict=True))


def _of_batches(
    net: Network,
    prompts: Sequence[Tokens],
    members: Sequence[int],
    wanted: Sequence[Site],
    positions: Sequence[Sequence[int]],
    budget: int,
) -> dict[int, np.ndarray]:
    found: dict[int, np.ndarray] = {}
    for fitting in rows_that_fit(net, [len(prompts[member]) for member in members], wanted, "none", budget):
        part = [members[index] for index in fitting]
        lengths = [len(prompts[member]) for member in part]
        under_way = Pass(net, EditPlan(), lengths, frozenset(wanted))
        padded = [
            [*prompts[member], *[0] * (max(lengths) - length)] for member, length in zip(part, lengths, strict=True)
        ]
        forward(under_way, mx.array(padded), "none")
        rows = mx.array([[positions[member][place] for place in range(len(positions[member]))] for member in part])
        states = [
            mx.take_along_axis(under_way.captured[site].astype(mx.float32), rows[:, :, None], axis=1) for site in wanted
        ]
        mx.eval(states)
        found |= dict(zip(part, np.stack([np.asarray(one) for one in states], axis=1), strict=True))
    return found
