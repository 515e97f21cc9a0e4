"""From interventions to edits: who changes what, at which row, layer and positions.

Every intervention of every row (a prompt of a batch, a variant of a sweep) is resolved against the model: one `Edit`
for each row and site. All user errors are raised here, before anything is computed. `apply_edits` then applies them,
and each reports to its plan: `EditPlan.check_fired` raises NeverFired for one that was not applied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mlx_interp import sites
from mlx_interp.deferred import mx
from mlx_interp.engine.network import Network
from mlx_interp.engine.positions import integers, resolve_heads, resolve_positions
from mlx_interp.engine.values import Fit, array_of, check_values, fitted, listed, named_array
from mlx_interp.errors import NeverFired, ShapeError, SiteError
from mlx_interp.interventions import Intervention, Interventions, Knockout
from mlx_interp.sites import Site

Owner = tuple[int, int]
"""(row or -1 for all rows, index of the intervention in its list)."""


SMALL = 1 << 16
"""Entries of an array up to which its copy costs less than a look at it alone."""


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
    """Broadcasts to (n_positions, [n_heads], width), or (n_positions, n_features); None where it has no array."""
    owner: Owner
    generated: bool = False
    """Applies to generated tokens only."""

    @property
    def first(self) -> int:
        return 0 if self.positions is None else min(self.positions)

    @cached_property
    def kind(self) -> Any:
        """Edits of one kind at a site are changed together."""
        intervention = self.intervention
        if intervention.across:
            return (type(intervention), self.row)
        n_positions, n_heads = (None if named is None else len(named) for named in (self.positions, self.heads))
        shape = None if self.value is None else tuple(self.value.shape)
        return (type(intervention), intervention.group(), n_positions, n_heads, shape)


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
    norms: list[tuple[mx.array, Intervention]] = field(default_factory=list)
    """Lengths of directions, checked together: to look at one means to wait for it."""
    arrays: list[tuple[mx.array, Intervention]] = field(default_factory=list)
    """Arrays as they were given, whose numbers must be finite; checked together as well."""
    made: list[tuple[mx.array, Intervention]] = field(default_factory=list)
    """Whether what a function made of finite numbers is finite: looked at once all is computed."""

    def at(self, site: Site) -> list[Edit]:
        return self.edits.get(site, [])

    def for_prompt(self) -> EditPlan:
        """The part that acts on prompts; what fires is counted here."""
        return self._part(lambda edit: not edit.generated)

    def for_generated(self) -> EditPlan:
        """The part that acts on generated tokens, one position at a time; what fires is counted here."""
        return self._part(_acts_on_generated)

    def of_rows(self, rows: Sequence[int]) -> EditPlan:
        """The part of some rows, which are numbered in this order from now on; what fires is counted here."""
        place = {row: number for number, row in enumerate(rows)}
        part = EditPlan(owners=self.owners, fired=self.fired, made=self.made)
        for site, edits in self.edits.items():
            if kept := [replace(edit, row=place[edit.row]) for edit in edits if edit.row in place]:
                part.edits[site] = kept
        for layer, blocks in self.blocked.items():
            if kept_blocks := [replace(block, row=place[block.row]) for block in blocks if block.row in place]:
                part.blocked[layer] = kept_blocks
        return part

    def _part(self, acts: Callable[[Edit | Blocked], bool]) -> EditPlan:
        part = EditPlan(owners=self.owners, fired=self.fired, made=self.made)
        for site, edits in self.edits.items():
            if kept := [edit for edit in edits if acts(edit)]:
                part.edits[site] = kept
        for layer, blocks in self.blocked.items():
            if kept_blocks := [block for block in blocks if acts(block)]:
                part.blocked[layer] = kept_blocks
        return part

    def check_fired(self) -> None:
        for owner, intervention in self.owners.items():
            if not self.fired[owner]:
                raise NeverFired(f"{intervention} touched nothing: none of its positions was computed")
        if self.made and not bool(mx.all(mx.stack([finite for finite, _ in self.made]))):
            wrong = next(intervention for finite, intervention in self.made if not finite)
            raise ShapeError(f"{wrong}: the function returned nan or inf; its activation was finite")


def plan_edits(
    network: Network,
    per_row: Sequence[Interventions],
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
    for row, interventions in enumerate(per_row):
        planner = _RowPlanner(plan, network, row, lengths, decodes, shared)
        for index, intervention in enumerate(listed(interventions)):
            check_values(intervention)
            owner = (-1 if shared else row, index)
            plan.owners[owner] = intervention
            intervention.plan(planner, owner)
    _refuse_untouched(plan, lengths)
    _refuse_no_direction(plan)
    _refuse_not_finite(plan)
    return plan


@dataclass
class _RowPlanner:
    """Resolves the interventions of one row, in their order."""

    plan: EditPlan
    network: Network
    row: int
    lengths: Sequence[int]
    decodes: bool
    shared: bool
    counts: Counter[Site] = field(default_factory=Counter)

    @property
    def routing(self) -> tuple[int, int]:
        return self.network.n_experts, self.network.n_chosen

    def edit(self, intervention: Any, owner: Owner) -> None:
        positions = resolve_positions(intervention.positions, self.lengths[self.row], intervention)
        generated = isinstance(intervention.positions, str)
        if positions == [] and not (generated and self.decodes):
            return
        where = None if generated or positions is None else tuple(positions)
        parsed = sites.parse(intervention.site, self.network.n_layers)
        named = self.network.there(parsed, intervention.site, intervention)
        _refuse_read_only(named[0], intervention)
        edit: Edit | None = None
        shape: object = None
        for site in named:
            order = self.counts[site]
            if shape != (shape := self.network.site_shape(site, 0)):  # of most models the same in every layer
                edit, (heads, value) = None, self._value(intervention, site, positions)
            if edit is None or edit.order != order:
                edit = Edit(self.row, order, intervention, where, heads, value, owner, generated)
            self.plan.edits[site].append(edit)
            self.counts[site] = order + 1

    def block(self, intervention: Any, owner: Owner) -> None:
        knockout: Knockout = intervention
        length = self.lengths[self.row]
        query, keys = (resolve_positions(spec, length, knockout) for spec in (knockout.query, knockout.keys))
        generated = isinstance(knockout.query, str)
        heads = resolve_heads(knockout.heads, self.network.n_heads, knockout)
        if keys == [] or (query == [] and not (generated and self.decodes)):
            return
        if query and keys and min(keys) > max(query):
            return  # every edge lies in the future: there is nothing to forbid
        named = f"layers={knockout.layers!r}"
        asked = _layers(knockout)
        layers = sites.parse_layers(asked, self.network.n_layers, context=named)
        patterns = [Site("pattern", layer) for layer in layers]
        selector = "pattern" if asked in ("", "all") else f"pattern.{asked}"
        for layer in [site.layer for site in self.network.there(patterns, selector, knockout)]:
            block = Blocked(
                self.row,
                query=None if generated or query is None else tuple(query),
                keys=None if keys is None else tuple(keys),
                heads=heads,
                owner=owner,
                generated=generated,
            )
            self.plan.blocked[layer].append(block)

    def _value(
        self, intervention: Any, site: Site, positions: list[int] | None
    ) -> tuple[tuple[int, ...] | None, mx.array | None]:
        """The heads that an intervention names, and its array in the shape in which it is applied."""
        length = self.lengths[self.row]
        n_heads, width = self.network.site_shape(site, length)
        n_heads, width = intervention.met(site, n_heads, width)
        asked = getattr(intervention, "heads", None)
        if n_heads == 0 and asked is not None:
            raise ShapeError(f"{intervention}: {site.name} has no heads; leave 'heads' out")
        heads = resolve_heads(asked, n_heads, intervention) if n_heads else None
        count = max(self.lengths) if positions is None else len(positions)
        # An array's batch axis runs over the rows that share it: a variant of a sweep is alone with its own.
        row, n_rows = (self.row, len(self.lengths)) if self.shared else (0, 1)
        fit = Fit(site, row, n_rows, count, None if heads is None else len(heads), n_heads, width)
        array = array_of(intervention)
        # Interventions that share an array (one direction at many sites) share what is made of it. One that was made
        # here, of something else than an array, may be gone before the next is made in its place: no name for it.
        own = array is None or array is not named_array(intervention)
        source = (id(intervention),) if own else (type(intervention), id(array), repr(asked))
        key = (
            source,
            fit if array is not None and array.ndim > 2 else (*fit.target, fit.n_heads, site.kind.of_edges),
        )
        if key not in self.plan.values:
            norms = self.plan.norms
            if array is not None:
                self.plan.arrays.append((array, intervention))
            self.plan.values[key] = (
                None
                if array is None
                else intervention.prepared(
                    fitted(array, intervention, fit), lambda norm: norms.append((norm, intervention))
                )
            )
        return heads, self.plan.values[key]


def _layers(knockout: Knockout) -> str:
    """A Knockout's layers as a selector."""
    if isinstance(knockout.layers, str):
        return knockout.layers
    if layers := integers(knockout.layers, f"layers of {knockout}"):
        return ",".join(map(str, layers))
    raise SiteError(f"{knockout}: the list of layers is empty; 'all' names all of them")


