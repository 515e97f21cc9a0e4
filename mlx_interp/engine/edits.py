"""From interventions to edits: who changes what, at which row, layer and positions; and the change itself.

1. `plan_edits` resolves every intervention of every row (a prompt of a batch, a variant of a sweep) against the model:
   one `Edit` for each row and site. All user errors are raised here, before anything is computed.
2. `apply_edits` changes an activation (row, pos, ...) by all edits of its site at once: edits of one kind and shape are
   gathered, changed and scattered together, whatever their number. Edits of one row keep their order.
3. Each edit that is applied reports to its plan, and `EditPlan.check_fired` raises NeverFired for one that was not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_interp import sites
from mlx_interp.engine.network import Network
from mlx_interp.engine.positions import GENERATED, resolve_heads, resolve_positions
from mlx_interp.errors import NeverFired, ShapeError, SiteError
from mlx_interp.interventions import Ablate, Add, Apply, Intervention, Knockout, Patch, Scale
from mlx_interp.sites import Site

Owner = tuple[int, int]
"""(row or -1 for all rows, index of the intervention in its list)."""


@dataclass(frozen=True)
class Edit:
    """One intervention at one site of one row."""

    row: int
    order: int
    """Rank among the edits of its row at its site."""
    intervention: Intervention
    positions: tuple[int, ...] | None
    """None: every position."""
    heads: tuple[int, ...] | None
    value: mx.array | None
    """Broadcasts to (n_positions, [n_heads], width); None for Scale and Apply."""
    owner: Owner
    generated: bool = False
    """Applies to generated tokens only."""

    @property
    def first(self) -> int:
        return 0 if self.positions is None else min(self.positions)


@dataclass(frozen=True)
class Blocked:
    """Attention edges that one row's Knockout forbids in one layer; None for every query, key or head."""

    row: int
    query: tuple[int, ...] | None
    keys: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    owner: Owner
    generated: bool = False

    @property
    def first(self) -> int:
        return 0 if self.query is None else min(self.query)


