"""Every variant of a sweep goes on writing: the sweep is the prompt pass, and all variants decode as one batch.

Each row's cache holds the clean run's keys and values where the row does not differ from it (layers below its entry,
positions before its start), and its own elsewhere. The batch is split when it would not fit the memory budget.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from mlx_interp.deferred import mx
from mlx_interp.engine.clean_run import Clean, entries_of, run_clean
from mlx_interp.engine.generate import Cache, Sampler, collect, go_on
from mlx_interp.engine.memory import default_budget
from mlx_interp.engine.network import Network
from mlx_interp.engine.plan import plan_edits
from mlx_interp.engine.prefix_tree import alone
from mlx_interp.engine.sweep import Progress, applies_late, batches
from mlx_interp.engine.sweep_batch import Sweep, make_groups
from mlx_interp.interventions import Intervention


def sweep_generate(
    net: Network,
    tokens: Sequence[int],
    variants: Sequence[Sequence[Intervention]],
    *,
    max_tokens: int,
    stop: Collection[int],
    sample: Callable[[Sequence[int]], Sampler],
    budget: int | None = None,
    progress: Progress | None = None,
) -> tuple[list[list[int]], list[bool]]:
    """See `Model.sweep_generate`. sample: rows (numbers of variants) -> their sampler."""
    length = len(tokens)
    plan = plan_edits(net, variants, [length] * len(variants), decodes=max_tokens > 1)
    reading, writing = plan.for_prompt(), plan.for_generated()
    entries = entries_of(reading, len(variants), net, length)
    whole = applies_late(reading, net.n_layers)
    layout = alone(tokens)
    clean = run_clean(net, layout, reading, entries, frozenset(), whole, cached=True)
    found: dict[int, tuple[list[int], bool]] = {}
    cached = _bytes_of_cache(net, length + max_tokens)
    for rows in batches(net, entries, length, budget or default_budget(), True, False, extra=cached):
        groups = make_groups(entries, rows, length)
        batch = Sweep(net, layout, reading, clean, groups, frozenset(), whole, keep=True)
        finals = [final[:, -1] for final in batch.run()]
        order = [row for group in batch.groups for row in group.rows]
        cache = _cache(batch, clean, length, room=max_tokens)
        steps = go_on(net, cache, net.unembed(mx.concatenate(finals)), writing.of_rows(order), sample(order))
        texts, stopped = collect(steps, len(order), max_tokens, stop)
        found |= dict(zip(order, zip(texts, stopped, strict=True), strict=True))
        if progress is not None:
            progress(len(found), len(variants))
    plan.check_fired()
    return [found[row][0] for row in range(len(variants))], [found[row][1] for row in range(len(variants))]


def _cache(batch: Sweep, clean: Clean, length: int, room: int) -> Cache:
    """The keys and values of all rows of a batch, group after group."""
    n_rows = sum(len(group.rows) for group in batch.groups)
    cache = Cache([length] * n_rows, length, room=room)
    for layer in batch.kept_k:
        for held, base, own in (
            (cache.k, clean.k[layer], batch.kept_k[layer]),
            (cache.v, clean.v[layer], batch.kept_v[layer]),
        ):
            held[layer] = mx.concatenate(
                [
                    _with_clean(base, x, len(group.rows))
                    if batch.network.attends(layer)
                    else mx.concatenate([x, mx.broadcast_to(base, (len(group.rows) - x.shape[0], *base.shape[1:]))])
                    for group, x in zip(batch.groups, own, strict=True)
                ]
            )
    return cache


def _with_clean(clean: mx.array, own: mx.array, n_rows: int) -> mx.array:
    """(row, kv head, pos, d_head) of a group: `own` (entered row, later pos, kv head, d_head), the clean run's else."""
    start = clean.shape[2] - own.shape[1]
    entered = own.transpose(0, 2, 1, 3)
    if start:
        before = mx.broadcast_to(clean[:, :, :start], (own.shape[0], clean.shape[1], start, clean.shape[3]))
        entered = mx.concatenate([before, entered], axis=2)
    waiting = mx.broadcast_to(clean, (n_rows - own.shape[0], *clean.shape[1:]))
    return mx.concatenate([entered, waiting])


def _bytes_of_cache(net: Network, n_slots: int) -> int:
    d_heads = [net.d_head_at(layer) + net.d_v_at(layer) for layer in range(net.n_layers) if net.attends(layer)]
    return sum(d_heads) * net.n_kv_heads * n_slots * net.dtype.size
