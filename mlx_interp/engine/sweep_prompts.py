"""The same variants on many prompts: each token that prompts begin with in common is computed once a variant.

1. Every intervention is resolved for each length of prompt, as a sweep over that prompt alone would.
2. Prompts are packed into layouts (prefix trees), as long as a larger layout is cheaper than two: shared tokens save
   whole layers, and short prompts of a small model the hundreds of calls that each sweep makes for itself, while
   attention meets columns of other prompts only to leave them out.
3. Tokens are shared only where every variant does the same to them, so that a column's edits are those of each of
   its prompts; an intervention that misses one prompt is an error, as it is alone. What reads across positions (a
   function, an edit of the pattern) is swept prompt by prompt, and so is all where a layer's state goes from position
   to position: a tree of prompts has no one order of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import entries_of, run_clean
from mlx_interp.engine.memory import default_budget
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import Blocked, Edit, EditPlan, Owner, plan_edits
from mlx_interp.engine.prefix_tree import Layout, columns_cost, n_shared, pair_cost, together
from mlx_interp.engine.sweep import Metric, Progress, batches, measured, sweep, swept
from mlx_interp.engine.sweep_batch import Sweep, make_groups
from mlx_interp.interventions import Intervention
from mlx_interp.sites import Site

SWEEP = 8e6
"""Multiplications of a layer that take as long as what a sweep does besides, once a layer whatever its size: calls of
Python and MLX, some 1.5 ms on a CPU. Beside one of Qwen 0.5B's layers on a dozen tokens it is next to nothing."""

Tokens = Sequence[int]


def sweep_prompts(
    net: Network,
    prompts: Sequence[Tokens],
    variants: Sequence[Sequence[Intervention]],
    *,
    metrics: Sequence[Metric] | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
) -> list[mx.array]:
    """What `sweep` returns for each prompt; `progress` counts variants times prompts."""
    plans = {length: plan_edits(net, variants, [length] * len(variants)) for length in {len(p) for p in prompts}}
    packed = _Prompts(net, prompts, plans, len(variants))
    found: dict[int, mx.array] = {}
    for members in packed.packs():
        if len(members) == 1:
            only = members[0]
            metric = None if metrics is None else metrics[only]
            values = sweep(net, prompts[only], variants, metric=metric, budget=budget).values
            assert values is not None
            found[only] = values
        else:
            some = None if metrics is None else [metrics[member] for member in members]
            found |= dict(zip(members, _sweep_pack(packed, members, len(variants), some, budget), strict=True))
        mx.eval(*found.values())
        if progress is not None:
            progress(len(found) * len(variants), len(prompts) * len(variants))
    return [found[number] for number in range(len(prompts))]


def _sweep_pack(
    packed: _Prompts, members: Sequence[int], n_variants: int, metrics: Sequence[Metric] | None, budget: int | None
) -> list[mx.array]:
    """Logits or metric of every variant on each of these prompts."""
    net = packed.net
    layout, plan, last = packed.joined(members)
    entries = entries_of(plan, n_variants, net, layout.length)
    clean = run_clean(net, layout, plan, entries, frozenset(), whole=False)
    values: list[list[mx.array]] = [[] for _ in members]
    order: list[int] = []
    logits = 3 * net.d_vocab * 4 * len(members)
    for batch, finals in swept(
        net,
        batches(net, entries, layout.length, budget or default_budget(), False, False, extra=logits),
        lambda rows: Sweep(net, layout, plan, clean, make_groups(entries, rows, layout.length), frozenset(), False),
    ):
        order += [row for group in batch.groups for row in group.rows]
        at_ends = net.unembed(mx.concatenate(finals))  # (variant, end, d_vocab)
        for number, end in enumerate(last):
            values[number].append(measured(at_ends[:, end], None if metrics is None else metrics[number]))
        mx.eval(values)
    plan.check_fired()
    back = mx.argsort(mx.array(order))
    return [mx.concatenate(parts)[back] for parts in values]