@dataclass
class EditPlan:
    """All edits of a run, by site, and how often each intervention fired."""

    edits: dict[Site, list[Edit]] = field(default_factory=lambda: defaultdict(list))
    blocked: dict[int, list[Blocked]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[Owner, Intervention] = field(default_factory=dict)
    fired: Counter[Owner] = field(default_factory=Counter)
    values: dict[Any, mx.array | None] = field(default_factory=dict)
    """Arrays of interventions, checked and brought into shape once, not once a row and layer."""

    def at(self, site: Site) -> list[Edit]:
        return self.edits.get(site, [])

    def check_fired(self) -> None:
        for owner, intervention in self.owners.items():
            if not self.fired[owner]:
                raise NeverFired(f"{intervention} touched nothing: none of its positions was computed")


def plan_edits(
    network: Network,
    per_row: Sequence[Sequence[Intervention]],
    lengths: Sequence[int],
    *,
    shared: bool = False,
    decodes: bool = False,
) -> EditPlan:
    """Edits of every row's interventions on prompts of these lengths.

    shared: the rows have one list in common, so that each intervention counts once for all of them.
    decodes: tokens will be generated, so that positions "generated" make sense.
    Raises SiteError, PositionError, ShapeError, NeverFired.
    """
    plan = EditPlan()
    for row, (interventions, length) in enumerate(zip(per_row, lengths, strict=True)):
        counts: Counter[Site] = Counter()
        for index, intervention in enumerate(interventions):
            owner = (-1 if shared else row, index)
            plan.owners[owner] = intervention
            planner = _plan_knockout if isinstance(intervention, Knockout) else _plan_edit
            planner(plan, network, intervention, row, lengths, owner, counts, decodes)
    _refuse_untouched(plan, lengths)
    return plan


def _plan_edit(
    plan: EditPlan,
    network: Network,
    intervention: Any,
    row: int,
    lengths: Sequence[int],
    owner: Owner,
    counts: Counter[Site],
    decodes: bool,
) -> None:
    length, name = lengths[row], repr(intervention)
    positions = resolve_positions(intervention.positions, length, name)
    generated = intervention.positions == GENERATED if isinstance(intervention.positions, str) else False
    if positions == [] and not (generated and decodes):
        return
    for site in sites.parse(intervention.site, network.n_layers):
        if not site.kind.writable:
            raise SiteError(
                f"{name}: {site.name} is read only; change 'z' instead, it is what {site.name} is made from"
            )
        n_heads, width = site_shape(network, site, length)
        heads = resolve_heads(getattr(intervention, "heads", None), n_heads, name) if n_heads else None
        if n_heads == 0 and getattr(intervention, "heads", None) is not None:
            raise ShapeError(f"{name}: {site.name} has no heads; leave 'heads' out")
        count = length if positions is None else len(positions)
        value = _cached_value(
            plan,
            intervention,
            site,
            row,
            len(lengths),
            max(lengths) if positions is None else count,
            heads,
            n_heads,
            width,
        )
        edit = Edit(
            row,
            counts[site],
            intervention,
            None if generated or positions is None else tuple(positions),
            None if heads is None else tuple(heads),
            value,
            owner,
            generated,
        )
        plan.edits[site].append(edit)
        counts[site] += 1


def _plan_knockout(
    plan: EditPlan,
    network: Network,
    knockout: Knockout,
    row: int,
    lengths: Sequence[int],
    owner: Owner,
    _: Counter[Site],
    decodes: bool,
) -> None:
    length, name = lengths[row], repr(knockout)
    query, keys = (resolve_positions(spec, length, name) for spec in (knockout.query, knockout.keys))
    generated = isinstance(knockout.query, str)
    heads = resolve_heads(knockout.heads, network.n_heads, name)
    if keys == [] or (query == [] and not (generated and decodes)):
        return
    if query is not None and keys is not None and not generated and min(keys) > max(query):
        return  # every edge lies in the future: nothing there to forbid
    layers = (
        knockout.layers if isinstance(knockout.layers, (str, int)) else ",".join(map(str, knockout.layers))
    )
    for layer in sites.parse_layers(str(layers), network.n_layers, context=f"layers={knockout.layers!r}"):
        edges = (
            None if part is None else tuple(part) for part in (None if generated else query, keys, heads)
        )
        plan.blocked[layer].append(Blocked(row, *edges, owner, generated))  # type: ignore[arg-type]


def _refuse_untouched(plan: EditPlan, lengths: Sequence[int]) -> None:
    planned = {edit.owner for edits in plan.edits.values() for edit in edits}
    planned |= {blocked.owner for blocks in plan.blocked.values() for blocked in blocks}
    for owner, intervention in plan.owners.items():
        if owner not in planned:
            tokens = " and ".join(str(n) for n in sorted(set(lengths)))
            raise NeverFired(
                f"{intervention} touches nothing: its positions are empty on prompts of {tokens} tokens"
            )


def site_shape(network: Network, site: Site, length: int) -> tuple[int, int]:
    """(number of heads or 0, width) of a site; the width of a pattern is its number of keys."""
    if site.name == "pattern":
        return network.n_heads, length
    if site.name in ("q", "z"):
        return network.n_heads, network.d_head
    if site.name in ("k", "v"):
        return network.n_kv_heads, network.d_head
    if site.name == "head_out":
        return network.n_heads, network.d_model
    return 0, network.d_mlp if site.name == "mlp_act" else network.d_model


def _cached_value(
    plan: EditPlan, intervention: Any, site: Site, row: int, n_rows: int, *shape: Any
) -> mx.array | None:
    row_matters = (
        getattr(getattr(intervention, "value", getattr(intervention, "vector", None)), "ndim", 0) > 2
    )
    key = (id(intervention), site.name == "pattern", row if row_matters else -1, repr(shape))
    if key not in plan.values:
        plan.values[key] = _value(intervention, site, row, n_rows, *shape)
    return plan.values[key]


def _value(
    intervention: Any,
    site: Site,
    row: int,
    n_rows: int,
    count: int,
    heads: list[int] | None,
    n_heads: int,
    width: int,
) -> mx.array | None:
    """An intervention's array for one row, as something that broadcasts to (count, [heads], width)."""
    if isinstance(intervention, (Scale, Apply)):
        return None
    raw = {Patch: "value", Add: "vector", Ablate: "direction"}[type(intervention)]
    value = getattr(intervention, raw)
    value = value if isinstance(value, mx.array) else mx.array(np.asarray(value, dtype=np.float32))
    one_head = n_heads > 0 and isinstance(intervention.heads, (int, np.integer))
    n_chosen = len(heads) if heads is not None else n_heads
    target = (count, n_chosen, width) if n_heads else (count, width)
    if value.ndim == 0 and isinstance(intervention, Patch):
        return value.reshape((1,) * len(target))
    shown = tuple(value.shape)
    if site.name == "pattern" and value.ndim >= 3 and not one_head:
        value = value.swapaxes(-2, -3)
    if site.name == "pattern" and value.ndim == 2 and not one_head:
        value = mx.expand_dims(value, -2)
    elif one_head:
        value = mx.expand_dims(value, -2)
    if value.ndim == len(target) + 1 and value.shape[0] in (1, n_rows):
        value = value[row if value.shape[0] == n_rows else 0]
    value = value.reshape((1,) * (len(target) - value.ndim) + tuple(value.shape))
    fits = value.ndim == len(target) and value.shape[-1] == width and value.shape[0] in (1, count)
    if n_heads:
        fits = fits and value.shape[-2] in (1, n_chosen)
    if not fits:
        full = (n_rows, *(target if site.name != "pattern" else (n_chosen, count, width)))
        raise ShapeError(
            f"{type(intervention).__name__} at {site}: {raw} is {shown}, the site at these positions and heads is {full}; "
            f"give {_accepted(site, n_chosen, width, count)}"
        )
    if isinstance(intervention, Ablate):
        value = unit(value, str(site))
    return value


def _accepted(site: Site, n_heads: int, width: int, count: int) -> str:
    if site.kind.has_heads and site.name != "pattern":
        return f"({width},), ({n_heads}, {width}) or ({count}, {n_heads}, {width})"
    return f"({width},) for one position or all, or ({count}, {width}) for these {count}"


def unit(direction: mx.array, context: str) -> mx.array:
    """A direction at length 1, in float32. Raises ShapeError if it is zero or not finite."""
    direction = direction.astype(mx.float32)
    norm = mx.linalg.norm(direction, axis=-1, keepdims=True)
    if not bool(mx.all(mx.isfinite(norm) & (norm > 0))):
        raise ShapeError(f"{context}: a direction must be finite and not zero")
    return direction / norm


# The change itself.


def apply_edits(
    x: mx.array, edits: Sequence[Edit], plan: EditPlan, *, lengths: Sequence[int], offset: int = 0
) -> mx.array:
    """An activation (row, pos, [head], width) after all edits of its site.

    lengths: each row's number of real positions in x (those after them are padding).
    offset: which position of its prompt x's first position is; edits before it have no effect and count as fired.
    """
    for _, round_edits in groupby(sorted(edits, key=lambda edit: edit.order), key=lambda edit: edit.order):
        buckets: dict[Any, list[Edit]] = defaultdict(list)
        for edit in round_edits:
            plan.fired[edit.owner] += 1
            if shifted := _shifted(edit, offset):
                buckets[_bucket(shifted)].append(shifted)
        for bucket in buckets.values():
            x = _apply_bucket(x, bucket, lengths)
    return x


def _shifted(edit: Edit, offset: int) -> Edit | None:
    if not offset or edit.positions is None:
        return (
            edit
            if not offset or edit.value is None or edit.value.shape[0] == 1
            else _cut(edit, slice(offset, None), None)
        )
    kept = [i for i, position in enumerate(edit.positions) if position >= offset]
    if not kept:
        return None
    positions = tuple(edit.positions[i] - offset for i in kept)
    many = edit.value is not None and edit.value.shape[0] > 1
    return _cut(edit, mx.array(kept) if many else slice(None), positions)


def _cut(edit: Edit, rows: Any, positions: tuple[int, ...] | None) -> Edit:
    value = None if edit.value is None else edit.value[rows]
    return Edit(
        edit.row, edit.order, edit.intervention, positions, edit.heads, value, edit.owner, edit.generated
    )


def _bucket(edit: Edit) -> Any:
    """Edits with the same key are changed together."""
    if isinstance(edit.intervention, Apply):
        return (Apply, edit.row)
    n_positions = None if edit.positions is None else len(edit.positions)
    shape = None if edit.value is None else tuple(edit.value.shape)
    return (type(edit.intervention), n_positions, None if edit.heads is None else len(edit.heads), shape)


def _apply_bucket(x: mx.array, bucket: list[Edit], lengths: Sequence[int]) -> mx.array:
    if isinstance(bucket[0].intervention, Apply):
        return _apply_function(x, bucket[0], lengths[bucket[0].row])
    index = _index(bucket, x)
    new = _changed(x if index is None else x[index], bucket, x.ndim).astype(x.dtype)
    if index is None:
        return new
    x = mx.array(x)  # indexed assignment works in place: never on an array that somebody else holds
    x[index] = new
    return x


def _index(bucket: list[Edit], x: mx.array) -> Any:
    """What selects the bucket's (edit, position, [head]) entries of x; None if that is all of x."""
    rows = np.array([edit.row for edit in bucket])
    all_rows = len(rows) == x.shape[0] and np.array_equal(rows, np.arange(len(rows)))
    positions = None if bucket[0].positions is None else np.array([edit.positions for edit in bucket])
    if bucket[0].heads is not None:
        heads = np.array([edit.heads for edit in bucket])[:, None, :]
        where = np.arange(x.shape[1])[None] if positions is None else positions
        return (mx.array(rows[:, None, None]), mx.array(where[:, :, None]), mx.array(heads))
    if positions is not None:
        return (mx.array(rows[:, None]), mx.array(positions))
    return None if all_rows else mx.array(rows)


def _changed(old: mx.array, bucket: list[Edit], ndim: int) -> mx.array:
    """The new entries, (edit, position, [head], width); arithmetic in float32 where a sum could overflow."""
    first = bucket[0].intervention
    value = _stack(bucket)
    if isinstance(first, Patch):
        assert value is not None
        return mx.broadcast_to(value.astype(old.dtype), old.shape)
    if isinstance(first, Scale):
        factors = _numbers([edit.intervention.factor for edit in bucket], ndim)  # type: ignore[union-attr]
        return old * factors.astype(old.dtype)
    assert value is not None
    if isinstance(first, Add):
        numbers = [edit.intervention.scale for edit in bucket]  # type: ignore[union-attr]
        scales = _numbers(numbers, ndim)
        added = old + (scales * value.astype(mx.float32)).astype(old.dtype)
        return added if all(numbers) else mx.where(scales == 0, old, added)  # 0 * inf is no identity
    wide = old.astype(mx.float32)
    return wide - mx.sum(wide * value, axis=-1, keepdims=True) * value


def _stack(bucket: list[Edit]) -> mx.array | None:
    value = bucket[0].value
    if value is None:
        return None
    if all(edit.value is value for edit in bucket) or len(bucket) == 1:
        return value[None]
    return mx.stack([edit.value for edit in bucket])  # type: ignore[misc]


def _numbers(values: list[float], ndim: int) -> mx.array:
    return mx.array(values, dtype=mx.float32).reshape(-1, *(1,) * (ndim - 1))


def _apply_function(x: mx.array, edit: Edit, length: int) -> mx.array:
    function: Callable[[mx.array], mx.array] = edit.intervention.function  # type: ignore[union-attr]
    where: Any = slice(0, length) if edit.positions is None else mx.array(edit.positions)
    old = x[edit.row : edit.row + 1, where]
    new = function(old)
    if not isinstance(new, mx.array) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, mx.array) else type(new).__name__
        raise ShapeError(
            f"{edit.intervention}: the function got {tuple(old.shape)} and returned {got}; shapes must agree"
        )
    x = mx.array(x)
    x[edit.row : edit.row + 1, where] = new.astype(x.dtype)
    return x


def blocked_mask(
    blocks: Sequence[Blocked], plan: EditPlan, *, n_rows: int, n_heads: int, queries: range, n_keys: int
) -> mx.array:
    """Edges that remain allowed as far as Knockouts are concerned: bool (row, head, query, key)."""
    allowed = np.ones((n_rows, n_heads, len(queries), n_keys), dtype=bool)
    for block in blocks:
        plan.fired[block.owner] += 1
        chosen = (
            range(len(queries))
            if block.query is None
            else [q - queries.start for q in block.query if q in queries]
        )
        if not len(chosen):
            continue
        keys = range(n_keys) if block.keys is None else block.keys
        heads = range(n_heads) if block.heads is None else block.heads
        allowed[np.ix_([block.row], list(heads), list(chosen), list(keys))] = False
    _refuse_blind(allowed, blocks, queries)
    return mx.array(allowed)


def _refuse_blind(allowed: np.ndarray, blocks: Sequence[Blocked], queries: range) -> None:
    causal = np.arange(allowed.shape[-1])[None] <= np.array(queries)[:, None]
    if not (allowed & causal).any(-1).all():
        raise ShapeError(
            "a Knockout leaves a query position with nothing to attend to; keep at least one key (its own)"
        )