def _acts_on_generated(edit: Edit | Blocked) -> bool:
    """Whether it acts on tokens that are generated: those of every position do, if they say the same at each."""
    if isinstance(edit, Blocked):
        return edit.generated or edit.query is None
    if edit.positions is not None:
        return False
    return edit.value is None or edit.value.shape[0] == 1


def _refuse_read_only(site: Site, intervention: Intervention) -> None:
    if not site.kind.writable:
        raise SiteError(f"{intervention}: {site.name} is read only; change 'z', which it is made from")
    if site.kind.stepwise and intervention.across:
        raise SiteError(
            f"{intervention}: {site.name} is made position by position, so that no function sees several of them: "
            "Patch, Add, Scale and Ablate act on each"
        )


def _refuse_untouched(plan: EditPlan, lengths: Sequence[int]) -> None:
    planned = {edit.owner for edits in plan.edits.values() for edit in edits}
    planned |= {blocked.owner for blocks in plan.blocked.values() for blocked in blocks}
    for owner, intervention in plan.owners.items():
        if owner not in planned:
            tokens = " and ".join(str(n) for n in sorted(set(lengths)))
            raise NeverFired(f"{intervention} touches nothing: its positions are empty on prompts of {tokens} tokens")


def _refuse_no_direction(plan: EditPlan) -> None:
    if not plan.norms or _are_lengths(mx.concatenate([norm.reshape(-1) for norm, _ in plan.norms])):
        return
    wrong = next(intervention for norm, intervention in plan.norms if not _are_lengths(norm))
    raise ShapeError(f"{wrong}: a direction must be finite and not zero")


def _refuse_not_finite(plan: EditPlan) -> None:
    """A value that is no number makes every logit behind it none, and says so nowhere."""
    once = list({id(array): (array, intervention) for array, intervention in plan.arrays}.values())
    plan.arrays.clear()
    if once and not _all_finite([array for array, _ in once]):
        wrong = next(intervention for array, intervention in once if not _all_finite([array]))
        raise ShapeError(f"{wrong}: its {wrong.array} holds nan or inf; give finite numbers")


def _all_finite(arrays: Sequence[mx.array]) -> bool:
    """Whether all are: small ones, of which a sweep has thousands, are looked at as one."""
    floating = [array for array in arrays if mx.issubdtype(array.dtype, mx.floating)]
    small = [array.reshape(-1).astype(mx.float32) for array in floating if array.size <= SMALL]
    looked_at = [array for array in floating if array.size > SMALL] + ([mx.concatenate(small)] if small else [])
    return all(bool(mx.isfinite(array).all()) for array in looked_at)


def _are_lengths(norms: mx.array) -> bool:
    return bool(mx.all(mx.isfinite(norms) & (norms > 0)))