@dataclass(frozen=True, eq=False)
class _Prompts:
    """The prompts of a call, with what every variant does to each."""

    net: Network
    prompts: Sequence[Tokens]
    plans: dict[int, EditPlan]
    """By length of prompt."""
    n_variants: int

    @cached_property
    def marks(self) -> list[list[Hashable]]:
        """For each position of each prompt, where it stands in every list of positions that a variant names.

        And the regime of a RoPE that depends on a prompt's length: equal beginnings are not the same under two.
        """
        named = {length: _named(plan) for length, plan in self.plans.items()}
        names = dict.fromkeys(name for by_name in named.values() for name in by_name)
        families = dict.fromkeys(tuple(by_name.get(name, ()) for by_name in named.values()) for name in names)
        of_length: dict[int, list[Hashable]] = {}
        for number, length in enumerate(named):
            places = [{position: place for place, position in enumerate(family[number])} for family in families]
            regime = self.net.rope_regime(length)
            of_length[length] = [(regime, *(place.get(position) for place in places)) for position in range(length)]
        return [of_length[len(prompt)] for prompt in self.prompts]

    def packs(self) -> Iterator[list[int]]:
        """Numbers of prompts that are swept together."""
        if self.net.recurrent or any(_reads_across(plan) for plan in self.plans.values()):
            yield from ([number] for number in range(len(self.prompts)))
            return
        keys = [list(zip(prompt, marks, strict=True)) for prompt, marks in zip(self.prompts, self.marks, strict=True)]
        cost, pair = partial(columns_cost, self.net), pair_cost(self.net)
        pack: list[int] = []
        length = 0
        for number in sorted(range(len(keys)), key=lambda number: (list(self.prompts[number]), len(keys[number]))):
            own = len(keys[number])
            new = own - n_shared(keys[pack[-1]], keys[number]) if pack else own
            # Of what variants recompute, each end looks at the columns of all prompts, only to leave the others' out.
            looks = self.recomputed[own] * (length + len(pack) * new) * pair
            apart = cost(length) + cost(own)
            if pack and cost(length + new) > apart and cost(length + new) + looks > apart + SWEEP:
                yield pack
                pack, length, new = [], 0, own
            pack.append(number)
            length += new
        yield pack

    @cached_property
    def recomputed(self) -> dict[int, float]:
        """By length of prompt: positions that variants recompute, on average over layers."""
        n_layers = self.net.n_layers
        entries = {length: entries_of(plan, self.n_variants, self.net, length) for length, plan in self.plans.items()}
        return {
            length: sum((length - one.start) * max(n_layers - one.layer, 0) / n_layers for one in some)
            for length, some in entries.items()
        }

    def joined(self, members: Sequence[int]) -> tuple[Layout, EditPlan, list[int]]:
        """The layout of some prompts, what is done to its columns, and which of its ends is each prompt's."""
        prompts = [self.prompts[member] for member in members]
        layout, paths = together(prompts, [self.marks[member] for member in members])
        plans = {length: self.plans[length] for length in sorted({len(prompt) for prompt in prompts})}
        merge = _Merge(layout, paths)
        plan = EditPlan(owners=next(iter(plans.values())).owners)
        edits: dict[tuple[Site, Owner], dict[int, Edit]] = defaultdict(dict)
        blocks: dict[tuple[int, Owner], dict[int, Blocked]] = defaultdict(dict)
        for length, one in plans.items():
            for site, some in one.edits.items():
                for edit in some:
                    edits[site, edit.owner][length] = edit
            for layer, forbidden in one.blocked.items():
                for block in forbidden:
                    blocks[layer, block.owner][length] = block
        for (site, _), by_length in edits.items():
            plan.edits[site].append(merge.edit(by_length))
        for (layer, _), blocks_by_length in blocks.items():
            plan.blocked[layer].append(merge.block(blocks_by_length))
        return layout, plan, np.searchsorted(layout.ends, [path[-1] for path in paths]).tolist()


@dataclass(frozen=True, eq=False)
class _Merge:
    """Brings what is done to positions of prompts to the columns of their layout."""

    layout: Layout
    paths: Sequence[Sequence[int]]
    """Each prompt's columns."""

    def edit(self, by_length: dict[int, Edit]) -> Edit:
        some = next(iter(by_length.values()))
        many = some.value is not None and some.value.shape[0] > 1
        if some.positions is None:
            if not many:
                return some
            return replace(some, value=some.value[mx.array(self.layout.positions)])  # type: ignore[index]
        places = self._columns({length: edit.positions for length, edit in by_length.items()})
        columns = sorted(places)
        value = some.value[mx.array([places[column] for column in columns])] if many else some.value  # type: ignore[index]
        return replace(some, positions=tuple(columns), value=value)

    def block(self, by_length: dict[int, Blocked]) -> Blocked:
        query, keys = (
            self._columns({length: getattr(block, name) for length, block in by_length.items()})
            if getattr(next(iter(by_length.values())), name) is not None
            else None
            for name in ("query", "keys")
        )
        return replace(
            next(iter(by_length.values())),
            query=None if query is None else tuple(sorted(query)),
            keys=None if keys is None else tuple(sorted(keys)),
        )

    def _columns(self, by_length: dict[int, tuple[int, ...] | None]) -> dict[int, int]:
        """Each column that is named, with its place in the list of positions."""
        return {
            path[position]: place
            for path in self.paths
            for place, position in enumerate(by_length.get(len(path)) or ())
        }


def _named(plan: EditPlan) -> dict[Hashable, tuple[int, ...]]:
    """The positions of each intervention that names some."""
    found: dict[Hashable, tuple[int, ...] | None] = {}
    for edits in plan.edits.values():
        found |= {edit.owner: edit.positions for edit in edits}
    for blocks in plan.blocked.values():
        for block in blocks:
            found |= {(block.owner, "query"): block.query, (block.owner, "keys"): block.keys}
    return {name: positions for name, positions in found.items() if positions is not None}


def _reads_across(plan: EditPlan) -> bool:
    """Whether something looks at more than one position at once."""
    return any(site.kind.of_edges or edit.intervention.across for site, edits in plan.edits.items() for edit in edits)
