"""The clean run of a sweep: where each variant first differs from it, and what of it they need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mlx_interp.deferred import mx
from mlx_interp.engine.block import SEEN, Order, Step, block
from mlx_interp.engine.forward import HEADS_FIRST, Pass, joined
from mlx_interp.engine.host import on_host
from mlx_interp.engine.mixers import Visit
from mlx_interp.engine.network import Mask, Network
from mlx_interp.engine.pieces import Piece, first_layers
from mlx_interp.engine.plan import Blocked, Edit, EditPlan
from mlx_interp.engine.prefix_tree import Layout
from mlx_interp.sites import Site


@dataclass(frozen=True)
class Entry:
    """Where one variant begins to differ from the clean run."""

    start: int
    layer: int
    join: int
    """The layer's place of joining, as `block.Order` counts them."""


@dataclass
class Clean:
    """The clean run's activations, (1, pos, ...) each, as far as a sweep needs them."""

    orders: tuple[Order, ...]
    """The steps of each layer, in the clean run and in the variants that join it."""
    k: dict[int, mx.array] = field(default_factory=dict)
    v: dict[int, mx.array] = field(default_factory=dict)
    conv: dict[int, mx.array] = field(default_factory=dict)
    """By layer with a convolution: its inputs, those before the text (zeros) first."""
    recurrence: dict[int, tuple[mx.array, ...]] = field(default_factory=dict)
    """By layer with a state: all that changes it or reads it."""
    own: mx.array | None = None
    """Each layer's own input (1, pos, layer, d_ple), where a model has such."""
    at: dict[tuple[int, int], dict[str, mx.array]] = field(default_factory=dict)
    """By layer and place of joining: all that later steps read, at the positions that are held there."""
    captured: dict[Site, mx.array] = field(default_factory=dict)
    final: mx.array | None = None


def entry_of(edits: Sequence[tuple[Site, Edit]], blocked: Sequence[tuple[int, Blocked]], net: Network) -> Entry:
    """The first position and the first step of the forward pass that a variant changes."""
    steps = [
        (site.layer, net.order(site.layer).join_of[site.name]) if site.kind.layered else (net.n_layers, 0)
        for site, _ in edits
    ]
    steps += [(layer, net.order(layer).join_of["pattern"]) for layer, _ in blocked]
    starts = [edit.first for _, edit in edits] + [edges.first for _, edges in blocked]
    return Entry(min(starts), *min(steps))


def entries_of(plan: EditPlan, n_variants: int, net: Network, length: int) -> list[Entry]:
    """The entry of every variant; one without interventions enters at the end, where nothing is left to compute."""
    edits: dict[int, list[tuple[Site, Edit]]] = defaultdict(list)
    blocked: dict[int, list[tuple[int, Blocked]]] = defaultdict(list)
    for site, site_edits in plan.edits.items():
        for edit in site_edits:
            edits[edit.row].append((site, edit))
    for layer, forbidden in plan.blocked.items():
        for edges in forbidden:
            blocked[edges.row].append((layer, edges))
    nothing = Entry(length - 1, net.n_layers, 0)
    return [
        entry_of(edits[row], blocked[row], net) if row in edits or row in blocked else nothing
        for row in range(n_variants)
    ]


@dataclass
class _Columns:
    """The columns of a layout, as the text that the clean run reads; keys and values are kept."""

    layout: Layout
    clean: Clean
    cached: bool = False
    ends: mx.array | None = None
    """The prompts' last columns, once the others ask nothing any more."""

    def rotated(self, net: Network, layer: int, x: mx.array, name: str) -> mx.array:
        return self.rotated_from(net, layer, x, name, 0)

    def rotated_from(self, net: Network, layer: int, x: mx.array, name: str, first: int) -> mx.array:
        return self.layout.rotate(net, layer, x, first, of=name)

    def seen(self, layer: int, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array]:
        self.clean.k[layer], self.clean.v[layer] = k, v
        return k, v

    def convolved(self, net: Network, layer: int, x: mx.array) -> mx.array:
        made, inputs = net.convolved(layer, None, x)
        self.clean.conv[layer] = inputs
        if self.cached and not net.has_state:
            self.clean.k[layer], self.clean.v[layer] = inputs[:, x.shape[1] :], net.no_state(1)
        return made

    def recurred(self, net: Network, layer: int, inputs: Sequence[mx.array], visit: Visit | None) -> mx.array:
        self.clean.recurrence[layer] = tuple(inputs)
        mixed, state = net.recurred(layer, inputs) if visit is None else net.visited(layer, inputs, None, visit)
        if self.cached:
            self.clean.k[layer], self.clean.v[layer] = self.clean.conv[layer][:, inputs[0].shape[1] :], state
        return mixed

    def mask(self, net: Network, layer: int, n_queries: int) -> Mask:
        mask = self.layout.clean_mask(net, layer)
        if self.ends is None:
            return mask
        if isinstance(mask, mx.array):
            return mask[self.ends]
        allowed = self.layout.allowed(self.layout.ends.tolist(), net.window(layer))
        return None if allowed is None else mx.array(allowed)  # "causal" lets the last one see everything


