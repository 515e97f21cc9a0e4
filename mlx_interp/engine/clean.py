"""The clean run of a sweep: where each variant first differs from it, and what of it they need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_interp.engine.layout import Layout
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import Blocked, Edit, EditPlan
from mlx_interp.sites import Site

# Where a variant joins a layer, and which clean activations it needs there: each needs what the layer has carried along
# up to that point. In the order of the layer's steps.
JOIN_OF = {
    "resid_pre": 0,
    "q": 1,
    "k": 1,
    "v": 1,
    "pattern": 1,
    "z": 2,
    "attn_out": 3,
    "resid_mid": 3,
    "mlp_act": 4,
    "mlp_out": 5,
    "resid_post": 5,
}


@dataclass(frozen=True)
class Entry:
    """Where one variant begins to differ from the clean run."""

    start: int
    layer: int
    join: int


@dataclass
class Clean:
    """The clean run's activations, (1, pos, ...) each, as far as a sweep needs them."""

    k: dict[int, mx.array] = field(default_factory=dict)
    v: dict[int, mx.array] = field(default_factory=dict)
    at: dict[tuple[int, str], mx.array] = field(default_factory=dict)
    captured: dict[Site, mx.array] = field(default_factory=dict)
    final: mx.array | None = None


def entry_of(edits: Sequence[tuple[Site, Edit]], blocked: Sequence[tuple[int, Blocked]], n_layers: int) -> Entry:
    """The first position and the first step of the forward pass that a variant changes."""
    steps = [(n_layers, 0) if site.name == "final" else (site.layer, JOIN_OF[site.name]) for site, _ in edits]
    steps += [(layer, JOIN_OF["pattern"]) for layer, _ in blocked]
    starts = [edit.first for _, edit in edits] + [block.first for _, block in blocked]
    return Entry(min(starts), *min(steps))


def entries_of(plan: EditPlan, n_variants: int, n_layers: int, length: int) -> list[Entry]:
    """The entry of every variant; one without interventions enters at the end, where nothing is left to compute."""
    edits: dict[int, list[tuple[Site, Edit]]] = defaultdict(list)
    blocked: dict[int, list[tuple[int, Blocked]]] = defaultdict(list)
    for site, site_edits in plan.edits.items():
        for edit in site_edits:
            edits[edit.row].append((site, edit))
    for layer, blocks in plan.blocked.items():
        for block in blocks:
            blocked[block.row].append((layer, block))
    nothing = Entry(length - 1, n_layers, 0)
    return [
        entry_of(edits[row], blocked[row], n_layers) if row in edits or row in blocked else nothing
        for row in range(n_variants)
    ]


def run_clean(
    net: Network,
    layout: Layout,
    entries: Sequence[Entry],
    captures: frozenset[Site],
    whole: bool,
    *,
    cached: bool = False,
) -> Clean:
    """The clean pass, as far as the variants need it.

    whole: also the last layer at every position. cached: keys and values of every layer, for a decode that follows.
    """
    clean = Clean()
    needed = {(entry.layer, entry.join) for entry in entries}
    # Keys and values are read where a variant starts late, everything else up to where the last one enters.
    deepest = max(entry.layer for entry in entries)
    through = whole or cached or captures or any(entry.start for entry in entries)
    x = layout.embed(net)
    for layer in range(net.n_layers):
        if layer > deepest and not through:
            break
        joins = {join for entry_layer, join in needed if entry_layer == layer}

        def keep(name: str, value: mx.array, *at_joins: int, joins: set[int] = joins, layer: int = layer) -> None:
            if joins & set(at_joins):
                clean.at[layer, name] = value
            if Site(name, layer) in captures:
                clean.captured[Site(name, layer)] = value

        keep("resid_pre", x, 0, 1, 2, 3)
        q, k, v = (a.transpose(0, 2, 1, 3) for a in net.qkv(layer, x))
        q, k = layout.rotate(net, layer, q), layout.rotate(net, layer, k)
        clean.k[layer], clean.v[layer] = k, v
        for name, a in (("q", q), ("k", k), ("v", v)):
            keep(name, a.transpose(0, 2, 1, 3), 1)
        last = layer == net.n_layers - 1 and not whole
        if last and not any(entry.layer >= layer for entry in entries):
            break  # nobody reads further than the last layer's keys and values
        mask = layout.clean_mask(net, layer)
        if last:  # only the last position is read from here on
            ends = mx.array(layout.ends)
            q, x = q[:, :, ends], x[:, ends]
            mask = mask[ends] if isinstance(mask, mx.array) else None  # "causal" lets the last one see everything
        if Site("pattern", layer) in captures:
            clean.captured[Site("pattern", layer)] = net.pattern(layer, q, k, mask).swapaxes(1, 2)
        z = net.attend(layer, q, k, v, mask).transpose(0, 2, 1, 3)
        keep("z", z, 2)
        if Site("head_out", layer) in captures:
            keep("head_out", net.head_out(layer, z))
        attn_out = net.attn_out(layer, z)
        keep("attn_out", attn_out, 3)
        x = net.add(x, attn_out)
        keep("resid_mid", x, 4, 5)
        act = net.mlp_act(layer, x)
        keep("mlp_act", act, 4)
        mlp_out = net.mlp_out(layer, act)
        keep("mlp_out", mlp_out, 5)
        x = net.add(x, mlp_out)
        keep("resid_post", x)
    else:
        clean.final = net.final(x)
        if Site("final", -1) in captures:
            clean.captured[Site("final", -1)] = clean.final
    return clean
