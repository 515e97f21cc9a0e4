"""A sweep from end to end: plan the variants, run the clean prompt, run batches that fit, put the results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import Clean, Entry, entries_of, run_clean
from mlx_interp.engine.kept_run import KeptRun
from mlx_interp.engine.memory import bytes_per_variant, default_budget
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import EditPlan, plan_edits
from mlx_interp.engine.prefix_tree import alone
from mlx_interp.engine.sweep_batch import Sweep, make_groups
from mlx_interp.engine.wave import cut, in_waves
from mlx_interp.errors import ShapeError
from mlx_interp.interventions import Intervention
from mlx_interp.sites import Site

Metric: TypeAlias = "Callable[[mx.array], mx.array]"
SweptLogits: TypeAlias = Literal["last", "all", "none"] | int
"""Whose logits a sweep gives; a number: of the last so many tokens."""
Progress = Callable[[int, int], None]
"""Called with (variants done, variants in all) after each batch."""


@dataclass
class SweepResult:
    """Logits or metric of every variant, in the order given, and the sites that were asked for."""

    values: mx.array | None
    captured: dict[Site, mx.array] = field(default_factory=dict)


def sweep(
    net: Network,
    tokens: Sequence[int],
    variants: Sequence[Sequence[Intervention]],
    *,
    logits: SweptLogits = "last",
    captures: frozenset[Site] = frozenset(),
    metric: Metric | None = None,
    budget: int | None = None,
    progress: Progress | None = None,
    kept: KeptRun | None = None,
) -> SweepResult:
    """See `Model.sweep`."""
    length, n_layers = len(tokens), net.n_layers
    plan = plan_edits(net, variants, [length] * len(variants))
    entries = entries_of(plan, len(variants), net, length)
    whole = logits == "all" or bool(captures) or applies_late(plan, n_layers)
    n_last = min(logits, length) if isinstance(logits, int) else 1
    layout = alone(tokens, n_last)
    if n_last > 1:  # all of these positions are asked for, where a variant sets in behind them too
        entries = [replace(entry, start=min(entry.start, length - n_last)) for entry in entries]
    if kept is not None and not whole and n_last == 1 and kept.serves(tokens, plan):
        clean = kept.clean
    else:
        clean = run_clean(net, layout, plan, entries, captures, whole)
    values: list[mx.array] = []
    captured: dict[Site, list[mx.array]] = {site: [] for site in captures}
    order: list[int] = []
    beside = 3 * net.d_vocab * 4 * ((length if logits == "all" else n_last) - 1)
    for batch, finals in swept(
        net,
        batches(net, entries, length, budget or default_budget(), logits != "none", bool(captures), beside),
        lambda rows: Sweep(net, layout, plan, clean, make_groups(entries, rows, length), captures, whole),
    ):
        order += [row for group in batch.groups for row in group.rows]
        if logits != "none":
            if logits == "all":
                finals = [_with_clean_start(clean.final, final) for final in finals]
            elif n_last > 1:
                finals = [final[:, -n_last:] for final in finals]  # of a whole pass the last ones
            values.append(_values(net, finals, logits, metric))
        for site in captures:
            captured[site].append(_whole_captures(batch, site, clean))
        mx.eval(values, captured)
        if progress is not None:
            progress(len(order), len(variants))
    plan.check_fired()
    back = mx.argsort(mx.array(order))
    in_order = {site: mx.concatenate(parts)[back] for site, parts in captured.items()}
    return SweepResult(mx.concatenate(values)[back] if values else None, in_order)


def swept(
    net: Network, rows: Iterable[list[int]], batch: Callable[[list[int]], Sweep]
) -> Iterator[tuple[Sweep, list[mx.array]]]:
    """Batches and what their last norm gives, as a wave where layers are many processes."""
    relay = net.relay if net.staged else None
    parts = (batch(part) for some in rows for part in cut(some, relay))
    return in_waves(parts, Sweep.passed)


def batches(
    net: Network,
    entries: Sequence[Entry],
    length: int,
    budget: int,
    with_logits: bool,
    captures: bool,
    extra: int = 0,
) -> Iterator[list[int]]:
    """Rows that go together: those with equal starts first, as many as the budget holds, at least one.

    extra: bytes of each row beside its pass.
    """
    rows = sorted(range(len(entries)), key=lambda row: (entries[row].start, entries[row].layer, entries[row].join))
    batch: list[int] = []
    used = 0
    by_active: dict[int, int] = {}
    for row in rows:
        active = length if captures else length - entries[row].start
        if active not in by_active:
            by_active[active] = bytes_per_variant(net, length, active, with_logits) + extra
        needed = by_active[active]
        if batch and used + needed > budget:
            yield batch
            batch, used = [], 0
        batch.append(row)
        used += needed
    if batch:
        yield batch


def applies_late(plan: EditPlan, n_layers: int) -> bool:
    """Whether a function wants to see positions that the last layer would drop."""
    return any(
        edit.intervention.across and (site.layer in (-1, n_layers - 1))
        for site, edits in plan.edits.items()
        for edit in edits
    )


def _values(net: Network, finals: list[mx.array], logits: SweptLogits, metric: Metric | None) -> mx.array:
    """Logits of all rows, group after group; or what the metric makes of them."""
    if logits == "last":
        finals = [final[:, -1] for final in finals]
        values = net.unembed(finals[0] if len(finals) == 1 else mx.concatenate(finals))
    else:
        values = mx.concatenate([net.unembed(final) for final in finals])
    return measured(values, metric)


def measured(logits: mx.array, metric: Metric | None) -> mx.array:
    """What a metric makes of logits whose first axis is variants. Raises ShapeError if it loses that axis."""
    if metric is None:
        return logits
    values = metric(logits)
    n_rows = logits.shape[0]
    if not isinstance(values, mx.array) or values.ndim == 0 or values.shape[0] != n_rows:
        got = tuple(values.shape) if isinstance(values, mx.array) else type(values).__name__
        raise ShapeError(f"metric got logits {tuple(logits.shape)} and returned {got}; its first axis must be {n_rows}")
    return values


def _whole_captures(batch: Sweep, site: Site, clean: Clean) -> mx.array:
    """(row, pos, ...) of all groups' rows: the clean run's where a variant had not set in, its own from there on."""
    parts = []
    base = clean.captured[site]
    for index, x in batch.captured[site]:
        n_rows = len(batch.groups[index].rows)
        x = _with_clean_start(base, x)
        if x.shape[0] < n_rows:
            x = mx.concatenate([x, mx.broadcast_to(base, (n_rows - x.shape[0], *base.shape[1:]))])
        parts.append(x)
    return mx.concatenate(parts)


def _with_clean_start(clean: mx.array | None, x: mx.array) -> mx.array:
    """(row, later positions, ...) -> (row, pos, ...): positions before a group's start are the clean run's."""
    assert clean is not None
    start = clean.shape[1] - x.shape[1]
    if not start:
        return x
    return mx.concatenate([mx.broadcast_to(clean[:, :start], (x.shape[0], start, *clean.shape[2:])), x], axis=1)