@dataclass
class _CleanRun(Pass):
    """A pass that keeps what joining variants need, and drops the last layer's positions that nobody reads."""

    columns: _Columns = field(kw_only=True)
    needed: frozenset[tuple[int, int]] = field(kw_only=True)
    whole: bool = field(kw_only=True)

    def piece(self, text: Piece) -> _CleanRun:
        clean = Clean(self.columns.clean.orders)
        run = replace(self, text=text, held=text.places, captured={}, columns=replace(self.columns, clean=clean))
        run.orders = clean.orders
        return run

    def join(self, pieces: Sequence[Pass]) -> None:
        super().join(pieces)
        at = [piece.columns.clean.at for piece in pieces if isinstance(piece, _CleanRun)]
        self.columns.clean.at |= {place: joined([one[place] for one in at]) for place in at[0]}

    def entered(self, step: Step, layer: int, held: dict[str, mx.array]) -> None:
        if step.join is not None and (layer, step.join) in self.needed:
            self.columns.clean.at[layer, step.join] = {
                name: held[name].transpose(0, 2, 1, 3) if name in HEADS_FIRST else held[name] for name in step.live
            }

    def opened(self, name: str, layer: int, value: mx.array) -> mx.array:
        if (site := Site(name, layer)) in self.wanted:  # nothing is done to it
            value = value if self.relay is None else self.relay.shown(value)
            self.captured[site] = value.transpose(0, 2, 1, 3) if name in HEADS_FIRST else value
        return value

    def left(self, step: Step, layer: int, held: dict[str, mx.array]) -> None:
        if self.whole or layer < self.network.n_layers - 1:
            return
        ends = self.columns.ends = mx.array(self.columns.layout.ends)
        self.own = None if self.own is None else self.own[:, ends]
        for name in held.keys() - SEEN:
            held[name] = held[name][:, :, ends] if name in HEADS_FIRST else held[name][:, ends]


def run_clean(
    net: Network,
    layout: Layout,
    plan: EditPlan,
    entries: Sequence[Entry],
    captures: frozenset[Site],
    whole: bool,
    *,
    cached: bool = False,
) -> Clean:
    """The clean pass, as far as the variants of a plan need it.

    whole: also the last layer at every position. cached: keys and values of every layer, for a decode that follows.
    """
    clean = Clean(net.orders(frozenset(site.name for site in (*captures, *plan.edits))))
    columns = _Columns(layout, clean, cached)
    needed = frozenset((entry.layer, entry.join) for entry in entries)
    # Keys and values are read where a variant starts late, everything else up to where the last one enters.
    deepest = max(entry.layer for entry in entries)
    through = whole or cached or captures or any(entry.start for entry in entries)
    run = _CleanRun(
        net if cached else on_host(net),
        EditPlan(),
        [layout.length],
        captures,
        captured=clean.captured,
        text=columns,
        columns=columns,
        needed=needed,
        whole=whole,
    )
    run.orders = clean.orders
    x = layout.embed(net)
    clean.own = run.own = net.own_inputs(mx.array(layout.tokens)[None], x)
    n_layers = net.n_layers if through else min(deepest + 1, net.n_layers)
    x, done = first_layers(run, x, n_layers)
    for layer in range(done, n_layers):
        x = block(run, layer, x)
    if n_layers == net.n_layers:  # what no variant reads of this is never evaluated
        clean.final = run.site("final", -1, net.final(x))
    return clean
