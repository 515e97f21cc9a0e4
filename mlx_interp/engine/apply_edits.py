"""The change itself: all edits of a site at once.

Edits of one kind and shape are gathered, changed and scattered together, whatever their number; edits of one row keep
their order. What an edit changes is said by its intervention, where it applies is resolved in `plan`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np

from mlx_interp.deferred import mx
from mlx_interp.engine.plan import Blocked, Edit, EditPlan
from mlx_interp.errors import ShapeError


def apply_edits(
    x: mx.array,
    edits: Sequence[Edit],
    plan: EditPlan,
    *,
    lengths: Sequence[int],
    held: Sequence[int] | None = None,
) -> mx.array:
    """An activation (row, pos, [head], width) after all edits of its site.

    lengths: each row's number of real positions in x (those after them are padding).
    held: which positions x holds, if not all; edits of others have no effect and count as fired.
    """
    for _, round_edits in groupby(sorted(edits, key=_order), key=_order):
        buckets: dict[Any, list[Edit]] = defaultdict(list)
        for edit in round_edits:
            plan.fired[edit.owner] += 1
            if shifted := _shifted(edit, held):
                buckets[shifted.kind].append(shifted)
        for bucket in buckets.values():
            x = _apply_bucket(x, bucket, lengths, plan)
    return x


_order = attrgetter("order")


def _shifted(edit: Edit, held: Sequence[int] | None) -> Edit | None:
    """The edit with positions counted within those that are held; None if it has none of them."""
    if held is None:
        return edit
    many = edit.value is not None and edit.value.shape[0] > 1
    if edit.positions is None:
        return replace(edit, value=edit.value[mx.array(list(held))]) if edit.value is not None and many else edit
    places = {position: place for place, position in enumerate(held)}
    kept = [i for i, position in enumerate(edit.positions) if position in places]
    if not kept:
        return None
    value = edit.value[mx.array(kept)] if edit.value is not None and many else edit.value
    return replace(edit, value=value, positions=tuple(places[edit.positions[i]] for i in kept))


def _apply_bucket(x: mx.array, bucket: list[Edit], lengths: Sequence[int], plan: EditPlan) -> mx.array:
    if bucket[0].intervention.across:
        return _apply_across(x, bucket[0], lengths[bucket[0].row], plan)
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
    """The new entries, (edit, position, [head], width)."""
    edits = [edit.intervention for edit in bucket]
    return type(edits[0]).changed(edits, old, _stack(bucket))


def _stack(bucket: list[Edit]) -> mx.array | None:
    value = bucket[0].value
    if value is None:
        return None
    if all(edit.value is value for edit in bucket) or len(bucket) == 1:
        return value[None]
    return mx.stack([edit.value for edit in bucket])  # type: ignore[misc]


def _apply_across(x: mx.array, edit: Edit, length: int, plan: EditPlan) -> mx.array:
    """One row's positions together, padding left out."""
    where: Any = slice(0, length) if edit.positions is None else mx.array(edit.positions)
    old = x[edit.row : edit.row + 1, where]
    new = type(edit.intervention).changed([edit.intervention], old, _stack([edit]))
    if not isinstance(new, mx.array) or new.shape != old.shape:
        got = tuple(new.shape) if isinstance(new, mx.array) else type(new).__name__
        raise ShapeError(
            f"{edit.intervention}: the function got {tuple(old.shape)} and returned {got}; shapes must agree"
        )
    if new.dtype in (mx.bool_, mx.complex64):
        raise ShapeError(f"{edit.intervention}: the function returned {new.dtype}; an activation holds real numbers")
    plan.made.append((mx.isfinite(new).all() | ~mx.isfinite(old).all(), edit.intervention))
    x = mx.array(x)
    x[edit.row : edit.row + 1, where] = new.astype(x.dtype)
    return x


def blocked_mask(
    blocks: Sequence[Blocked],
    plan: EditPlan,
    *,
    n_rows: int,
    n_heads: int,
    queries: Sequence[int],
    n_keys: int,
    blind: bool = False,
    sees: np.ndarray | None = None,
) -> mx.array:
    """Edges that remain allowed as far as Knockouts are concerned: bool (row, head, query, key).

    blind: whether a query may be left with nothing to attend to: where sinks take all of its attention.
    sees: bool, broadcasts to (row, head, query, key), what a query attends to by itself; None for all that does not
        come after it.
    """
    place = {query: number for number, query in enumerate(queries)}
    allowed = np.ones((n_rows, n_heads, len(queries), n_keys), dtype=bool)
    for block in blocks:
        plan.fired[block.owner] += 1
        chosen = range(len(queries)) if block.query is None else [place[q] for q in block.query if q in place]
        if not len(chosen):
            continue
        keys = range(n_keys) if block.keys is None else block.keys
        heads = range(n_heads) if block.heads is None else block.heads
        allowed[np.ix_([block.row], list(heads), list(chosen), list(keys))] = False
    if sees is None:
        sees = np.arange(n_keys)[None] <= np.array(queries)[:, None]
    if not blind:
        _refuse_blind(allowed, sees)
    return mx.array(allowed)


def _refuse_blind(allowed: np.ndarray, sees: np.ndarray) -> None:
    if not (allowed & sees).any(-1).all():
        raise ShapeError(
            "a Knockout leaves a query position with nothing to attend to; keep at least one key (its own)"
        )
