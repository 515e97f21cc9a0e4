"""Prefill in which what prompts begin with in common is read once: examples, a system prompt, a chat template.

The prompts' prefix tree is one sequence (prefix_tree.py); each row of the cache is its prompt's way through it. Nothing
may be done to the prompts: a change would differ from row to row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import Entry, run_clean
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan
from mlx_interp.engine.prefix_tree import Layout, n_shared, together

WORTH = 0.6
"""Columns over all prompts' tokens up to which one sequence is read in place of a batch: masks cost something too."""
LONGEST = 2048
"""Columns of one sequence: its attention grows with their square."""

KeysAndValues: TypeAlias = "dict[int, tuple[mx.array, mx.array]]"


def read_shared(net: Network, prompts: Sequence[Sequence[int]]) -> tuple[KeysAndValues, mx.array] | None:
    """Keys and values of every layer, (row, kv head, slot, d_head), and each prompt's logits (row, d_vocab).

    None where prompts have too little in common for it to be worth while, and where a layer's state goes from position
    to position: a tree has no one order of them. Slots behind a short prompt hold nothing that
    means anything, as padding does.
    """
    longest = max(map(len, prompts))
    if net.recurrent:
        return None
    if len(prompts) < 2 or _n_columns(net, prompts) > min(LONGEST, WORTH * sum(map(len, prompts))):
        return None
    layout, paths = together(prompts, [[net.rope_regime(len(prompt))] * len(prompt) for prompt in prompts])
    columns = mx.array([path + [0] * (longest - len(path)) for path in paths])
    nothing = Entry(layout.length - 1, net.n_layers, 0)
    clean = run_clean(net, layout, EditPlan(), [nothing], frozenset(), whole=False, cached=True)
    assert clean.final is not None
    kept = {layer: (_rows(clean.k[layer], columns), _rows(clean.v[layer], columns)) for layer in clean.k}
    return kept, net.unembed(clean.final[0])[_ends(layout, paths)]


def _n_columns(net: Network, prompts: Sequence[Sequence[int]]) -> int:
    """Columns of the prompts' layout, counted on the sorted prompts: neighbours share the most."""
    ordered = sorted(list(prompt) for prompt in prompts)
    shared = [
        n_shared(one, other) if net.rope_regime(len(one)) == net.rope_regime(len(other)) else 0
        for one, other in pairwise(ordered)
    ]
    return sum(map(len, prompts)) - sum(shared)


def _rows(kept: mx.array, columns: mx.array) -> mx.array:
    """(1, kv head, column, d_head) -> (row, kv head, slot, d_head)."""
    return kept[0][:, columns].swapaxes(0, 1)


def _ends(layout: Layout, paths: Sequence[Sequence[int]]) -> mx.array:
    return mx.array(np.searchsorted(layout.ends, [path[-1] for path in paths]))
